"""A folder of result files: free names, lists, lookup by name, removal of old ones."""

import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from icm.doors.locks import BusyError, held
from icm.errors import ConfigError, DataError
from icm.files import open_file, parse_object
from icm.results.codelion import is_codelion
from icm.results.fields import shown
from icm.results.format import TRACE_SUFFIX, ICMResult, read_result, trace_path, write_result

_HEAD = 2**20  # bytes of a file that say what it is
_LONGEST = 180  # characters of a name: file systems take 255 bytes, and temporary files add some
_RESULT_WORDS = ('"icm_', '"label_space"', '"convergence_info"')


@dataclass(frozen=True)
class StoredResult:
    """One line of `icm list`.

    Attributes:
        path: the result file.
        created: when the run began, or when the file was written if it does not say.
        task: task type; empty for a broken file, like the fields below.
        model: model that labelled.
        examples: number of labelled examples.
        score: final utility, None for the random and zero-shot labelers.
        error: why the file cannot be read; None for a sound one.
    """

    path: Path
    created: datetime
    task: str = ""
    model: str = ""
    examples: int = 0
    score: float | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """File name without the ending."""
        return self.path.stem


class ICMStorage:
    """A folder of result files.

    Args:
        results_dir: the folder; made when the first result is saved.
    """

    def __init__(self, results_dir: str | Path = "icm_results") -> None:
        self.results_dir = Path(results_dir)

    @contextmanager
    def reserved(self, task: str, model: str, time: datetime, output_name: str | None = None) -> Iterator[Path]:
        """Hold the path that a run writes: a free `<task>_<model>_<timestamp>.jsonl`, or `<output_name>.jsonl`.

        Raises:
            ConfigError: `output_name` is not a plain file name, or a result has it or is being written under it.
        """
        if output_name is None:
            with self._free_path(f"{_short(task)}_{_short(Path(model).name)}", time) as path:
                yield path
            return
        path = self.results_dir / f"{_checked_name(output_name)}.jsonl"
        with writing(path):
            if path.exists():
                raise ConfigError(f"output_name: {path} exists; choose another name, or remove it")
            if (trace := trace_path(path)).exists():
                raise ConfigError(
                    f"output_name: {trace} is left of an interrupted run; continue it with --resume {trace}, choose "
                    "another name, or remove it"
                )
            yield path

    def save_result(self, result: ICMResult, name: str) -> Path:
        """Write the result as `<name>_<timestamp>.jsonl` and return the path. Nothing is overwritten."""
        with self._free_path(_checked_name(name), datetime.now(UTC)) as path:
            write_result(path, result)
        return path

    @contextmanager
    def _free_path(self, name: str, time: datetime) -> Iterator[Path]:
        """Hold the first name that no result has and nobody is writing."""
        stem = f"{name}_{time:%Y%m%d_%H%M%S}"
        paths = (self.results_dir / f"{found}.jsonl" for found in chain([stem], (f"{stem}-{n}" for n in count(2))))
        with ExitStack() as stack:
            for path in paths:
                with suppress(BusyError):
                    stack.enter_context(writing(path))
                    if not path.exists() and not trace_path(path).exists():
                        break
            yield path

    def find(self, path: str | Path) -> Path:
        """The result file given by path, or by its name in the folder, with or without `.jsonl`."""
        named = self.results_dir / path
        candidates = [Path(path), named, named.with_name(f"{named.name}.jsonl")]
        return next((file for file in candidates if file.is_file()), Path(path))

    def load_result(self, path: str | Path) -> ICMResult:
        """Read the result file that `find` finds. Raises DataError."""
        return read_result(self.find(path))

    def list_results(self, read: Callable[[Path], StoredResult] | None = None) -> list[StoredResult]:
        """All result files of the folder, newest first; a file that cannot be read says why in `error`.

        Other JSON lines that lie there, such as exports, are passed over.

        Args:
            read: what reads a file, and raises DataError for a broken one.
        """
        named = [file for file in self.results_dir.glob("*.jsonl") if not file.name.endswith(TRACE_SUFFIX)]
        files = [file for file in named if not _is_something_else(file)]
        return sorted(
            (_listed(file, read or _summary) for file in files),
            key=lambda stored: (stored.created, stored.name),
            reverse=True,
        )

    def clean_old_results(self, keep_latest: int = 10) -> list[Path]:
        """Remove all but the latest results, each with its trace; returns the removed files.

        Files that cannot be read are neither counted nor removed: they may be somebody's data.
        """
        if isinstance(keep_latest, bool) or not isinstance(keep_latest, int) or keep_latest < 0:
            raise ConfigError(f"keep_latest: found {keep_latest!r}, expected a whole number, 0 or more")
        sound = [stored for stored in self.list_results() if stored.error is None]
        pairs = ((stored.path, trace_path(stored.path)) for stored in sound[keep_latest:])
        removed = [file for file in chain.from_iterable(pairs) if file.exists()]
        for file in removed:
            file.unlink()
        return removed


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the name of a result: nobody else writes it, or its trace, meanwhile.

    Raises:
        BusyError: another run holds it.
    """
    lock = path.with_name(f".{path.stem}.lock")
    with held(lock, f"{path}: another run is writing it; wait for its end, or choose another name"):
        yield


def _checked_name(name: str) -> str:
    if _slug(name) != name or f"{name}.jsonl".endswith(TRACE_SUFFIX) or len(name) > _LONGEST:
        raise ConfigError(
            f"output_name: found {shown(name)}, expected a file name of letters, digits, '.', '-' and '_' "
            f"that does not end in .trace and has at most {_LONGEST} characters"
        )
    return name


def _short(text: str) -> str:
    return _slug(text)[: _LONGEST // 3]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "unnamed"


def _is_something_else(path: Path) -> bool:
    """Whether a file is plainly no result, not even a broken one: text that holds no word of a result's lines."""
    try:
        with open_file(path) as handle:
            text = getincrementaldecoder("utf-8-sig")().decode(handle.read(_HEAD)).strip()
    except (DataError, UnicodeDecodeError):
        return False
    if not text or any(word in text for word in _RESULT_WORDS):
        return False
    try:
        return not is_codelion(parse_object(text.partition("\n")[0], str(path)))
    except DataError:
        return not text.startswith("{")  # what begins like a result may be one that is cut


def _listed(path: Path, read: Callable[[Path], StoredResult]) -> StoredResult:
    try:
        return read(path)
    except DataError as error:
        return StoredResult(path, _written(path), error=str(error))


def _summary(path: Path) -> StoredResult:
    return stored_result(path, read_result(path))


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC)


def stored_result(path: Path, result: ICMResult) -> StoredResult:
    """The line of a result that was read."""
    size, record = len(result.labeled_examples), result.record
    created = _time(record.created) or _written(path)
    return StoredResult(path, created, result.task, record.model_name, size, result.score)


def _time(text: str | None) -> datetime | None:
    """A time in ISO 8601, in UTC where it names no zone; None for any other text."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
