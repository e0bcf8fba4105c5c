"""Names of status codes, as TensorFlow's `error_codes.proto` has them."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from dlkit.errors import RunError, ServeError
from dlkit.serving.tensors import RequestError

# Of an answer, by its HTTP status; UNKNOWN for the others.
CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 499: "CANCELLED", 500: "INTERNAL"}
CODES |= {503: "UNAVAILABLE"}
# By the number that TensorFlow's exceptions have; 2 is UNKNOWN.
NUMBERED = {
    1: "CANCELLED", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND",
    6: "ALREADY_EXISTS", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED", 9: "FAILED_PRECONDITION",
    10: "ABORTED", 11: "OUT_OF_RANGE", 12: "UNIMPLEMENTED", 13: "INTERNAL", 14: "UNAVAILABLE",
    15: "DATA_LOSS", 16: "UNAUTHENTICATED",
}  # fmt: skip
# Of the system's errors that a file can cause, as TensorFlow's `errors.cc` maps them.
SYSTEM = {
    errno.ENOENT: "NOT_FOUND", errno.EPERM: "PERMISSION_DENIED", errno.EACCES: "PERMISSION_DENIED",
    errno.EISDIR: "FAILED_PRECONDITION", errno.ENOTDIR: "FAILED_PRECONDITION",
    errno.EMFILE: "RESOURCE_EXHAUSTED", errno.ENOSPC: "RESOURCE_EXHAUSTED",
    errno.ENOMEM: "RESOURCE_EXHAUSTED", errno.ENAMETOOLONG: "INVALID_ARGUMENT",
}  # fmt: skip
# Statuses that TensorFlow's reader of variables loses on their way to Python, by what they say.
LOST = {
    "No such file or directory": "NOT_FOUND",
    "Failed to find any matching files": "NOT_FOUND",
    "Read less bytes than requested": "OUT_OF_RANGE",
    "too short to be an sstable": "DATA_LOSS",
}


def of_failure(error: BaseException) -> str:
    """Name the kind of failure for which a version could not be loaded.

    It is that of the status with which TensorFlow Serving's load of it would fail: NOT_FOUND where
    a file or a graph to serve is missing, OUT_OF_RANGE for a graph that is cut short, DATA_LOSS
    for variables that are damaged, what a warm-up request fails with, the system's own. What
    Serving would load and is refused here has the code that the refusal gives.
    """
    chain = list(_chain(error))
    for each in reversed(chain):  # what came first says most
        if code := _told(each):
            return code
    # The manifest's sums say that the files are not those it was written for.
    if any(isinstance(each, RunError) for each in chain):
        return "DATA_LOSS"
    return "INVALID_ARGUMENT" if isinstance(error, ServeError) else "UNKNOWN"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it, also where a message stands for them."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _told(error: BaseException) -> str:
    if isinstance(error, ServeError):
        return error.code
    if isinstance(error, RequestError):
        return CODES.get(error.status, "UNKNOWN")
    if isinstance(error, MemoryError):
        return "RESOURCE_EXHAUSTED"
    number = getattr(error, "error_code", None)
    if number in NUMBERED:
        return NUMBERED[number]
    if isinstance(error, OSError) and error.errno in SYSTEM:
        return SYSTEM[error.errno]
    if number is not None or isinstance(error, OSError | LookupError):
        return next((code for words, code in LOST.items() if words in str(error)), "")
    return ""
