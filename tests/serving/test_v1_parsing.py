"""Bodies of plain numbers mean what the general parser makes of them, right and wrong ones."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from dlkit.serving.documents import parse_document
from dlkit.serving.numbers import Numbers, parse_numbers
from dlkit.serving.rest import decode_inputs, parse_predict, signature_name
from dlkit.serving.tensors import DTYPES, RequestError, TensorSpec

SHAPES = [(1,), (4,), (1, 1), (2, 3), (3, 1), (1, 4, 4, 1), (2, 2, 3, 1), (1, 1, 1, 1, 2)]


def body(draw: random.Random) -> bytes:
    """Write a nest of numbers with white space here and there."""
    shape = draw.choice(SHAPES)
    whole = draw.random() < 0.6
    numbers = [
        draw.randint(0, 255) if whole else draw.choice([draw.random(), -3, 1e30, 2**40, -1.5e-9])
        for _ in range(int(np.prod(shape)))
    ]
    nest = np.array(numbers, object).reshape(shape).tolist()
    document = {draw.choice(["instances", "inputs"]): nest}
    if draw.random() < 0.5:
        named = {"signature_name": draw.choice(["", "serving_default"])}
        document = document | named if draw.random() < 0.5 else named | document
    separators = draw.choice([(",", ":"), (", ", ": "), (" ,\n ", " : ")])
    return json.dumps(document, separators=separators, indent=draw.choice([None, None, 1])).encode()


def broken(draw: random.Random, right: bytes) -> bytes:
    """Change a few bytes."""
    changed = bytearray(right)
    for _ in range(draw.randint(1, 2)):
        place = draw.randrange(len(changed))
        change = draw.choice(["drop", "double", "put", "swap"])
        if change == "drop":
            del changed[place]
        elif change == "double":
            changed[place:place] = changed[place : place + 1]
        elif change == "put":
            changed[place:place] = draw.choice([b"[", b"]", b",", b"1", b"-", b".", b"e", b" "])
        else:
            other = draw.randrange(len(changed))
            changed[place], changed[other] = changed[other], changed[place]
    return bytes(changed)


def outcome(parse: Any, given: bytes, dtype: str) -> tuple[Any, ...]:
    """Return what a body becomes: an error, or its signature, form and array."""
    try:
        document = parse(given)
        arrays, by_row = decode_inputs(document, {"x": TensorSpec(dtype, None)})
        array = arrays["x"]
        return signature_name(document), by_row, array.dtype, array.shape, array.tobytes()
    except RequestError as error:
        return error.status, str(error)


def test_plain_numbers_are_read_as_the_general_parser_reads_them() -> None:
    draw = random.Random(1)
    plain = 0
    for _ in range(300):
        right = body(draw)
        plain += parse_numbers(right) is not None
        for given in (right, *(broken(draw, right) for _ in range(6))):
            dtype = draw.choice([*DTYPES, "half"])
            assert outcome(parse_predict, given, dtype) == outcome(parse_document, given, dtype)
    assert plain == 300


NESTS = "[[1],2[]] [[],12[]] [[1]2] [1[2]] [[1][2]] [1,[2]] [[1],[]] [] [[]] [01] [+1] [1.] [1]]"
NESTS += ' [NaN] [true] ["1"] [1e999] [[1]'
OTHERS = [
    '{"instances": [1 2]}',
    '{"instances": [1], "inputs": [1]}',
    '{"instances": [1], "more": 1}',
    '{"instances": [1]} 2',
    '{"signature_name": "a", "instances": [1], "signature_name": "b"}',
    '{"signature_name": "\\u0061", "instances": [1]}',
    '{"signature_name": 1, "inputs": [1]}',
    "[[1]]",
    "",
]


@pytest.mark.parametrize("nest", NESTS.split())
def test_what_is_not_plain_is_left_to_the_general_parser(nest: str) -> None:
    assert parse_numbers(b'{"instances": %b}' % nest.encode()) is None


@pytest.mark.parametrize("text", OTHERS)
def test_other_documents_are_left_to_the_general_parser(text: str) -> None:
    assert parse_numbers(text.encode()) is None


def test_a_picture_is_plain() -> None:
    pixels = np.arange(28 * 28, dtype=np.uint8).reshape(1, 28, 28, 1)
    document = parse_predict(json.dumps({"instances": pixels.tolist()}).encode())
    assert isinstance(document["instances"], Numbers)
    specs = {"pixels": TensorSpec("uint8", (None, 28, 28, 1))}
    arrays, by_row = decode_inputs(document, specs)
    assert by_row and arrays["pixels"].dtype == np.uint8 and (arrays["pixels"] == pixels).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"\xef\xbb\xbf{1}", "Missing a name for object member. at offset: 4"),
        ('{"é": [1 2]}'.encode(), "Missing a comma or ] after an array element. at offset: 10"),
        (
            b'{"a": {"b": ["]"]} "c": 1}',
            "Missing a comma or } after an object member. at offset: 19",
        ),
        (b" \n", "The document is empty. at offset: 2"),
        (b'{"a": ["\\u12g4"]}', "Incorrect hex digit after \\u escape in string. at offset: 8"),
        (b'{"a": "\x01"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": "\xff"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": 1' + b"0" * 400 + b"}", "Number too big to be stored in double. at offset: 6"),
        (b"[" * 100_000, "Nested too deep."),
    ],
)
def test_what_is_said_of_no_json(given: bytes, words: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse_document(given)
    assert str(raised.value) == f"JSON Parse error: {words}"
    assert raised.value.status == 400
