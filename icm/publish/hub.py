"""Data sets and adapters onto the Hugging Face Hub, each with a card that says where it comes from.

Everything that can be checked here is checked before the first request; tokens stay out of messages and logs.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from icm.errors import ConfigError, DataError, PrerequisiteError
from icm.files import dump_json, parse_json, parse_jsonl
from icm.markdown import public_name
from icm.publish.cards import file_card, label_card, public_record
from icm.results.codelion import is_codelion
from icm.results.format import HEADER_FIELDS, ICMResult, LabeledExample, read_result
from icm.results.record import read_record

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

CARD = "README.md"
LABELS_FILE = "train.jsonl"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
PUBLISHED_FILES = (
    *ADAPTER_FILES,
    CARD,
    "train_results.json",
    "environment.json",
    "loss.png",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
"""What of an adapter folder is published: weights, tokenizer, card, plot; no pickles, checkpoints or local settings."""
# Files of an adapter, and their keys, that can hold local paths.
_WITH_NAMES = ("adapter_config.json", "tokenizer_config.json", "train_results.json", "environment.json")
_NAMES = ("base_model_name_or_path", "name_or_path", "tokenizer_file", "model", "labels")

Content = bytes | Path


def push_labels(result: ICMResult, repo_id: str, *, private: bool = False) -> str:
    """Publish labelled examples as a data set (`train.jsonl`) with a card.

    Args:
        result: the labels. Accuracy stands on the card only if the gold of their data source can be loaded.
        repo_id: `user/name`.
        private: only you can see it; a repository that exists and is public is refused.

    Returns:
        Address of the repository.

    Raises:
        ConfigError: `repo_id` is malformed, or the repository is public and should not be.
        PrerequisiteError: no token, or the hub refuses or fails; one line says what to do.
    """
    api = _connect(repo_id)
    files = {LABELS_FILE: _rows(result), CARD: label_card(result, repo_id, LABELS_FILE).encode()}
    return _publish(api, repo_id, "dataset", files, private)


def push_file(
    path: str | Path,
    repo_id: str,
    *,
    file_name: str | None = None,
    private: bool = False,
    result: ICMResult | None = None,
    task_type: str | None = None,
) -> str:
    """Publish one file in a data set repository with a card: of a result its labelled examples, as `push_labels` does,
    of an export the file, whose first line or metadata names no local paths.

    Args:
        path: the file.
        repo_id, private: see `push_labels`.
        file_name: its name in the repository; None keeps it.
        result: what the file was exported from, for the card. Unknown for a file that is no result file: then a card
            is written only if the repository has none.
        task_type: see `ICMResult`.

    Returns, Raises: see `push_labels`. DataError: `path` is not a file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a file to upload")
    name = _checked_name(path.name if file_name is None else file_name)
    api = _connect(repo_id)
    own = _result_of(path, task_type)
    result = result or own
    card = label_card(result, repo_id, name) if result else file_card(repo_id, name)
    content = _rows(own) if own else _public_json(path) if path.suffix == ".json" else path
    files: dict[str, Content] = {name: content, CARD: card.encode()}
    return _publish(api, repo_id, "dataset", files, private, keep=() if result else (CARD,))


