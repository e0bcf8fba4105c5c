"""The log of a serving process, on standard error: text for a person, JSON for a machine."""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
from typing import Any

LOGGERS = ("dlkit.serving", "uvicorn")


def log_to_stderr(form: str = "text") -> None:
    """Send the server's and uvicorn's log to standard error; standard output is for results.

    Args:
        form: `text`, or `json`: one object a line.
    """
    # Not by dictConfig, which closes the handlers of everybody else in this process.
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if form == "json" else Text())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


class Text(logging.Formatter):
    """A line for a person."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(process)d %(levelname)s %(message)s")

    def formatException(self, ei: Any) -> str:
        """Name an error's type and place; its words may quote a payload."""
        return place(ei[1])


class Json(logging.Formatter):
    """An object with the time, level, process and message, and what the access log says beside."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": record.process,
        }
        # A request is told by its fields alone.
        entry |= getattr(record, "request", None) or {"message": record.getMessage().strip()}
        if record.exc_info and record.exc_info[1] is not None:
            entry["error"] = place(record.exc_info[1])
        return json.dumps(entry)


def place(error: BaseException) -> str:
    """Name an error's type, and the file and line it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where
