"""Errors that a user can mend.

Every command turns an `ICMError` into one line on standard error and exit code 2; any other exception is
our bug and keeps its traceback.
"""

_HALF = 600


class ICMError(ValueError):
    """Something the user can mend: the message names what was found, what is expected, and the fix.

    What was found may be of any length; of a message that is longer than a screen, the middle is left out.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= 2 * _HALF else f"{text[:_HALF]} […] {text[-_HALF:]}"


class DataError(ICMError):
    """Bad input data. The message starts with the file and the line or field."""


class ConfigError(ICMError):
    """A setting that is unknown, of the wrong type or out of range."""


class PrerequisiteError(ICMError):
    """Something missing on this machine: a package, a device, a model, a token."""


class ResumeError(ICMError):
    """A checkpoint that does not belong to this run. The message names the field that differs."""