def push_adapter(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Publish a LoRA adapter folder written by `train/run.py`: weights, tokenizer, model card; no checkpoints.

    Args:
        folder: holds adapter_config.json, adapter_model.safetensors and README.md.
        repo_id, private: see `push_labels`.

    Returns, Raises: see `push_labels`. DataError: a file is missing, or is a link to one elsewhere.
    """
    folder = Path(folder)
    missing = [name for name in (*ADAPTER_FILES, CARD) if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: no {' and no '.join(missing)}; expected an adapter folder of train/run.py")
    paths = [folder / name for name in PUBLISHED_FILES if (folder / name).is_file()]
    if elsewhere := [path for path in paths if path.resolve().parent != folder.resolve()]:
        raise DataError(f"{elsewhere[0]}: a link to a file elsewhere; put what is to be published into {folder} itself")
    files = {path.name: _public_json(path) if path.name in _WITH_NAMES else path for path in paths}
    return _publish(_connect(repo_id), repo_id, "model", files, private)


def push(
    path: str | Path,
    repo_id: str,
    *,
    file_name: str | None = None,
    private: bool = False,
    task_type: str | None = None,
) -> str:
    """`push_adapter` for a folder, `push_file` for a file."""
    if not Path(path).is_dir():
        return push_file(path, repo_id, file_name=file_name, private=private, task_type=task_type)
    if file_name is not None:
        raise ConfigError(f"file_name: found {file_name!r}, but {path} is a folder; leave it out")
    return push_adapter(path, repo_id, private=private)


def _rows(result: ICMResult) -> bytes:
    return "".join(dump_json(_row(item)) + "\n" for item in result.labeled_examples).encode()


def _row(item: LabeledExample) -> dict[str, object]:
    example = item.example
    return {
        "id": example.id,
        "input": example.input,
        "label": item.label,
        "log_odds": item.log_odds,
        "group": example.relations.group,
        "metadata": dict(example.metadata),
    }


def _public_json(path: Path) -> Content:
    """A JSON file without the local paths that it can hold; the file as it is if it holds none."""
    document = parse_json(path.read_bytes().decode(errors="replace"), str(path))
    if not isinstance(document, dict):
        return path
    public = {key: public_name(v) if key in _NAMES and isinstance(v, str) else v for key, v in document.items()}
    header = document.get("metadata")
    if isinstance(header, dict) and header.get("type") == "icm_metadata":  # an export of a result
        own = {key: value for key, value in header.items() if key in HEADER_FIELDS}
        rest = {key: value for key, value in header.items() if key not in HEADER_FIELDS}
        public["metadata"] = own | public_record(read_record(rest, str(path))).as_row()
    return path if public == document else (dump_json(public, indent=2) + "\n").encode(errors="backslashreplace")


def _result_of(path: Path, task_type: str | None) -> ICMResult | None:
    """The result that the file is; None for any other file."""
    with path.open("rb") as handle:
        try:
            _, first = next(parse_jsonl(handle, str(path)))
        except (DataError, StopIteration):
            return None
    return read_result(path, task_type) if first.get("type") == "icm_metadata" or is_codelion(first) else None


def _checked_name(name: str) -> str:
    if name in ("", CARD) or name.startswith("/") or ".." in Path(name).parts:
        raise ConfigError(f"file_name: found {name!r}, expected a path inside the repository other than {CARD}")
    return name


def _connect(repo_id: str) -> "HfApi":
    """The hub, with a checked repository name and a token; nothing is sent yet."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"hf_repo_id: found {repo_id!r}, expected user/name ({error})") from None
    token = get_token()
    if token is None:
        raise PrerequisiteError("no Hugging Face token: set HF_TOKEN, or log in with `hf auth login`")
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token, library_name="icm")


def _publish(
    api: "HfApi", repo_id: str, kind: str, files: Mapping[str, Content], private: bool, keep: Collection[str] = ()
) -> str:
    """Make the repository if needed and upload all files in one commit; files to `keep` do not replace others."""
    from huggingface_hub import CommitOperationAdd

    message = f"Upload {', '.join(name for name in files if name != CARD)}"
    with _hub_errors(api):
        url = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
        if private and not api.repo_info(url.repo_id, repo_type=kind).private:
            raise ConfigError(f"private: {url.repo_id} exists and is public; make it private on the hub, or rename")
        present = {name for name in keep if api.file_exists(url.repo_id, name, repo_type=kind)}
        operations = [CommitOperationAdd(name, content) for name, content in files.items() if name not in present]
        api.create_commit(url.repo_id, operations, commit_message=message, repo_type=kind)
    return str(url)


@contextmanager
def _hub_errors(api: "HfApi") -> Iterator[None]:
    """Turn failures of the hub into one line that says what to do."""
    # Which HTTP library HTTPError comes from differs between versions of huggingface_hub.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise PrerequisiteError(_advice(error, api)) from None
    except (HTTPError, ConnectionError) as error:
        raise PrerequisiteError(
            f"{api.endpoint} cannot be reached ({_line(error, api)}); nothing is published"
        ) from None


def _advice(error: "HfHubHTTPError", api: "HfApi") -> str:
    status = error.response.status_code
    advice = {
        401: "the token is not valid; set HF_TOKEN, or log in again with `hf auth login`",
        403: "the token may not write there; use a token with write access, or your own user name",
        404: "no such repository or user; check --hf-repo-id",
        409: "it is being changed by somebody else; run the command again",
    }.get(status, "the server failed; try again later" if status >= 500 else "the request was refused")
    said = _line(error.server_message or "", api)
    return f"{api.endpoint} answered {status}{f' ({said})' if said else ''}: {advice}"


def _line(message: object, api: "HfApi") -> str:
    """A foreign message on one line, without the token should it repeat it."""
    return " ".join(str(message).replace(str(api.token), "[token]").split())[:200]
