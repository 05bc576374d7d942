"""Labels of several tokens: the log-probabilities of whole sequences, at the cost of a small tree behind each query."""

from pathlib import Path

import numpy as np
import pytest
from support.engine_models import WORDS, Reviews, only, plain_label_scores, save_tiny_model, words_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from icm.config import EngineConfig, SearchConfig
from icm.engines.accounting import AccountingEngine
from icm.engines.transformers import TransformersEngine, _queries_behind
from icm.examples import ICMDataset, ICMExample, LabelSpace
from icm.models import resolve_model
from icm.prompts import LabelTrie, PromptEncoder, PromptTree, Tokenizer
from icm.search.scoring import Scorer
from icm.search.trees import draw_order

DEGREES = [
    f"{degree} {side}" for side in ("positive", "negative", "neutral", "mixed") for degree in ("very", "rather", "")
]
TOPICS = ("card", "cash", "transfer", "top up", "refund", "exchange", "account", "PIN")
TROUBLES = ("not working", "declined", "fee charged", "pending", "wrong amount")
SPACES = {
    "12 classes": [label.strip() for label in DEGREES],
    "40 classes": [f"{topic} {trouble}".replace(" ", "_") for topic in TOPICS for trouble in TROUBLES],
    "digits": list("0123456789"),
    "stars": ["1 star", *(f"{count} stars" for count in range(2, 6))],
    "one within another": ["1", "10", "11", "positive", "positive for now"],
}


def _messages(count: int, labels: list[str]) -> ICMDataset:
    rng = np.random.default_rng(count)
    texts = [" ".join(rng.choice(WORDS[:-4], size=rng.integers(6, 14))) for _ in range(count)]
    return ICMDataset([ICMExample(f"Message: {text}\nTopic:") for text in texts], LabelSpace(tuple(labels)), "messages")


def test_small_trees_behind_every_query(tmp_path: Path) -> None:
    """Labels that share beginnings, one that contains another, and one of a single token, on every kind of tree."""
    folder = save_tiny_model("llama", tmp_path)
    reviews = Reviews(words_tokenizer(), 12, seed=2)
    a, b, c = reviews.labels[0], reviews.labels[1], 9
    labels = LabelTrie(((a,), (a, b), (a, c, c), (b, a), (c, b, a, c)))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    counted = AccountingEngine()
    with TransformersEngine(EngineConfig(model=str(folder), dtype="float32", device="cpu")) as engine:
        for tree in (reviews.leave_one_out(8), reviews.leave_one_out(6, appended=3), reviews.leave_one_out(8)):
            found = engine.score_labels(tree, labels)
            np.testing.assert_allclose(found, plain_label_scores(model, tree, labels), atol=1e-4)
            counted.score_labels(tree, labels)
            assert counted.usage.computed_tokens == engine.usage.computed_tokens
        # Prefixes: a; a c; b; c; c b; c b a. The tree of contexts was kept, what belongs to a query was not.
        queries = sum(map(len, reviews.queries[:8])) + 8 * 6
        before = engine.usage.computed_tokens
        engine.score_labels(reviews.leave_one_out(8), labels)
        assert engine.usage.computed_tokens - before == queries


def test_labels_behind_a_query_are_computed_together() -> None:
    labels = LabelTrie(((5, 6, 7), (5, 8), (9, 9), (4,)))
    segment, parents, ends = _queries_behind(labels.expand(PromptTree((1, 2), query=0))) or ((), (), ())
    assert (segment, parents) == ((5, 6, 9), (-1, 0, -1))
    assert ends == ((0, 1), (1, 2), (2, 3))
    assert _queries_behind(PromptTree((1,), (PromptTree((2,)),), query=0)) is None  # a context behind a query


def test_bits_do_not_depend_on_company(tmp_path: Path) -> None:
    labels = LabelTrie(((5, 6), (5, 7), (8,), (9, 9, 9)))
    with TransformersEngine(EngineConfig(model=str(save_tiny_model("llama", tmp_path)), device="cpu")) as engine:
        tree = Reviews(engine.tokenizer, 12, seed=3).leave_one_out(12)
        together = engine.score_labels(tree, labels)
        alone = [engine.score_labels(branch, labels)[0] for row in range(12) if (branch := only(tree, row))]
        assert np.array_equal(together, alone)


def test_noise_of_the_accounting_engine_tells_queries_apart(tokenizer: Tokenizer) -> None:
    """All digits share their first token, so what is asked behind it decides."""
    scorer = Scorer(AccountingEngine(tokenizer), _messages(40, SPACES["digits"]), SearchConfig(shots=None))
    assert len(set(scorer.zero_shot(range(40)).argmax(axis=1))) > 5


@pytest.mark.parametrize(
    ("space", "sweep", "zero_shot", "one_by_one"),
    [("12 classes", 7706, 1064, 848_636), ("40 classes", 13_478, 5672, 3_325_304)],
)
def test_tokens_computed(space: str, sweep: int, zero_shot: int, one_by_one: int, tokenizer: Tokenizer) -> None:
    """64 messages: every prefix once a query, against a sequence for each query and label."""
    engine, dataset = AccountingEngine(tokenizer), _messages(64, SPACES[space])
    scorer = Scorer(engine, dataset, SearchConfig(shots=None))
    labels = {place: SPACES[space][place % len(SPACES[space])] for place in range(64)}
    order = draw_order(labels, np.random.default_rng(0))
    tree, sequences = scorer.trees(labels).leave_one_out(order), scorer.encoder.labels.sequences
    prefixes = {ids[:end] for ids in sequences for end in range(1, len(ids))}
    assert sum(len(prompt) + len(ids) - 1 for _, prompt in tree.paths() for ids in sequences) == one_by_one
    scorer.sweep(labels, order)
    assert engine.usage.computed_tokens == tree.tree_tokens + 64 * len(prefixes) == sweep
    scorer.zero_shot(range(64))
    queries = sum(len(scorer.encoder.query(example)) for example in dataset)
    assert engine.usage.computed_tokens - sweep == queries + 64 * len(prefixes) == zero_shot


@pytest.mark.slow
def test_smollm2_scores_whole_sequences() -> None:
    """Behind a demonstration."""
    folder = resolve_model("embedded")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with TransformersEngine(EngineConfig(dtype="float32", device="cpu")) as engine:
        for name in ("12 classes", "one within another"):
            labels = SPACES[name]
            dataset = _messages(2, labels)
            encoder = PromptEncoder(AutoTokenizer.from_pretrained(folder), dataset.label_space)
            scorer = Scorer(engine, dataset, SearchConfig(shots=None))
            assert any(len(ids) > 1 for ids in encoder.labels.sequences)
            assigned = {place: labels[place] for place in range(2)}
            tree = scorer.trees(assigned).leave_one_out(draw_order(assigned, np.random.default_rng(0)))
            expected = plain_label_scores(model, tree, encoder.labels)
            np.testing.assert_allclose(engine.score_labels(tree, encoder.labels), expected, atol=1e-4, err_msg=name)
