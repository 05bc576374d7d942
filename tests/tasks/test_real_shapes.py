"""Published files, a few records each in their true form: what loads at once, and what is said of the rest.

The text of the records is made up or shortened; names of files, fields and values are those of the source.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import pytest
from support.written_files import write

from icm.errors import ICMError
from icm.tasks import DataSource, load_task

Row = dict[str, object]


def lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(folder: Path, name: str, rows: Sequence[Row], classes: Sequence[str] = ()) -> None:
    data = datasets.Dataset.from_list(list(rows))
    if classes:
        data = data.cast_column("label", datasets.ClassLabel(names=list(classes)))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    data.to_parquet(str(folder / name))


def sst2(folder: Path) -> Path:
    """SST-2 as GLUE packs it (dl.fbaipublicfiles.com/glue/data/SST-2.zip)."""
    rows = ["sentence\tlabel", 'it \'s a "charming" and often affecting journey . \t1', "unflinchingly bleak \t0"]
    return write(folder, "SST-2/dev.tsv", "\n".join(rows))


def hellaswag(folder: Path) -> Path:
    """github.com/rowanz/hellaswag, data/hellaswag_val.jsonl."""
    row: Row = {
        "ind": 24,
        "activity_label": "Roof removal",
        "ctx_a": "A man sits on a roof.",
        "ctx_b": "he",
        "split": "val",
    }
    more: Row = {"ctx": "A man sits on a roof. he", "split_type": "indomain", "source_id": "activitynet~v_1"}
    endings: Row = {"label": 3, "endings": ["uses wrap.", "rips tiles off.", "holds a cube.", "pulls up roofing."]}
    return write(folder, "hellaswag_val.jsonl", lines([{**row, **more, **endings}]))


def boolq(folder: Path) -> Path:
    """github.com/google-research-datasets/boolean-questions, dev.jsonl."""
    row: Row = {"title": "Ethanol fuel", "passage": "All biomass goes through these steps."}
    questions = ("does ethanol take more energy to make", "is it made of corn")
    return write(folder, "dev.jsonl", lines([{"question": q, **row, "answer": q[0] == "i"} for q in questions]))


def winogrande(folder: Path) -> Path:
    """WinoGrande 1.1 (storage.googleapis.com/ai2-mosaic/public/winogrande), train_xs.jsonl."""
    row: Row = {
        "qID": "3QHI",
        "sentence": "Ian volunteered to eat Dennis's menudo because _ despised it.",
        "answer": "2",
    }
    return write(folder, "train_xs.jsonl", lines([{**row, "option1": "Ian", "option2": "Dennis"}]))


def piqa(folder: Path) -> Path:
    """PIQA 1.1 (yonatanbisk.com/piqa), train.jsonl: the labels stand in a file of their own."""
    row: Row = {"goal": "When boiling butter,", "sol1": "pour it onto a plate", "sol2": "pour it into a jar"}
    return write(folder, "train.jsonl", lines([row]))


def imdb(folder: Path) -> Path:
    """stanfordnlp/imdb as `hf download` leaves it."""
    for part, label in (("train", 0), ("test", 1), ("unsupervised", -1)):
        rows: list[Row] = [
            {"text": f"A {part} film.", "label": label},
            {"text": f"Another {part}.", "label": abs(label - 1)},
        ]
        if part == "unsupervised":
            rows = rows[:1]
        parquet(folder, f"imdb/plain_text/{part}-00000-of-00001.parquet", rows, ("neg", "pos"))
    split = "".join(f"  - split: {part}\n    path: plain_text/{part}-*\n" for part in ("train", "test", "unsupervised"))
    write(
        folder,
        "imdb/README.md",
        f"---\nconfigs:\n- config_name: plain_text\n  data_files:\n{split}  default: true\n---\n",
    )
    return folder / "imdb"


def hh_rlhf(folder: Path) -> Path:
    """Anthropic/hh-rlhf as `hf download` leaves it: a folder a configuration."""
    turn = "\n\nHuman: Can I sue my dentist?\n\nAssistant:"
    row: Row = {"chosen": f"{turn} You may be able to.", "rejected": f"{turn} No."}
    for name in ("harmless-base", "helpful-base"):
        write(folder, f"hh-rlhf/{name}/train.jsonl.gz", gzip.compress(lines([row]).encode()))
        write(folder, f"hh-rlhf/{name}/test.jsonl.gz", gzip.compress(lines([row]).encode()))
    write(folder, "hh-rlhf/README.md", "---\nlicense: mit\n---\n# HH-RLHF\n")
    return folder / "hh-rlhf"


def emotion(folder: Path) -> Path:
    """dair-ai/emotion as `hf download` leaves it: two configurations in the card, one the default."""
    rows: list[Row] = [{"text": "i feel low", "label": 0}, {"text": "i feel fine", "label": 1}]
    for name in ("split/train", "split/validation", "split/test", "unsplit/train"):
        parquet(folder, f"emotion/{name}-00000-of-00001.parquet", rows, ("sadness", "joy"))
    parts = "".join(f"  - split: {part}\n    path: split/{part}-*\n" for part in ("train", "validation", "test"))
    unsplit = "- config_name: unsplit\n  data_files:\n  - split: train\n    path: unsplit/train-*\n"
    card = f"configs:\n- config_name: split\n  data_files:\n{parts}  default: true\n{unsplit}"
    write(folder, "emotion/README.md", f"---\n{card}---\n")
    return folder / "emotion"


def rotten_tomatoes(folder: Path) -> Path:
    """cornell-movie-review-data/rotten_tomatoes as `hf download` leaves it: files in the folder itself."""
    rows: list[Row] = [
        {"text": "a gorgeous film", "label": 1},
        {"text": "simplistic , silly and tedious .", "label": 0},
    ]
    for part in ("train", "validation", "test"):
        parquet(folder, f"rotten_tomatoes/{part}.parquet", rows, ("neg", "pos"))
    return folder / "rotten_tomatoes"


def reward_bench(folder: Path) -> Path:
    """allenai/reward-bench: the splits `filtered` and `raw`; without the first, one that no stage is called after."""
    row: Row = {
        "prompt": "How do I cook rice?",
        "chosen": "Boil it.",
        "rejected": "Fry the bag.",
        "subset": "alpacaeval",
    }
    parquet(folder, "reward-bench/data/filtered-00000-of-00001.parquet", [row])
    return folder / "reward-bench"


def ag_news(folder: Path) -> Path:
    """AG News as Zhang et al. (2015) publish it: train.csv without a header."""
    return write(
        folder, "ag_news_csv/train.csv", '"3","Wall St. Bears","Short-sellers are back."\n"4","Space","A probe."\n'
    )


def sentiment140(folder: Path) -> Path:
    """Sentiment140 (cs.stanford.edu/people/alecmgo): Latin-1 and no header."""
    row = '"{}","1467810369","Mon Apr 06 2009","NO_QUERY","user","caf\xe9 closed"\n'
    return write(folder, "training.1600000.processed.noemoticon.csv", (row.format(0) + row.format(4)).encode("latin-1"))


def ultrafeedback(folder: Path) -> Path:
    """HuggingFaceH4/ultrafeedback_binarized as `hf download` leaves it: splits of other names."""
    turns = [{"role": "user", "content": "Name a fruit."}]
    reply: Row = {name: [*turns, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    for split in ("train_prefs", "test_prefs", "train_sft"):
        parquet(folder, f"ultrafeedback/data/{split}-00000-of-00001.parquet", [{"prompt": "Name a fruit.", **reply}])
    return folder / "ultrafeedback"


@pytest.mark.parametrize(
    ("make", "task", "labels"),
    [
        (sst2, "classification", ["0", "1"]),
        (hellaswag, "hellaswag", ["False", "False", "False", "True"]),
        (boolq, "boolq", ["False", "True"]),
        (winogrande, "winogrande", ["False", "True"]),
        (piqa, "piqa", []),
        (imdb, "classification", ["neg", "pos"]),
        (emotion, "classification", ["joy", "sadness"]),
        (rotten_tomatoes, "classification", ["neg", "pos"]),
        (reward_bench, "comparison", ["False", "True"]),
        (hh_rlhf, "comparison", ["False", "True"]),
    ],
)
def test_what_loads_at_once(make: Callable[[Path], Path], task: str, labels: list[str], tmp_path: Path) -> None:
    data = load_task(DataSource(str(make(tmp_path))))
    assert data.dataset.task == task and sorted(data.gold.values()) == labels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            ag_news,
            r"train\.csv:1: found the values \['3', 'Wall St. Bears'.*expected the columns' names; put them into a",
        ),
        (sentiment140, r"noemoticon\.csv:1: found the values \['0', '1467810369'.*expected the columns' names"),
        (ultrafeedback, r"split: found 'train', expected one of \['test_prefs', 'train_prefs', 'train_sft'\]"),
    ],
)
def test_what_is_said_of_the_rest(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(ICMError, match=message):
        load_task(DataSource(str(make(tmp_path))))


def test_what_the_message_says_helps(tmp_path: Path) -> None:
    assert len(load_task(DataSource(str(ultrafeedback(tmp_path)), split="train_prefs")).dataset) == 2
    assert len(load_task(DataSource(str(hh_rlhf(tmp_path)), config="helpful-base", part="test")).dataset) == 2
    named = b"label,title,text\n" + ag_news(tmp_path).read_bytes()
    assert len(load_task(DataSource(str(write(tmp_path, "named.csv", named)), template="{title} {text}")).dataset) == 2
