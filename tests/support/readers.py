"""Every reader of a file or reply: a folder of good files, the one that is damaged, and the command that reads it."""

import io
import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
import pytest
import yaml
from peft import LoraConfig, get_peft_model
from support.engine_models import save_tiny_model, words_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import eval.conditions.pool
import eval.run
import icm.cli
import icm.engines
import icm.engines.server
import icm.labelling.run
import icm.publish.hub
import scripts.merge_adapter
import train.run
from eval.conditions.answers import Answer, AnswerFile, Batch
from eval.conditions.server import ChatClient, Reply, _read_reply
from eval.settings import ServerConfig
from icm.config import EngineConfig, GenerationConfig
from icm.engines import create_engine
from icm.engines.accounting import AccountingEngine
from icm.engines.server import ServerEngine
from icm.errors import ICMError, PrerequisiteError
from icm.files import file_sha256, write_json, write_jsonl
from icm.labelling.claims import ClaimWriter
from icm.pipeline.experiment import read_experiment
from icm.pipeline.manifest import started, write_manifest
from icm.pipeline.stages import make_stages
from icm.prompts import LabelTrie, shared_context_tree
from icm.publish.hub import push_adapter, push_file
from icm.results.trace import End
from icm.results.units import Trace
from train.arguments import read_settings
from train.check import make_plan
from train.checkpoints import mark_complete, newest_complete

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [{"text": f"note {n} of {n * n}", "label": ("bad", "good")[n % 2]} for n in range(8)]
QUESTIONS = [{"question": f"What is {n} + {n}?", "answer": f"Twice {n}.\n#### {2 * n}"} for n in range(4)]
GENERATED = [
    {"question": row["question"], "generated": [f"It is {n}.\n#### {n}", "#### 7"]} for n, row in enumerate(QUESTIONS)
]
SERVED = {"data": [{"id": "tiny", "owned_by": "x", "max_model_len": 300}]}
COMPLETION = {
    "choices": [{"text": " fine", "logprobs": {"top_logprobs": [{"positive": -0.5, "negative": -1.5}]}}],
    "usage": {"completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 3}},
}
TOKEN = {"token": "positive", "logprob": -0.5}
CHAT = {
    "choices": [{"message": {"content": "positive"}, "logprobs": {"content": [{**TOKEN, "top_logprobs": [TOKEN]}]}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1},
}


class ModelLoadedError(Exception):
    """Raised in place of loading a model: what was read is good."""


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        target: the file, below the good folder, that is damaged.
        form: of that file: json, jsonl, yaml or bytes.
        read: reads it, in that folder; returns the exit code and what was written to standard error.
        named: whether a refusal names the file.
        placed: whether it also says where in the file: a line, a row, a record, or a field by name.
        share: of the inputs of others that this one gets; what loads a model gets fewer.
    """

    target: str
    form: str
    read: Callable[[Path], tuple[int, str]]
    named: bool = True
    share: float = 1.0
    placed: bool = False


def command(main: Callable[[list[str]], int], *words: str) -> Callable[[Path], tuple[int, str]]:
    """Run a command in this process."""

    def read(target: Path) -> tuple[int, str]:
        errors, environment = io.StringIO(), dict(os.environ)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(errors):
                code = main([*words])
        except ModelLoadedError:
            code = 0
        finally:
            os.environ.clear()
            os.environ.update(environment)
        return code, errors.getvalue()

    return read


def called(function: Callable[[Path], object]) -> Callable[[Path], tuple[int, str]]:
    """Call a reader that no command reaches without a model."""

    def read(target: Path) -> tuple[int, str]:
        try:
            function(target)
        except ICMError as error:
            return 2, f"error: {error}\n"
        return 0, ""

    return read


def several(*reads: Callable[[Path], tuple[int, str]]) -> Callable[[Path], tuple[int, str]]:
    """Several commands, until one refuses the file."""

    def read(target: Path) -> tuple[int, str]:
        found = (0, "")
        for one in reads:
            found = one(target)
            if found[0]:
                break
        return found

    return read


icm_command = partial(command, icm.cli.main)
run = partial(icm_command, "run", "--output-dir", "made", "--max-iterations", "3")
train_command = partial(command, train.run.main, "--config", "rec.yaml", "--output_dir")
trained = train_command("out", "--labels", "l.jsonl")
evaluation = command(eval.run.main, "--config", "ev.yaml")
dry = icm_command("pipeline", "--config", "e.yaml", "--dry-run")
resumed = partial(icm_command, "run", "--dataset", "d.jsonl", "--output-dir", ".", "--max-iterations", "9", "--resume")


def consulting(file: str) -> Callable[[Path], tuple[int, str]]:
    """List, analyse and export a result file."""
    words = ["list --results-dir results", f"analyze --result-file {file}", "analyze --results-dir results"]
    words += [f"export --input-path {file} --output-path made.{form} --format {form}" for form in ("csv", "json")]
    return several(*(icm_command(*line.split()) for line in words))


def _read_answers(target: Path) -> None:
    AnswerFile(Path("answers"), "made", {})


def _write_claims(target: Path) -> None:
    def engine() -> Any:
        raise ModelLoadedError

    writer = ClaimWriter("written", EngineConfig(engine="transformers"), GenerationConfig(), engine)
    with suppress(ModelLoadedError):
        writer._texts(["Question: 1?"], 0, 1)


def _source(target: Path) -> tuple[int, str]:
    """`--eval_source` is a word, so damage that no word can hold is left out."""
    if not target.is_file() or b"\0" in (content := target.read_bytes()):
        return 0, ""
    return train_command("new", "--labels", "l.jsonl", "--eval_source", content.decode(errors="replace"))(target)


class _Replying(ThreadingHTTPServer):
    """A server whose replies are files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = Path(f"{self.path.removeprefix('/v1/').replace('/', '-')}.reply")
        content = path.read_bytes() if path.is_file() else b""
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        if content.startswith(b"\x1f\x8b"):
            self.send_header("content-encoding", "gzip")
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


_server = cache(_Replying)


def _scored(target: Path) -> None:
    tokenizer = words_tokenizer()
    engine = ServerEngine(EngineConfig(model="tiny", tokenizer="embedded", engine="server", base_url=_server().url))
    engine.tokenizer = tokenizer
    try:
        labels = tuple(tuple(tokenizer(word).input_ids) for word in ("positive", "negative"))
        engine.score_labels(shared_context_tree((1, 2), [(3,), (4,)]), LabelTrie(labels))
        engine.generate(["film"], GenerationConfig(generation_max_tokens=4), 0)
    finally:
        engine.close()


def _chatted(target: Path) -> None:
    client = ChatClient(ServerConfig(base_url=_server().url, max_retries=0, api_key_env=None), "tiny")
    try:
        client.ask([{"role": "user", "content": "Say positive."}])
    finally:
        client.close()


def _label_with(folder: str) -> Callable[[Path], tuple[int, str]]:
    """Label with a tiny model of that folder, loaded in earnest."""
    return run(
        "--dataset",
        "d.jsonl",
        "--model",
        folder,
        "--algorithm",
        "zero-shot",
        "--engine",
        "transformers",
        "--device",
        "cpu",
    )


READERS: Mapping[str, Reader] = {
    "settings": Reader("s.yaml", "yaml", icm_command("run", "--settings", "s.yaml"), named=False),
    "experiment": Reader("e.yaml", "yaml", dry, named=False),
    "layout of the machine": Reader("machine.yaml", "yaml", dry, named=False),
    "manifest": Reader("exp/pipeline.json", "json", dry, named=False),
    "recipe": Reader("rec.yaml", "yaml", trained, named=False),
    "training's run": Reader("out/run.json", "json", trained, named=False),
    "training's results": Reader("out/train_results.json", "json", trained, named=False),
    "checkpoint": Reader("out/checkpoint-3/complete.json", "json", called(lambda _: newest_complete(Path("out")))),
    "eval_source": Reader("source.json", "json", _source, named=False),
    "labels to train on": Reader("l.jsonl", "jsonl", trained, placed=True),
    "labels to train on, codelion": Reader("c.jsonl", "jsonl", train_command("new", "--labels", "c.jsonl")),
    "evaluation": Reader("ev.yaml", "yaml", evaluation, named=False),
    "labels to evaluate": Reader("l.jsonl", "jsonl", evaluation, placed=True),
    "adapter's training": Reader("ad/train_results.json", "json", evaluation, named=False),
    "labels": Reader("results/l.jsonl", "jsonl", consulting("results/l.jsonl"), placed=True),
    "labels of codelion": Reader("results/c.jsonl", "jsonl", consulting("results/c.jsonl"), placed=True),
    "trace, shown": Reader("results/l.trace.jsonl", "jsonl", consulting("results/l.jsonl"), placed=True),
    "trace, resumed": Reader("r.trace.jsonl", "jsonl", resumed("r.trace.jsonl"), named=False),
    "trace of a unit": Reader("u.units/0-0.jsonl", "jsonl", resumed("u.trace.jsonl"), named=False),
    "ends of units": Reader("v.units/finished.jsonl", "jsonl", resumed("v.trace.jsonl"), named=False),
    "data, jsonl": Reader("d.jsonl", "jsonl", run("--dataset", "d.jsonl"), placed=True),
    "data, json": Reader("d.json", "json", run("--dataset", "d.json"), placed=True),
    "data, csv": Reader("d.csv", "bytes", run("--dataset", "d.csv"), placed=True),
    "data, tsv": Reader("d.tsv", "bytes", run("--dataset", "d.tsv"), placed=True),
    "data, parquet": Reader("d.parquet", "bytes", run("--dataset", "d.parquet")),
    "data, gz": Reader("d.csv.gz", "bytes", run("--dataset", "d.csv.gz")),
    "data, a folder's card": Reader("data/README.md", "bytes", run("--dataset", "data"), named=False),
    "written claims": Reader("claims.jsonl", "jsonl", run("--dataset", "q.jsonl", "--claims", "claims.jsonl")),
    "kept texts": Reader("written/generated/*.json", "json", called(_write_claims)),
    "adapter's settings": Reader(
        "ad/adapter_config.json", "json", run("--dataset", "d.jsonl", "--model", "tiny", "--adapter", "ad"), False, 0.5
    ),
    "adapter's weights": Reader(
        "ad/adapter_model.safetensors",
        "bytes",
        run("--dataset", "d.jsonl", "--model", "tiny", "--adapter", "ad"),
        False,
        0.5,
    ),
    "merge": Reader("ad/adapter_config.json", "json", command(scripts.merge_adapter.main, "ad", "merged"), False, 0.2),
    "model's settings": Reader("tiny/config.json", "json", _label_with("tiny"), False, 0.2),
    "model's weights": Reader("tiny/model.safetensors", "bytes", _label_with("tiny"), False, 0.1),
    "tokenizer": Reader("tiny/tokenizer.json", "json", _label_with("tiny"), False, 0.2),
    "published labels": Reader("results/l.jsonl", "jsonl", called(lambda target: push_file(target, "me/labels"))),
    "published export": Reader("export.json", "json", called(lambda target: push_file(target, "me/labels"))),
    "published adapter": Reader("ad/README.md", "bytes", called(lambda _: push_adapter("ad", "me/adapter"))),
    ".env": Reader(".env", "bytes", run("--dataset", "d.jsonl"), named=False),
    "answers": Reader("answers/*.jsonl", "jsonl", called(_read_answers)),
    "kept reply": Reader("reply.json", "json", called(_read_reply)),
    "server's models": Reader("models.reply", "json", called(_scored), named=False),
    "server's completion": Reader("completions.reply", "json", called(_scored), named=False),
    "server's chat": Reader("chat-completions.reply", "json", called(_chatted), named=False),
}


def write_good(folder: Path) -> None:
    """All good files; the current folder must be `folder`."""
    write_jsonl("d.jsonl", TEXTS)
    Path("d.json").write_text(json.dumps(TEXTS))
    table = pyarrow.json.read_json("d.jsonl")
    for name in ("d.csv", "data/train.csv", "d.csv.gz"):
        Path(name).parent.mkdir(exist_ok=True)
        with pyarrow.output_stream(name) as out:  # packed, if the name says so
            pyarrow.csv.write_csv(table, out)
    Path("d.tsv").write_text(
        "".join(f"{row['text']}\t{row['label']}\n" for row in [{"text": "text", "label": "label"}, *TEXTS])
    )
    pyarrow.parquet.write_table(table, "d.parquet")
    card = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train.csv"}]}]}
    Path("data/README.md").write_text(f"---\n{yaml.safe_dump(card)}---\nText.\n")
    write_jsonl("q.jsonl", QUESTIONS)
    write_jsonl("claims.jsonl", GENERATED)
    Path(".env").write_text("HF_TOKEN=hf_x\nICM_ALPHA=3\n# note\nICM_MODEL='embedded'\n")
    for name, reply in (("models", SERVED), ("completions", COMPLETION), ("chat-completions", CHAT)):
        write_json(f"{name}.reply", reply)
    write_json("reply.json", asdict(Reply("positive", (("positive", -0.5),), 9, 1)))
    file = AnswerFile(Path("answers"), "made", {})
    with file.appending():
        file.add(
            Batch((Answer("a", (-0.5, -1.5)), Answer("b", error="none")), {"prompts": 2, "seconds": 0.5}, {"shots": 4})
        )
    _write_settings()
    _write_results()
    _write_models()
    _write_training()


def _write_settings() -> None:
    data = {"dataset": "d.jsonl", "max_examples": 6, "holdout": 0.0}
    template = {"template": "Say {text} Mood:", "verbalisers": {"bad": " bad", "good": " good"}}
    search = {
        "algorithm": "random",
        "max_iterations": 3,
        "rules": ["icm.consistency.rules:IdenticalTextRule"],
        "schedule": "log",
        "beta": 0.9,
    }
    engine = {"model": "embedded", "dtype": "auto", "device": "cpu"}
    settings = {"data": data | template, "search": search, "engine": engine, "output": {"output_dir": "made"}}
    conditions = [{"name": "Z", "kind": "zero-shot"}, {"name": "M", "kind": "many-shot", "labels_from": "labels"}]
    experiment = {
        "name": "x", "output_dir": "exp", "data": data | {"holdout": 0.3}, "engine": engine,
        "search": {"max_iterations": 3}, "label": {"algorithms": ["icm", "random"], "seeds": [0, 1]},
        "train": {"recipe": "rec.yaml", "accelerate": "machine.yaml", "label_sources": ["labels", "gold"],
                  "overrides": {"num_train_epochs": 1}},
        "eval": {"data": {"max_examples": 5}, "shots": 3, "conditions": conditions},
    }  # fmt: skip
    fine_tuned = {"name": "F", "kind": "fine-tuned", "labels_from": "labels", "adapters": ["ad"]}
    server = {"name": "S", "kind": "chat-server", "model": "m", "server": {"base_url": "http://127.0.0.1:9/v1"}}
    evaluation = {
        "labels": ["l.jsonl"], "output_dir": "ev", "shots": 4, "orders": 1, "seeds": [0], "rerun": [],
        "engine": {"model": "tiny", "engine": "transformers"},
        "data": {"dataset": "reviews", "part": "test", "max_examples": 6},
        "conditions": [*conditions, fine_tuned, server, {"name": "J", "kind": "majority"}],
    }  # fmt: skip
    for name, content in (("s", settings), ("e", experiment), ("ev", evaluation)):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
    Path("rec.yaml").write_bytes((ROOT / "configs/train/demo_sft.yaml").read_bytes())
    Path("machine.yaml").write_bytes((ROOT / "configs/accelerate/cpu.yaml").read_bytes())


def _interrupt(rows: list[bytes]) -> None:
    """The run `r` as it stood before its end (`r`, in one file, as earlier versions kept it; `u`, by units) and, with
    its end, before the result was written (`v`)."""
    head = Path("r.trace.jsonl").read_bytes().splitlines(keepends=True)[0]
    open_rows = [row for row in rows if b'"end"' not in row]
    Path("r.trace.jsonl").write_bytes(head + b"".join(open_rows))
    for name, content in (("u", open_rows), ("v", rows)):
        Path(f"{name}.trace.jsonl").write_bytes(head)
        Path(f"{name}.units").mkdir()
        Path(f"{name}.units/0-0.jsonl").write_bytes(b"".join(content))
    Path("v.units/finished.jsonl").write_bytes(b"".join(rows[-2:]))


def _write_results() -> None:
    """A label file of the reviews and its trace, interrupted ones, one of codelion/icm, an experiment's manifest."""
    Path("results").mkdir()
    begun, finish = list[bytes](), Trace._finish

    def kept(trace: Trace, end: End) -> None:
        begun.append(trace._file(end.unit).read_bytes())
        finish(trace, end)

    for words in ("reviews --output-dir results --output-name l", "d.jsonl --output-dir . --output-name r"):
        label = icm_command("run", "--max-examples", "8", "--max-iterations", "9", "--dataset", *words.split())
        with patch.object(Trace, "_finish", kept):
            code, said = label(Path())
        assert code == 0, said
    for name in ("l.jsonl", "results/l.jsonl"):
        Path(name).write_bytes(Path("results/l.jsonl").read_bytes())
    words = "export --input-path l.jsonl --output-path export.json --format json"
    assert icm_command(*words.split())(Path())[0] == 0
    Path("r.jsonl").unlink()
    _interrupt(begun[-1].splitlines(keepends=True))
    inner = {"task_type": "truthfulqa", "model_name": "tiny"}
    head = {"type": "icm_metadata", "score": 1.5, "iterations": 3, "convergence_info": {"a": 1}, "metadata": inner}
    items = [{"type": "icm_example", "input": f"Question: {n}?\nClaim: yes [True/False]", "label": str(n % 2 == 0),
              "metadata": {"question": f"{n}?", "response_text": "yes"}} for n in range(6)]  # fmt: skip
    for name in ("c.jsonl", "results/c.jsonl"):
        write_jsonl(name, [head, *items])
    stages = make_stages(read_experiment("e.yaml"))
    records = {stage.name: started(stage, None) for stage in stages}
    done = {name: replace(record, outputs={"exp/x.jsonl": "00"}, seconds=1.5) for name, record in records.items()}
    Path("exp").mkdir()
    write_manifest(Path("exp"), done)
    sampler = ClaimWriter("written", EngineConfig(engine="transformers"), GenerationConfig(), lambda: _Talker())
    sampler._texts(["Question: 1?"], 0, 1)


class _Talker:
    def generate(self, prompts: list[str], *rest: object) -> list[str]:
        return ["One." for _ in prompts]


def _write_models() -> None:
    model = save_tiny_model("llama", Path("tiny"))
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained("ad")
    trained = {"model": "tiny", "label_source": "labels", "labels": "l.jsonl", "labels_sha256": file_sha256("l.jsonl")}
    write_json("ad/train_results.json", trained)
    Path("ad/README.md").write_text("# Adapter\n")


def _write_training() -> None:
    """A finished training: what it is, its results and a checkpoint."""
    write_json("source.json", {"dataset": "reviews", "part": "test", "max_examples": 4})
    settings = read_settings(["--config", "rec.yaml", "--labels", "l.jsonl", "--output_dir", "out"])
    identity = make_plan(settings).identity
    Path("out/checkpoint-3").mkdir(parents=True)
    Path("out/checkpoint-3/a").write_text("a")
    mark_complete(Path("out/checkpoint-3"))
    write_json("out/run.json", identity)
    write_json("out/train_results.json", {"train_loss": 1.0})


def stand_in(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    """Nothing but the tiny model is loaded, and nothing is read twice that does not change."""
    create, read, parser = create_engine, AutoTokenizer.from_pretrained, cache(icm.cli.make_parser)

    def engine(config: EngineConfig) -> Any:
        return (
            create(config) if config.model == "tiny" and config.adapter is None else AccountingEngine(tokenizer, 8192)
        )

    def no_model(*given: Any) -> Any:
        raise ModelLoadedError

    def read_tokenizer(name: str, **given: Any) -> Any:
        return read(name, **given) if str(name).startswith("tiny") else tokenizer

    monkeypatch.setattr(icm.cli, "make_parser", parser)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", read_tokenizer)

    def none_to_time(config: EngineConfig) -> Any:
        raise PrerequisiteError("no model is loaded to forecast time")

    monkeypatch.setattr(icm.publish.hub, "_connect", lambda repo_id: None)
    monkeypatch.setattr(icm.publish.hub, "_publish", lambda *given, **options: "")
    monkeypatch.setattr(icm.engines, "create_engine", none_to_time)
    monkeypatch.setattr(icm.labelling.run, "create_engine", engine)
    monkeypatch.setattr(eval.conditions.pool, "create_engine", no_model)
    monkeypatch.setattr(train.run, "train", no_model)
    monkeypatch.setattr(icm.engines.server, "_TRIES", 1)
