"""Bodies that hold one nest of numbers, such as a picture's pixels, without a list for each row.

Most of what it costs to parse a picture is the making of its lists, one for each pixel. Here the
numbers are parsed as one flat list and the brackets are compared as text with those that their
number implies. What is not so plain, or no JSON, is left to the general parser.
"""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import numpy as np
import orjson

from dlkit.serving.tensors import DTYPES, scalars

NAME = rb'"signature_name"\s*:\s*"([^"\\\x00-\x1f\x80-\xff]*)"'
BEFORE = re.compile(rb"\s*\{\s*(?:" + NAME + rb'\s*,\s*)?"(instances|inputs)"\s*:\s*')
AFTER = re.compile(rb"\s*(?:,\s*" + NAME + rb"\s*)?\}\s*")
LONGEST = 1000  # bytes before and after the nest
SPACE = b" \t\r\n"
DIGITS = b"0123456789eE+-."  # what a number is made of
WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")
AS_ONE = bytes.maketrans(DIGITS, b"0" * len(DIGITS))
MAX_RANK = 32


class Numbers:
    """A regular nest of lists of numbers, none of them empty.

    Attributes:
        values: the numbers in row-major order, integers and decimal numbers as they were written.
        shape: the sizes of the lists, the outermost first.
    """

    __slots__ = ("shape", "text", "values")

    def __init__(self, values: list[Any], shape: list[int], text: bytes) -> None:
        self.values, self.shape, self.text = values, shape, text

    def nested(self) -> list[Any]:
        """Return them as lists, as the general parser does."""
        return orjson.loads(self.text)

    def array(self, dtype: str) -> np.ndarray:
        """Return them as an array, as `to_array` makes of the lists.

        Raises:
            RequestError: see `scalars`.
        """
        # No boolean is among them, so their types need not be looked at.
        if dtype == "uint8":
            with contextlib.suppress(TypeError, ValueError):
                return np.frombuffer(bytearray(self.values), np.uint8).reshape(self.shape)
        if dtype in ("float", "double"):
            with np.errstate(over="ignore"):
                return np.array(self.values, DTYPES[dtype]).reshape(self.shape)
        return scalars(self.values, dtype).reshape(self.shape)


def parse_numbers(body: bytes) -> dict[str, Any] | None:
    """Parse a body of `instances` or `inputs` and, maybe, `signature_name`.

    Returns:
        The object, its nest as `Numbers`; None if it is not as plain as that, or no JSON.
    """
    start, end = body.find(b"["), body.rfind(b"]") + 1
    if start < 0 or start > LONGEST or len(body) - end > LONGEST:
        return None
    before, after = BEFORE.fullmatch(body, 0, start), AFTER.fullmatch(body, end)
    if before is None or after is None or (before[1] is not None and after[1] is not None):
        return None
    numbers = _numbers(body[start:end])
    if numbers is None:
        return None
    name = after[1] if before[1] is None else before[1]
    named = {} if name is None else {"signature_name": name.decode()}
    return {before[2].decode(): numbers, **named}


def _numbers(text: bytes) -> Numbers | None:
    marked = text.translate(AS_ONE, SPACE)
    brackets = marked.translate(None, b"0")
    # rfind is several times as fast here as find and `in`.
    if brackets.translate(None, b"[],") or max(marked.rfind(b"0["), marked.rfind(b"]0")) >= 0:
        return None
    shape = _shape(brackets)
    if shape is None:
        return None
    try:
        # A space for each bracket: numbers that only brackets part stay two, and an error.
        values = orjson.loads(b"[%b]" % text.translate(WITHOUT_BRACKETS))
    except orjson.JSONDecodeError:
        return None
    return Numbers(values, shape, text) if len(values) == math.prod(shape) else None


def _shape(brackets: bytes) -> list[int] | None:
    """Return the shape of a nest, given its brackets and commas; None if it is not regular."""
    depth = len(brackets) - len(brackets.lstrip(b"["))
    if depth > MAX_RANK:
        return None
    shape: list[int] = []
    unit = b""  # what each element of the level above holds
    for level in range(depth):
        end = brackets.find(b"]" * (level + 1))
        first = end - (depth - level) + level  # length of the first list's inside
        count = (first + 1) // (len(unit) + 1)
        unit = b"[%b]" % b",".join([unit] * count)
        shape.insert(0, count)
    return shape if unit == brackets else None
