"""Tokens and settings from files of the current folder, for every door alike; and what looks like a secret elsewhere.

The folder may be somebody else's, so its files say neither where data and keys go, nor which code runs, nor which file
is appended to.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from dotenv import dotenv_values

from icm.errors import ConfigError
from icm.text import say

SECRET_FILES = (".env", "SECRETS")
KEY_ENDING = "_API_KEY"
TOKENS = ("HF_TOKEN", "OPENAI_API_KEY", "OPENROUTER_API_KEY", "TOGETHER_API_KEY")
"""What the files may set beside `ICM_<OPTION>`."""

_OPTION = re.compile(r"ICM_\w+", re.ASCII)
_NOT_FROM_FILES = ("ICM_BASE_URL", "ICM_LOG_FILE")
_MAY_NAME_CODE = ("ICM_TASK_TYPE", "ICM_RULES")
_SECRET_NAME = re.compile(r"(^|_)(token|key|secret|password|passwd|credentials?|authorization)$")
_TEXT_TOKENS = ("bos_token", "eos_token", "image_token", "mask_token", "pad_token", "unk_token")
_SECRET_VALUE = re.compile(r"\b(hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{40,})|://[^/?#\s]*@")


def load_secrets(folder: Path) -> None:
    """Take tokens and settings from `.env` and `SECRETS` (NAME=value lines); the environment itself wins.

    Only `ICM_<OPTION>` and `TOKENS` are taken. What a folder must not decide is left out, with a line that says so.
    Values are literal: `${NAME}` would put one secret in the place of a setting that is written down.
    """
    for name in SECRET_FILES:
        for variable, value in _read(folder / name).items():
            if variable in TOKENS or (_OPTION.fullmatch(variable) and _is_ours(folder / name, variable, value)):
                os.environ.setdefault(variable, value)


def _read(path: Path) -> dict[str, str]:
    try:
        found = dotenv_values(path, interpolate=False, encoding="utf-8-sig") if path.is_file() else {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; make it readable, or remove it") from None
    for variable, value in found.items():
        if "\0" in variable + (value or ""):
            raise ConfigError(f"{path}: {variable[:40]}: holds a zero byte, which no variable can; write it anew")
    return {variable: value for variable, value in found.items() if value is not None}


def _is_ours(path: Path, variable: str, value: str) -> bool:
    """Whether a file of the folder may set the variable; says so if not."""
    name = variable.upper()  # options are looked up without regard to case
    names_code = name in _MAY_NAME_CODE and ("." in value or ":" in value)
    if name not in _NOT_FROM_FILES and not names_code:
        return True
    option = f"--{name.removeprefix('ICM_').lower().replace('_', '-')}"
    say(f"{path}: {variable} is not taken from a file of the folder; give {option}, or export it", error=True)
    return False


def refuse_secrets(settings: object, where: str) -> None:
    """Settings are written down, and often published, so none may hold a token, key or password.

    Args:
        settings: a mapping, however deep, or a value.
        where: starts the message, which does not repeat the secret.

    Raises:
        ConfigError: a setting is named like a secret and has a value, or a value looks like one.
    """
    for place, value in _texts(settings):
        name = place.rpartition(".")[2].lower().replace("-", "_")
        named = _SECRET_NAME.search(name) and name not in _TEXT_TOKENS and value not in ("", "none", "null", "false")
        if named or _SECRET_VALUE.search(value):
            raise ConfigError(
                f"{where}: {place}: settings are written to files, so they hold no secrets: tokens and keys belong in "
                "the environment (HF_TOKEN, WANDB_API_KEY, …), or log in with `hf auth login`"
            )


def _texts(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a value, with its place."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _texts(entry, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry, place)
    elif value is not None:
        yield place, str(value)
