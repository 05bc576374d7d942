"""A run that was interrupted goes on as it was, or says in one line why it cannot."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icm.doors.locks import BusyError
from icm.engines.accounting import AccountingEngine
from icm.errors import ResumeError
from icm.files import write_jsonl
from icm.labelling.run import Interrupted, label
from icm.labelling.settings import resolve_settings
from icm.results.format import content_hash, read_result
from icm.results.units import units_folder

ROOT = Path(__file__).parents[2]
# Characters that end a line for str.splitlines, but not in JSON.
GOOD = "very\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1egood"


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Callable[..., Any]:
    """Settings of a short search on a copy of the tiny model."""
    shutil.copytree(tiny_model, tmp_path / "model")
    data = tmp_path / "d.jsonl"
    write_jsonl(data, [{"text": f"note {n}", "label": ("bad", GOOD)[n % 2]} for n in range(8)])

    def made(**given: Any) -> Any:
        basic = {"dataset": str(data), "task_type": "classification", "model": str(tmp_path / "model")}
        basic |= {"verbalisers": {"bad": " bad", GOOD: " good"}, "output_dir": str(tmp_path / "out")}
        search = {"max_iterations": 16, "early_stop": False, "init": "random"}
        return resolve_settings({**basic, **search, "output_name": "l", **given}, environ={})

    return made


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    """The accounting engine instead of the model, whose folder is still checked and hashed."""
    monkeypatch.setattr("icm.labelling.run.create_engine", lambda config: AccountingEngine(tokenizer, 128))


def interrupted(settings: Any, rows: int = 12) -> Path:
    """Interrupt a run after so many rows; returns its trace."""
    seen = []

    def stop(progress: Any) -> None:
        seen.append(progress)
        if len(seen) == rows:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as found:
        label(settings, on_progress=stop)
    return found.value.trace


@pytest.mark.usefixtures("no_model")
def test_labels_with_line_breaks_of_unicode_are_resumed(settings: Callable[..., Any]) -> None:
    whole = read_result(label(settings(output_name="whole")))
    trace = interrupted(settings())
    with (units_folder(trace) / "0-0.jsonl").open("ab") as handle:
        handle.write(bytes(4096))  # a page that the disk never got
    assert content_hash(read_result(label(settings(), trace))) == content_hash(whole)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_model_that_was_exchanged_is_refused(name: str, settings: Callable[..., Any], tmp_path: Path) -> None:
    trace = interrupted(settings())
    path = tmp_path / "model" / name
    if name == "tokenizer.json":
        path.write_text(path.read_text() + " ")
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(ResumeError, match=r"cannot resume: content\.model was '\w+' and is now '\w+'"):
        label(settings(), trace)


@pytest.mark.usefixtures("no_model")
def test_traces_of_earlier_versions_know_no_content(settings: Callable[..., Any]) -> None:
    trace = interrupted(settings())
    header, _, rest = trace.read_text().partition("\n")
    older = {key: value for key, value in json.loads(header).items() if not key.startswith("content.")}
    trace.write_text(f"{json.dumps(older)}\n{rest}")
    assert label(settings(), trace).is_file()


@pytest.mark.usefixtures("no_model")
def test_two_runs_never_write_under_one_name(settings: Callable[..., Any]) -> None:
    def second(progress: Any) -> None:
        for resume in (None, Path(settings().output.output_dir) / "l.trace.jsonl"):
            with pytest.raises(BusyError, match="another run is writing it"):
                label(settings(), resume)
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        label(settings(), on_progress=second)


@pytest.mark.slow  # a model in two processes
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    settings: Callable[..., Any], tmp_path: Path
) -> None:
    whole = read_result(label(settings(output_name="whole")))
    code = (
        "import json, sys; from pathlib import Path; from icm.doors import door; from icm.labelling.run import label;"
        "from icm.labelling.settings import resolve_settings as s;"
        "sys.exit(door('x', lambda: label(s(json.loads(sys.argv[1]), environ={})) and 0))"
    )
    given = {**settings().data.__dict__, **settings().search.__dict__, **settings().output.__dict__}
    given = {name: given[name] for name in ("dataset", "task_type", "verbalisers", "output_dir", "output_name")}
    given |= {"model": settings().engine.model, "max_iterations": 16, "early_stop": False, "init": "random"}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(given)],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3500, 3500)),
    )
    trace, rows = tmp_path / "out" / "l.trace.jsonl", tmp_path / "out" / "l.units" / "0-0.jsonl"
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == f"x: {rows}: File too large"
    assert content_hash(read_result(label(settings(), trace))) == content_hash(whole)
