"""Tokens and settings from files of the current folder, for every door alike."""

from pathlib import Path

from dotenv import load_dotenv

from icm.errors import ConfigError

SECRET_FILES = (".env", "SECRETS")


def load_secrets(folder: Path) -> None:
    """Take tokens and settings from `.env` and `SECRETS` (NAME=value lines); the environment itself wins."""
    for name in SECRET_FILES:
        path = folder / name
        try:
            if path.is_file():
                load_dotenv(path)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
