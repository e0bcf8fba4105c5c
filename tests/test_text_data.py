"""Text sources and tokenizers."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlkit.data.text import check_source, load_text, percentages
from dlkit.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    UnknownCharacters,
    from_json,
    make_tokenizer,
)
from dlkit.errors import DataError, OptionError

# Two line ends, NUL, 2, 3 and 4 bytes of UTF-8, white space of several kinds.
ODD = "a\r\n\n\0 \tnaïve ☃☃ 😀 don't\u2028x  "
# 1,152 characters, 21 different.
PLAIN = "the quick brown fox\njumps over it\n" * 34


@pytest.fixture
def here(tmp_path: Path) -> Callable[..., str]:
    """Write a file and give its path."""

    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def whole(source: str, **options: Any) -> str:
    """Return all characters of a source."""
    loaded = load_text(source, tokenizer="byte", **{"context_length": 2, **options})
    return "".join(loaded.text.values())


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_every_tokenizer_gives_back_every_character(kind: str) -> None:
    text = ODD * 5 + PLAIN
    made = make_tokenizer(kind, text)
    tokens = made.encode(text)
    assert tokens.dtype == np.int32
    assert tokens.max() < made.size
    assert made.decode(tokens) == text
    assert made.encode(text, dtype=made.dtype).dtype == made.dtype
    assert made.encode("").shape == (0,) and made.decode([]) == ""
    assert made.characters(tokens).sum() == len(text)
    again = from_json(json.loads(json.dumps(made.to_json())))
    assert (again.kind, again.size, again.to_json()) == (kind, made.size, made.to_json())
    np.testing.assert_array_equal(again.encode(text), tokens)


def test_a_table_of_characters_holds_any_code_point() -> None:
    points = (0, 10, 13, 0x7F, 0x80, 0xD800, 0xFFFF, 0x10000, 0x10FFFF)
    text = "".join(map(chr, reversed(points))) * 2
    made = make_tokenizer("char", text)
    assert isinstance(made, CharTokenizer) and made.code_points == points
    assert made.encode(text).tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0] * 2
    assert made.decode(made.encode(text)) == text


def test_texts_longer_than_a_chunk() -> None:
    # A wide character late in the text, and another number of tokens in each chunk.
    text = "ab\n" * 1_500_000 + "é☃" * 10 + "?"
    made = make_tokenizer("char", text)
    tokens = made.encode(text, dtype=made.dtype)
    assert tokens.dtype == np.uint8 and made.decode(tokens) == text
    fewer = CharTokenizer(map(ord, "\nab"))
    assert fewer.decode(fewer.encode(text, "drop")) == "ab\n" * 1_500_000
    assert fewer.unknown_characters(text) == {"?": 1, "é": 10, "☃": 10}
    raw = ByteTokenizer().encode(text, dtype=np.uint8)
    assert raw.tobytes() == text.encode()


def test_unknown_characters_are_refused_by_name_or_dropped() -> None:
    made = make_tokenizer("char", "abc")
    with pytest.raises(UnknownCharacters) as caught:
        made.encode("aXbX\ncvwyz")
    assert str(caught.value) == (
        "7 characters are not in the vocabulary of 3 tokens: "
        "'\\n' (1), 'X' (2), 'v' (1), 'w' (1), 'y' (1) and 1 more"
    )
    assert made.decode(made.encode("aXbX\nc", "drop")) == "abc"
    assert made.unknown_characters("ca") == {}
    for kind in ("byte", "bpe"):
        # UTF-8 has everything but halves of surrogate pairs.
        made = make_tokenizer(kind, PLAIN)
        assert made.unknown_characters("a\ud800☃\ud800") == {"\ud800": 2}
        with pytest.raises(UnknownCharacters, match=r"1 character is not .*'\\ud800' \(1\)"):
            made.encode("a\ud800")
        assert made.decode(made.encode("a\ud800☃", "drop")) == "a☃"


def test_bytes_that_are_no_text_decode_all_the_same() -> None:
    raw = [0x61, 0xFF, 0xE2, 0x98, 0x62]
    assert ByteTokenizer().decode(raw) == "a\ufffd\ufffdb"
    made = make_tokenizer("bpe", "")
    tokens = [int(made.encode("☃")[0]), *made.encode("b")]
    assert made.size == 256 and made.decode(tokens) == "\ufffdb"


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_a_character_counts_where_its_last_byte_lies(kind: str) -> None:
    made = make_tokenizer(kind, PLAIN)
    assert made.characters(made.encode("a☃é😀")).tolist() == [1, 0, 0, 1, 0, 1, 0, 0, 0, 1]
    text = ODD * 3 + "☃😀é" * 5
    tokens = made.encode(text)
    for cut in range(4, len(tokens) - 3):
        pieces = (tokens[:cut], tokens[cut:])
        assert sum(int(made.characters(piece).sum()) for piece in pieces) == len(text)


def test_byte_pairs_are_the_librarys_own_whatever_the_length_of_a_text() -> None:
    import tokenizers

    text = (ODD + PLAIN) * 150
    made = make_tokenizer("bpe", text, 300)
    assert 280 < made.size <= 300
    assert made.to_json() == make_tokenizer("bpe", text, 300).to_json()
    library = tokenizers.Tokenizer.from_str(json.dumps(made.to_json()["tokenizers"]))
    tokens = made.encode(text)
    assert tokens.tolist() == library.encode(text).ids
    assert len(tokens) < 0.6 * len(text.encode())
    assert library.decode(tokens.tolist()) == text == made.decode(tokens)


def test_tokens_out_of_range_do_not_decode() -> None:
    for made in (make_tokenizer("char", "ab"), ByteTokenizer(), make_tokenizer("bpe", "ab")):
        for wrong in (-1, made.size):
            with pytest.raises(ValueError, match=rf"token {wrong} lies outside \[0, {made.size}\)"):
                made.decode([0, wrong])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"kind": "word"}, "kind 'word'; accepted: bpe, byte, char"),
        ({"kind": "char"}, "code_points"),
        ({"kind": "char", "code_points": [2, 1]}, "needs rising numbers"),
        ({"kind": "char", "code_points": []}, "needs rising numbers"),
        ({"kind": "bpe", "tokenizers": {}}, "no tokenizer of byte pairs"),
    ],
)
def test_a_broken_tokenizer_is_told(made: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        from_json(made)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"tokenizer": "cahr"},
            r"--tokenizer: got 'cahr' \(did you mean 'char'\?\); accepted: bpe",
        ),
        ({"vocabulary": 300}, "--vocabulary: got 300; accepted with --tokenizer bpe alone"),
        ({"tokenizer": "bpe", "vocabulary": 256}, r"--vocabulary: got 256; .* \[257, 65536\]"),
        ({"split": "90/5"}, "--split: got '90/5', a sum of 95; accepted: .*90/5/5"),
        ({"split": "80/ten/10"}, "--split: got '80/ten/10'; accepted"),
        ({"split": "100"}, "--split: got '100'"),
        ({"split": "90/0/10"}, "--split: got '90/0/10'"),
        ({"split": "110/-15/5"}, "--split: got '110/-15/5'"),
    ],
)
def test_options_that_are_not_accepted(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        load_text("pydoc", **options)


def test_a_split_is_cut_by_position_in_characters(here: Callable[..., str]) -> None:
    text = "☃" + "".join(chr(97 + i % 26) for i in range(999))
    source = here("a.txt", text)
    loaded = load_text(source, context_length=20)
    assert loaded.sizes() == {"train": 900, "validation": 50, "test": 50}
    assert loaded.text == {"train": text[:900], "validation": text[900:950], "test": text[950:]}
    assert loaded.tokenizer.decode(loaded.validation) == text[900:950]
    assert loaded.spec.input_shape == (20,) and loaded.spec.dtype == "int32"
    assert loaded.spec.outputs == loaded.tokenizer.size == 27
    assert loaded.notes == [] and "900 train, 50 validation, 50 test" in loaded.describe()
    two = load_text(source, context_length=20, split="87.5/12.5")
    assert two.sizes() == {"train": 875, "validation": 125, "test": 0}
    assert "875 train, 125 validation characters" in two.describe()
    assert sum(percentages("33.3/33.3/33.4")) == 1
    # The characters tell a text, not its tokens or their number.
    other = load_text(source, context_length=9, tokenizer="byte")
    assert other.sizes()["train"] == 902 and other.fingerprint() == loaded.fingerprint()
    assert two.fingerprint() != loaded.fingerprint()


def test_characters_that_train_lacks_are_left_out_and_counted(here: Callable[..., str]) -> None:
    source = here("a.txt", "abcdefghij" * 90 + "ab☃Z☃" * 10 + "b" * 50)
    loaded = load_text(source, context_length=10)
    assert loaded.tokenizer.size == 10
    assert loaded.text["validation"] == "ab" * 10
    assert loaded.sizes() == {"train": 900, "validation": 20, "test": 50}
    said = "30 characters of validation that train lacks left out: 'Z' (10), '☃' (20)"
    assert loaded.notes == [said]
    assert load_text(source, context_length=10, tokenizer="byte").notes == []


def test_pydoc_is_there_without_any_file_and_without_tensorflow() -> None:
    script = (
        "import sys; from dlkit.data.text import load_text; d = load_text('pydoc');"
        "assert not {'tensorflow', 'keras', 'tokenizers'} & set(sys.modules); print(d.describe())"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = load_text("pydoc", tokenizer="bpe")
    assert f"Python {platform.python_version()}" in loaded.notes[0]
    assert sum(map(len, loaded.text.values())) > 300_000
    assert loaded.tokenizer.size == 1024 and loaded.train.dtype == np.uint16
    train = len(loaded.text["train"])
    assert out.stdout.startswith(f"data pydoc: {train:,} train, ")


def test_files_keep_their_line_ends_and_lose_a_byte_order_mark(here: Callable[..., str]) -> None:
    text = "one\r\ntwo\n\r\n" * 20
    assert whole(here("crlf.md", text)) == text
    marked = here("bom.log", "\ufeff" + text)
    assert whole(marked) == text
    said = f"the byte order mark at the start of {marked} is left out"
    assert load_text(marked, context_length=2).notes == [said]
    # A character lies across the borders of what is read at once.
    wide = "a" + "é" * 2_200_000
    assert whole(here("wide.txt", wide)) == wide


def test_a_folder_is_read_in_order_without_hidden_files(here: Callable[..., str]) -> None:
    here("books/b.txt", "second\n" * 9)
    here("books/a/z.rst", "first" * 9)
    here("books/empty.txt", "")
    here("books/.hidden.txt", b"\xff")
    folder = Path(here("books/.git/config", b"\0")).parents[1]
    assert whole(str(folder)) == "first" * 9 + "\n" + "second\n" * 9
    notes = load_text(str(folder), context_length=2).notes
    assert notes == [f"2 files of {folder}, in the order of their names", "1 empty file left out"]
    here("books/c.png", b"\x89PNG\0")
    with pytest.raises(DataError, match=r"books/c\.png: looks binary \(byte 0x00 at offset 4\)"):
        load_text(str(folder))


def test_a_field_of_records_is_joined_by_lines(here: Callable[..., str]) -> None:
    rows = [("1", 'a "quoted", é☃\nline'), ("2", ""), ("3", "b" * 200_000)]
    lines = "\n\n".join(json.dumps({"id": i, "text": text}) for i, text in rows)
    expected = "\n".join(text for _, text in rows)
    assert whole(here("a.jsonl", "\ufeff" + lines), field="text") == expected
    cells = "".join('{},"{}"\r\n'.format(i, t.replace('"', '""')) for i, t in rows)
    assert whole(here("a.csv", "\ufeffid, text\r\n" + cells), field="text") == expected
    # The only field with text need not be named.
    assert whole(here("b.jsonl", '{"n": 1, "text": "abcdefghijkl"}\n' * 5)).startswith("abcdef")
    assert whole(here("b.csv", "only\n" + "abcdefghijkl\n" * 5)).startswith("abcdefghijkl\na")


@pytest.mark.parametrize(
    ("name", "content", "field", "said"),
    [
        ("a.txt", b"", None, "a.txt: is empty"),
        ("a.txt", b"\xef\xbb\xbf", None, "a.txt: is empty"),
        ("a.txt", b"ab\xe9c" * 99, None, "is not UTF-8: byte 0xe9 at offset 2 cannot stand there"),
        ("a.txt", b"ab\xc3", None, "is not UTF-8: byte 0xc3 at offset 2"),
        ("a.txt", b"a" * 5_000_000 + b"\xff", None, "byte 0xff at offset 5000000"),
        (
            "a.pdf",
            b"%PDF\0" * 9,
            None,
            r"looks binary \(byte 0x00 at offset 4\); accepted: a UTF-8",
        ),
        ("a.txt", "abc".encode("utf-16"), None, "is UTF-16 by its first bytes; save it as UTF-8"),
        ("a.txt", b"aaaa" * 99, None, "train holds 'a' alone; needed: two different characters"),
        ("a.txt", b"\n\n" * 99, None, r"train holds '\\n' alone"),
        ("a.txt", b"a", None, "train holds nothing"),
        ("a.txt", b"abcd" * 9, "text", r"--field: got 'text'; accepted with \.jsonl, \.csv or"),
        ("a.jsonl", b'{"a": "b"}\n{"a": 1}', "a", "line 2 has no text in field 'a' but 1"),
        ("a.jsonl", b'{"text": "b"}\n\n{"x": 1}', "text", "line 3 has no field 'text'; has: x"),
        ("a.jsonl", b'{"text": "b"}', "txt", r"has no field 'txt' \(did you mean 'text'\?\)"),
        ("a.jsonl", b'{"a": "b", "c": "d"}', None, "--field is needed; fields: a, c"),
        ("a.jsonl", b'{"a": 1}', None, "has no field to read"),
        ("a.jsonl", b'["b"]', "a", "line 1 is no object but a list"),
        ("a.jsonl", b'{"a": "b"}\n{"a"', "a", "line 2 is no JSON"),
        ("a.jsonl", b'{"a": "b"}\n{"a": "\xff"}', "a", "byte 0xff at offset 18"),
        ("a.jsonl", rb'{"a": "\ud800"}', "a", r"line 1 has half a surrogate pair \(0xd800\)"),
        ("a.jsonl", b"\n\n", "a", "is empty"),
        (
            "a.csv",
            b"id,text\n1,b",
            "txet",
            r"no column 'txet' \(did you mean 'text'\?\); columns: id",
        ),
        ("a.csv", b"id,text\n1,b", None, "--field is needed; columns: id, text"),
        ("a.csv", b"id,text\n1,b\n2,c,d", "text", "line 3 has 3 cells, the header 2"),
        ("a.csv", b"text,text\n1,b", "text", "has column 'text' twice"),
        ("a.csv", b"text\n", "text", "is empty"),
        ("a.csv", b'text\na\n"b', "text", "is no CSV"),
        ("a.csv", b"text\n" + b"a\n" * 9000 + b"\xe9", "text", "byte 0xe9 at offset 18005"),
    ],
)
def test_sources_that_cannot_be_read(
    here: Callable[..., str], name: str, content: bytes, field: str | None, said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load_text(here(name, content), field=field)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "pydocs",
            r"no built-in source 'pydocs' \(did you mean 'pydoc'\?\); accepted: pydoc, tfds",
        ),
        ("no/such", "no file or folder no/such"),
        ("book.txt", "no file or folder book.txt"),
        ("tfds:tiny", "tfds:tiny: not prepared in .*; there: nothing"),
        (".", "no files in it"),
    ],
)
def test_names_of_nothing(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A folder has a slash, or it would be the name of a built-in source.
    with pytest.raises(DataError, match=said):
        check_source(source if source != "." else "./", str(tmp_path), download=False)


def test_a_split_too_short_for_the_context_is_named(here: Callable[..., str]) -> None:
    source = here("a.txt", PLAIN[:1000])
    said = "test has 50 tokens, a context of 50 needs 51; give more text"
    assert load_text(source, context_length=49).sizes()["test"] == 50
    with pytest.raises(DataError, match=r"validation has 50 tokens, a context of 50 needs 51"):
        load_text(source, context_length=50)
    with pytest.raises(DataError, match=said):
        load_text(source, context_length=50, split="85/10/5")
    assert load_text(source, context_length=50, split="90/10").sizes()["test"] == 0


def test_a_tfds_set_of_text(tmp_path: Path) -> None:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def rows(texts: list[str]) -> tf.data.Dataset:
        columns: Any = {"text": texts, "title": ["title"] * len(texts)}
        return tf.data.Dataset.from_tensor_slices(columns)

    features = {"text": tfds.features.Text(), "title": tfds.features.Text()}

    def store(name: str, splits: dict[str, list[str]]) -> None:
        tfds.dataset_builders.store_as_tfds_dataset(
            name,
            version="1.0.0",
            data_dir=tmp_path,
            split_datasets={split: rows(texts) for split, texts in splits.items()},
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    store("tiny", {"test": ["the end " * 9], "train": ["ab ☃\n", "cd"]})
    store("cut", {"test": ["ond"], "train": ["first and se"], "validation": ["c"]})
    where: dict[str, Any] = {"data_dir": str(tmp_path), "download": False}
    assert whole("tfds:tiny", field="text", **where) == "ab ☃\n\ncd\n" + "the end " * 9
    loaded = load_text("tfds:tiny", field="text", context_length=2, **where)
    assert "'text' of 3 examples of tfds:tiny: train then test" in loaded.notes
    # Splits of one example each are one text that was cut.
    short: dict[str, Any] = {"split": "60/40", **where}
    assert whole("tfds:cut", field="text", **short) == "first and second"
    with pytest.raises(DataError, match="--field is needed; text features: text, title"):
        load_text("tfds:tiny", **where)
    with pytest.raises(DataError, match=r"no text feature 'txt' \(did you mean 'text'\?\)"):
        load_text("tfds:tiny", field="txt", **where)
