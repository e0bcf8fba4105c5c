"""JSON bodies, and what is said of those that are none.

TensorFlow Serving parses with RapidJSON 1.1.0: NaN, Infinity and -Infinity are numbers, an integer
beyond 64 bits is a decimal number, a decimal number beyond a double is an error. Its words are
those of RapidJSON's `error/en.h`. Departures: bytes that are not UTF-8 are refused, as is `Inf` for
Infinity, which no page of Serving's names.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from dlkit.serving.tensors import RequestError, quoted

BOM = b"\xef\xbb\xbf"
TOO_BIG = "Number too big to be stored in double."
INVALID = "Invalid value."
NAMELESS = "Missing a name for object member."
REASONS = {  # what Python's parser says -> what Serving's says
    "Expecting value": INVALID,
    "Extra data": "The document root must not be followed by other values.",
    "Expecting property name enclosed in double quotes": NAMELESS,
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Illegal trailing comma before end of array": INVALID,  # of Python 3.13
    "Illegal trailing comma before end of object": NAMELESS,
    TOO_BIG: TOO_BIG,
}
SCANNED = 10_000  # characters before an error that are looked at


def parse_document(body: bytes) -> dict[str, Any]:
    """Parse a request's body.

    Raises:
        RequestError: 400 if the body is empty, malformed, nested too deep or not an object.
    """
    if not body:
        raise RequestError("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        # orjson is strict; the slower parser takes NaN and knows the offset of an error.
        document = _parse_leniently(body)
    if not isinstance(document, dict):
        raise RequestError(f"JSON Value: {quoted(document)} Is not object")
    return document


def _parse_leniently(body: bytes) -> Any:
    reason = "Nested too deep."
    try:
        text = body.decode("utf-8-sig")

        def decimal(token: str) -> float:
            value = float(token)
            if math.isinf(value):
                raise json.JSONDecodeError(TOO_BIG, text, text.index(token))
            return value

        def integer(token: str) -> int | float:
            value = int(token) if len(token) <= 20 else 2**64
            return value if -(2**63) <= value < 2**64 else decimal(token)

        return json.loads(text, parse_float=decimal, parse_int=integer)
    except json.JSONDecodeError as error:
        said, place = _reason(error)
        offset = len(error.doc[:place].encode()) + len(BOM) * body.startswith(BOM)
        reason = f"{said} at offset: {offset}"
    except UnicodeDecodeError as error:
        reason = f"Invalid encoding in string. at offset: {error.start}"
    except RecursionError:
        pass
    raise RequestError(f"JSON Parse error: {reason}")


def _reason(error: json.JSONDecodeError) -> tuple[str, int]:
    """Return RapidJSON's words for an error, and its place as a number of characters."""
    text, place = error.doc, error.pos
    message = error.msg.partition(": ")[0] if error.msg.startswith("Invalid \\") else error.msg
    if message == "Expecting ',' delimiter":
        if _in_list(text[max(0, place - SCANNED) : place]):
            return "Missing a comma or ] after an array element.", place
        return "Missing a comma or } after an object member.", place
    if message == "Expecting value" and not text.strip():
        return "The document is empty.", place
    if message.startswith("Illegal trailing comma"):  # RapidJSON points at what follows it
        place += 1 + len(text[place + 1 :]) - len(text[place + 1 :].lstrip())
    if message == "Unterminated string starting at":
        place = len(text)
    if message == "Invalid \\uXXXX escape":
        place -= 1
    return REASONS.get(message, f"{message}."), place


def _in_list(text: str) -> bool:
    """Say whether what is still open at the end of `text` is a list rather than an object."""
    closed = 0
    for token in reversed(re.findall(r'"(?:[^"\\]|\\.)*"|[][{}]', text)):
        closed += (token in "]}") - (token in "[{")
        if closed < 0:
            return token == "["
    return True
