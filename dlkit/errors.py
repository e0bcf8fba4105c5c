"""The exceptions a user can cause or mend, each told in one line.

DlkitError                  exit 2 unless said otherwise
├── OptionError             an option, a `-p` name or a config key that is not accepted
├── DataError               a source that is missing, malformed, empty or of one class
├── SpecError               a model that does not fit the data it was given
├── TrainingError           a loss that is no longer a number
├── CheckpointError         a checkpoint that is broken or of another model
├── RunError                a run that does not exist, is ambiguous or is of another task
├── StoreError              a tracking store or a disk that cannot be used
├── ServeError              a port in use, an export that cannot be served
└── ExportError             exit 1: the exported model disagrees with the trained one

Interrupted is no error: it is the KeyboardInterrupt of any signal.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class DlkitError(Exception):
    """Base of every error that dlkit reports in one line instead of a traceback."""

    exit_code = 2


class OptionError(DlkitError):
    """An option value, builder parameter or config key that is not accepted."""


class DataError(DlkitError):
    """A data source that cannot be read or cannot be learnt from."""


class SpecError(DlkitError):
    """A builder's parameters do not fit the shape or the outputs of the data."""


class TrainingError(DlkitError):
    """Training cannot go on: the loss is not finite."""


class CheckpointError(DlkitError):
    """A checkpoint cannot be read, or belongs to another model."""


class RunError(DlkitError):
    """A run reference resolves to nothing, to several runs or to another task's run."""


class StoreError(DlkitError):
    """The tracking store or the disk under it cannot be used."""


class ServeError(DlkitError):
    """The server cannot start, or a version cannot be served.

    `code` is what the version's status calls the failure, one of TensorFlow's `error_codes.proto`;
    where it is empty, `dlkit.serving.codes` looks at the cause.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class ExportError(DlkitError):
    """The exported model does not reproduce the trained one; nothing was exported."""

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to stop; told in one line, exit 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def nearest(name: str, accepted: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the accepted name most like `name`, else `""`."""
    close = difflib.get_close_matches(name, list(accepted), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def one_of(accepted: Iterable[str]) -> str:
    """Return the accepted names as a sorted, comma-separated list."""
    return ", ".join(sorted(accepted))


def some_of(names: Sequence[str], most: int = 5) -> str:
    """Return the first names with commas between, and `", ..."` where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `"1 image"`, `"2,000 images"`, `"1 class"`, `"2 classes"`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
