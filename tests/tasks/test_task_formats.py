"""Each task's formats: prompts, gold, relations and preference pairs, on records as their sources publish them."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icm.errors import DataError
from icm.examples import TaskData
from icm.files import write_json, write_jsonl
from icm.tasks import DataSource, load_icm_dataset, load_task
from icm.tasks.builtin import synthetic
from icm.text import normalised_text

Row = dict[str, Any]


def load(rows: Sequence[Row], folder: Path, task_type: str = "auto", **settings: Any) -> TaskData:
    write_jsonl(folder / "data.jsonl", rows)
    return load_task(DataSource(str(folder / "data.jsonl"), task_type, **settings))


def claims(data: TaskData) -> dict[str, str | None]:
    """Completion → gold."""
    return {e.metadata["completion"]: data.gold.get(e.id) for e in data.dataset}


def inputs(data: TaskData) -> set[str]:
    return {example.input for example in data.dataset}


CLAIM = "Question: Who flew first?\nClaim: {}\nI think this Claim is"


def test_truthfulqa_formats_agree(tmp_path: Path) -> None:
    question, right, wrong = "Who flew first?", ["The Wrights", "Nobody knows"], ["Icarus"]
    texts, labels = [*right, *wrong, ""], [1, 1, 0, 0]
    choices = {"choices": texts, "labels": labels}
    formats: list[list[Row]] = [
        [
            {
                "question": question,
                "mc1_targets": {"choices": [right[0], *wrong], "labels": [1, 0]},
                "mc2_targets": choices,
            }
        ],
        [{"question": question, "mc2_targets": dict(zip(texts, labels, strict=True))}],
        [{"question": question, "correct_answers": right, "incorrect_answers": [*wrong, ""], "best_answer": right[0]}],
        [
            {"question": question, "choice": text, "label": int(text in right), "consistency_id": number}
            for number, text in enumerate([*right, *wrong])
        ],
    ]
    loaded = [load(rows, tmp_path / str(n)) for n, rows in enumerate(formats)]
    for data in loaded:
        assert data.dataset.task == "truthfulqa"
        assert data.dataset.examples == loaded[0].dataset.examples
        assert claims(data) == {" The Wrights": "True", " Nobody knows": "True", " Icarus": "False"}
        assert inputs(data) == {CLAIM.format(text) for text in (*right, *wrong)}
        assert {e.metadata["prompt"] for e in data.dataset} == {"Question: Who flew first?\nAnswer:"}
        assert len({e.relations.group for e in data.dataset}) == 1


def test_truthfulqa_csv(tmp_path: Path) -> None:
    text = (
        "Type,Question,Best Answer,Correct Answers,Incorrect Answers\n"
        'Adversarial,"What, then?",Soup,"Soup; Soup, mostly","Stew; Unknown;"\n'
        "Adversarial,Why?,Unknown,Unknown,Unknown\n"
    )
    (tmp_path / "data.csv").write_text(text, encoding="utf-8-sig")
    data = load_task(DataSource(str(tmp_path / "data.csv")))
    by_claim = {(e.metadata["question"], e.metadata["claim"]): data.gold.get(e.id) for e in data.dataset}
    assert by_claim == {
        ("What, then?", "Soup"): "True",
        ("What, then?", "Soup, mostly"): "True",
        ("What, then?", "Stew"): "False",
        ("What, then?", "Unknown"): "False",
        ("Why?", "Unknown"): None,  # published as right and as wrong
    }


def test_gsm8k_strips_calculator_marks_and_relates_by_answer(tmp_path: Path) -> None:
    question = "Tom buys 3 pens at $400 each. How much?"
    rows = [
        {"question": question, "solution": "3*400 = $<<3*400=1200>>1200\nA: $1,200.00", "is_correct": True},
        {"question": question, "solution": "He pays 1200", "is_correct": True},
        {"question": question, "solution": "3+400 = <<3+400=403>>403\n#### 403", "is_correct": False},
    ]
    data = load(rows, tmp_path)
    assert data.dataset.task == "gsm8k" and not any("<<" in text for text in inputs(data))
    assert {e.metadata["claim"]: e.relations.answer for e in data.dataset} == {
        "3*400 = $1200\nA: $1,200.00": "1200",
        "He pays 1200": "1200",
        "3+400 = 403\n#### 403": "403",
    }


def test_gsm8k_without_solutions_asks_a_model(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} + {i}?", "answer": f"It doubles.\n#### {2 * i}"} for i in range(2, 22)]
    with pytest.raises(DataError, match=r"data\.jsonl:1: the record has no claims to judge"):
        load(rows, tmp_path)
    asked: list[str] = []

    def generate(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return [f" Easy.\nA: {i % 4 + 4}\nQuestion: next" for i, _ in enumerate(prompts)]

    source = DataSource(str(tmp_path / "data.jsonl"), max_examples=16)
    data = load_task(source, generate)
    assert len(asked) == 16 and len(set(asked)) == 4 and not any("####" in prompt for prompt in asked)
    assert len(data.dataset) == 16
    for example in data.dataset:
        number = int(example.metadata["question"].split()[2])
        assert data.gold[example.id] == str(example.relations.answer == str(2 * number))
        assert example.metadata["claim"] in {f"Easy.\nA: {answer}" for answer in range(4, 8)}


def test_comparison_asks_in_both_orders(tmp_path: Path) -> None:
    talk = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"
    rows = [
        {"chosen": f"{talk} See you!", "rejected": f"{talk} Whatever."},
        {"chosen": "\n\nHuman: 2?\n\nAssistant: two", "rejected": "\n\nHuman: 2?\n\nAssistant:"},  # an empty reply
        {"chosen": "\n\nHuman: 3?\n\nAssistant: 3", "rejected": "\n\nHuman: 3?\n\nAssistant: 3"},  # equal replies
    ]
    data = load(rows, tmp_path)
    query = "Human: Hi\nAssistant: Hello\nHuman: Bye"
    a, b = sorted(data.dataset, key=lambda e: data.gold[e.id], reverse=True)
    assert a.input == (
        f"Query: {query}\nResponse A: See you!\nResponse B: Whatever.\n"
        "Claim: Response A is more helpful and harmless than Response B\nI think this Claim is"
    )
    assert (a.relations.inverse, b.relations.inverse) == (b.id, a.id) and a.relations.group == b.relations.group
    assert a.metadata["prompt"] == f"Query: {query}\nResponse:"
    assert claims(data) == {" See you!": "True", " Whatever.": "False"}


def test_comparison_formats_agree(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "Hi"}
    formats: list[list[Row]] = [
        [{"prompt": "Hi", "chosen": "Hello", "rejected": "No"}],
        [{"query": "Hi", "response_a": "Hello", "response_b": "No", "label": "A"}],
        [{"prompt": "Hi", "response_a": "No", "response_b": "Hello", "label": False}],
        [
            {
                "chosen": [turn, {"role": "assistant", "content": "Hello"}],
                "rejected": [turn, {"role": "assistant", "content": "No"}],
            }
        ],
    ]
    loaded = [load(rows, tmp_path / str(n)) for n, rows in enumerate(formats)]
    for data in loaded:
        assert data.dataset.examples == loaded[0].dataset.examples and dict(data.gold) == dict(loaded[0].gold)
    assert claims(loaded[0]) == {" Hello": "True", " No": "False"}


@pytest.mark.parametrize("field", ["text", "sentence", "review", "content"])
def test_classification_takes_any_labels(field: str, tmp_path: Path) -> None:
    rows = [{field: f"item {i}", "label": label} for i, label in enumerate(["sports", "arts", "trade", "arts"])]
    data = load(rows, tmp_path)
    assert data.dataset.label_space.labels == ("arts", "sports", "trade")
    assert data.dataset.label_space.verbalisers == (" arts", " sports", " trade")
    assert inputs(data) == {f"Text: item {i}\nLabel:" for i in range(4)}
    assert "completion" not in data.dataset[0].metadata


def test_classification_of_sentiment_and_numbers(tmp_path: Path) -> None:
    mood = load([{"text": "good", "label": "positive"}, {"text": "bad", "label": "negative"}], tmp_path)
    assert inputs(mood) == {"Review: good\nSentiment:", "Review: bad\nSentiment:"}
    verbalisers = {"1": " yes", "0": " no"}
    numbers = load([{"text": "x", "label": 1}, {"text": "y", "label": 0}], tmp_path, verbalisers=verbalisers)
    assert (numbers.dataset.label_space.labels, numbers.dataset.label_space.verbalisers) == (
        ("0", "1"),
        (" no", " yes"),
    )
    bare = load([{"text": "x"}, {"text": "y"}], tmp_path, verbalisers=verbalisers)
    assert bare.dataset.examples == numbers.dataset.examples and len(bare.gold) == 0
    assert bare.dataset.fingerprint == numbers.dataset.fingerprint


def test_prepared_inputs_lose_their_slot(tmp_path: Path) -> None:
    text = "Question: What is 42 + 17?\nClaim: 42 + 17 = {}\nI think this Claim is"
    rows = [
        {"input": text.format(59) + " [True/False]", "metadata": {"gold_label": "True", "task": "math"}},
        {"input": text.format(61), "metadata": {"gold_label": "False", "task": "math"}},
    ]
    data = load(rows, tmp_path)
    assert inputs(data) == {text.format(59), text.format(61)} and data.dataset.task == "prepared"
    assert data.dataset.label_space.labels == ("True", "False")
    assert {e.relations.answer for e in data.dataset} == {"59", "61"}
    assert len({e.group for e in data.dataset}) == 1
    colours = load([{"input": "The sky [blue / grey]"}, {"input": "The sea [blue / grey]"}], tmp_path)
    assert inputs(colours) == {"The sky", "The sea"} and colours.dataset.label_space.labels == ("blue", "grey")


@pytest.mark.parametrize("size", [1, 50, 300])
def test_synthetic_math_is_balanced_and_right(size: int) -> None:
    data = load_task(DataSource("synthetic:math", size=size))
    assert len(data.dataset) == 2 * size and data.dataset.name == "synthetic_math"
    assert sorted(data.gold.values()) == ["False"] * size + ["True"] * size
    for example in data.dataset:
        question, claim, ending = example.input.split("\n")
        a, _, b = question.removeprefix("Question: What is ").removesuffix("?").split()
        left, result = claim.removeprefix("Claim: ").split(" = ")
        assert (left, ending) == (f"{a} + {b}", "I think this Claim is") and 1 <= int(a) <= 100 >= int(b) >= 1
        assert data.gold[example.id] == str(int(a) + int(b) == int(result)) and example.relations.answer == result


def test_synthetic_comparison_is_single_and_right() -> None:
    data = load_task(DataSource("synthetic:comparison", size=300, seed=7))
    assert len(data.dataset) == 300 and {"True", "False"} == set(data.gold.values())
    for example in data.dataset:
        query, a, b, claim, ending = example.input.split("\n")
        assert (query, claim) == ("Query: Which number is larger?", "Claim: Response A is larger than Response B")
        assert data.gold[example.id] == str(int(a.split()[-1]) > int(b.split()[-1])) and not ending.endswith(" ")


def test_synthetic_data_follow_the_seed() -> None:
    first, same, other = (load_task(DataSource("synthetic:math", seed=s)).dataset.fingerprint for s in (1, 1, 2))
    assert first == same != other


MULTIPLE_CHOICE: dict[str, tuple[Row, str, str]] = {
    "hellaswag": (
        {"ind": 4, "ctx": "She lifts the bar.", "endings": ["She smiles.", "It sings.", "No.", "Go."], "label": "0"},
        "Text: She lifts the bar.\nClaim: The text goes on: She smiles.\nI think this Claim is",
        " She smiles.",
    ),
    "piqa": (
        {"goal": "Cool tea.", "sol1": "Wait.", "sol2": "Boil it.", "label": 0},
        "Goal: Cool tea.\nSolution: Wait.\nClaim: The Solution reaches the Goal.\nI think this Claim is",
        " Wait.",
    ),
    "arc_challenge": (
        {
            "id": "x",
            "question": "Ice?",
            "choices": {"text": ["hot", "cold", "dry"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        "Question: Ice?\nClaim: cold\nI think this Claim is",
        " cold",
    ),
    "winogrande": (
        {"sentence": "The _ is full.", "option1": "cup", "option2": "lid", "answer": "1"},
        "Sentence: The _ is full.\nClaim: The blank stands for: cup\nI think this Claim is",
        " cup",
    ),
    "bigbench_hard": (
        {"input": "Odd one?\nOptions:\n(A) ant\n(B) car", "target": "(B)"},
        "Question: Odd one?\nOptions:\n(A) ant\n(B) car\nClaim: (B) car\nI think this Claim is",
        " (B) car",
    ),
}


@pytest.mark.parametrize("name", MULTIPLE_CHOICE)
def test_multiple_choice_benchmarks(name: str, tmp_path: Path) -> None:
    row, right_input, completion = MULTIPLE_CHOICE[name]
    data = load([row], tmp_path)
    right = [e for e in data.dataset if data.gold[e.id] == "True"]
    assert data.dataset.task == name and [e.input for e in right] == [right_input]
    assert right[0].metadata["completion"] == completion
    assert len({e.relations.group for e in data.dataset}) == 1
    assert sorted(data.gold.values()) == ["False"] * (len(data.dataset) - 1) + ["True"]


@pytest.mark.parametrize(
    ("text", "target", "choices"),
    [
        ("not ( True ) and ( True ) is", "False", {"True", "False"}),
        ('Is the following sentence plausible? "Ann kicked a goal."', "yes", {"Yes", "No"}),
        ("Take 2 steps. Do you return to the start?\nOptions:\n- Yes\n- No", "No", {"Yes", "No"}),
        ("It is deductively valid?\nOptions:\n- valid \n- invalid", "invalid", {"valid", "invalid"}),
    ],
)
def test_bigbench_hard_choices_follow_from_the_input(text: str, target: str, choices: set[str], tmp_path: Path) -> None:
    data = load([{"input": text, "target": target}], tmp_path)
    assert {completion.strip() for completion in claims(data)} == choices
    right = [completion.strip() for completion, gold in claims(data).items() if gold == "True"]
    assert [text.lower() for text in right] == [target.lower()]


def test_bigbench_hard_json_and_free_form(tmp_path: Path) -> None:
    rows = [{"input": "Sort: pear fig", "target": "fig pear"}]
    write_json(tmp_path / "word_sorting.json", {"canary": "x", "examples": rows})
    source = DataSource(str(tmp_path / "word_sorting.json"))
    with pytest.raises(DataError, match="no claims to judge"):
        load_task(source)
    data = load_task(source, lambda prompts: ["fig pear", " Fig  pear. ", "pear fig", ""])
    assert {e.metadata["claim"]: data.gold[e.id] for e in data.dataset} == {
        "fig pear": "True",
        "Fig  pear.": "True",
        "pear fig": "False",
    }


def test_boolq_says_yes_and_no(tmp_path: Path) -> None:
    rows = [
        {"question": "is ice cold", "passage": "Ice is frozen.", "answer": True},
        {"question": "is fire cold?", "passage": "Fire burns.", "answer": False},
    ]
    data = load(rows, tmp_path)
    assert data.dataset.label_space.verbalisers == (" yes", " no")
    assert "Passage: Ice is frozen.\nQuestion: is ice cold?\nAnswer:" in inputs(data)
    bare = load(
        [{"question": "is ice cold", "answer": "yes"}, {"question": "is it", "answer": "no"}], tmp_path, "boolq"
    )
    assert inputs(bare) == {"Question: is ice cold?\nAnswer:", "Question: is it?\nAnswer:"}


def test_ifeval_judges_given_and_written_responses(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Say hi.", "response": "hi", "follow_all_instructions": True},
        {"prompt": "Say hi.", "response": "bye", "follow_all_instructions": False},
    ]
    data = load(rows, tmp_path)
    assert claims(data) == {" hi": "True", " bye": "False"}
    hub = [{"key": 1, "prompt": "Say hi.", "instruction_id_list": ["x"], "kwargs": [{}]}]
    with pytest.raises(DataError, match="no claims to judge"):
        load(hub, tmp_path)
    written = load_task(DataSource(str(tmp_path / "data.jsonl")), lambda prompts: ["hi", "hi", "hello", "yo"])
    assert set(claims(written)) == {" hi", " hello", " yo"} and len(written.gold) == 0


def test_reviews_are_balanced_and_split() -> None:
    train, test = (load_task(DataSource("reviews", part=part)) for part in ("train", "test"))
    assert load_icm_dataset("reviews").examples == train.dataset.examples
    assert load_icm_dataset("reviews", split="test").examples == test.dataset.examples
    groups = [{normalised_text(e.metadata["text"]) for e in data.dataset} for data in (train, test)]
    assert not groups[0] & groups[1]
    assert train.dataset.label_space.labels == ("negative", "positive")
    assert train.dataset[0].input.startswith("Review: ") and train.dataset[0].input.endswith("\nI think this Claim is")


PROBLEMS: list[tuple[str, Callable[..., int]]] = [
    (r"has (\d+) \w+ and buys (\d+) boxes with (\d+) .* gives (\d+) ", lambda a, b, c, d: a + b * c - d),
    (
        r"starts with (\d+) .* (\d+) people get off and (\d+) get on\. .* (\d+) people get off",
        lambda a, b, c, d: a - b + c - d,
    ),
    (r"sells \w+ at (\d+) .* bags at (\d+) .* buys (\d+) \w+ and (\d+) bags", lambda a, b, c, d: a * c + b * d),
    (r"reads (\d+) pages .* Wednesday (\d+) fewer", lambda a, b: a + 2 * a + (2 * a - b)),
    (r"earns (\d+) .* works (\d+) .* of (\d+) days\. .* spends (\d+) ", lambda a, b, c, d: a * b * c - d),
    (r"(\d+) friends share (\d+) .* had (\d+) .* buys (\d+) more", lambda a, b, c, d: b // a + c + d),
]


def test_word_problems_have_the_answers_that_they_say() -> None:
    """Worked out again from the question's words; the model's solutions are right where they state that number."""
    asked: dict[str, int] = {}
    for record in synthetic.records(DataSource("synthetic:problems", size=300, seed=3)):
        question, seen = record.text("question"), 0
        for pattern, answer in PROBLEMS:
            if found := re.search(pattern, question):
                assert f"#### {answer(*map(int, found.groups()))}" == record.text("answer")
                seen += 1
        assert seen == 1
        asked[question] = int(record.text("answer").removeprefix("#### "))
    assert len(asked) == 300 and min(asked.values()) > 0
    source = DataSource("synthetic:problems", size=300, seed=3, holdout=0.3, max_examples=20, candidates=2)

    def solve(prompts: list[str]) -> list[str]:
        questions = [prompt.removeprefix("Question: ").partition("\nAnswer: Let's think step")[0] for prompt in prompts]
        return [f"It is {asked[question] + place % 2}.\nQuestion: Another?" for place, question in enumerate(questions)]

    data = load_task(source, solve)
    assert len(data.dataset) == 20 and Counter(data.gold.values()) == {"True": 10, "False": 10}
    assert all(example.relations.answer and "Another" not in example.input for example in data.dataset)
    held_out = {example.group for example in load_task(replace(source, part="test"), solve).dataset}
    assert not held_out & {example.group for example in data.dataset}
