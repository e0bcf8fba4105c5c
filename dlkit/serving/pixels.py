"""How large an encoded image will be, read from its header before anything decodes it.

Reads what TensorFlow's decoders go by (png, jpeg, gif, bmp, webp; `decode_image_op.cc`), in time
that is bounded by a small part of the image's bytes. Pillow, which reads more formats and more of
each, takes 150 to 500 µs for a small image, and a second for a GIF of 100,000 frames of one pixel.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator

from dlkit.serving.batching import Arrays
from dlkit.serving.model import Signature
from dlkit.serving.tensors import RequestError

IMAGE = "image"
# What a request's images may have together, in images of the most pixels.
TOGETHER = 16
# Blocks that are looked at: so many, and one for each so many bytes. Encoders fill them with 255.
BLOCKS, BYTES_A_BLOCK = 2**16, 128
# JPEG's markers (ITU-T T.81, table B.1): of the frames, which hold the size; those without a length.
SIZED = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE = {0x00, 0x01, *range(0xD0, 0xD9)}
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA


def check_pixels(signature: Signature, arrays: Arrays, most: int) -> None:
    """Refuse encoded images of more than `most` pixels, all frames of an animation together.

    Looks at the input named `image` where it takes strings, as that of dlkit's exports; what a
    foreign model decodes under other names is not known. What is no image is left to the model.

    Raises:
        RequestError: 400, an image is too large, or all are together, or one is cut into more
            blocks than an encoder would make of it.
    """
    spec = signature.inputs.get(IMAGE)
    if spec is None or spec.dtype != "string":
        return
    images = arrays[IMAGE].ravel().tolist()
    blocks = itertools.repeat(None, BLOCKS + sum(map(len, images)) // BYTES_A_BLOCK)
    total = 0
    for contents in images:
        pixels = pixels_of(contents, blocks)
        total += pixels
        if pixels > most:
            raise RequestError(f"The image has {pixels:,} pixels; at most {most:,} are accepted")
    if total > TOGETHER * most:
        raise RequestError(
            f"The images have {total:,} pixels together; at most {TOGETHER * most:,} are accepted"
        )


def pixels_of(contents: bytes, blocks: Iterator[None]) -> int:
    """Return width x height x frames as the header says, 0 for what is no image.

    Args:
        contents: the file.
        blocks: one is taken for each block that is looked at.
    Raises:
        RequestError: 400, `blocks` came to an end.
    """
    read = next((read for begin, read in READERS.items() if contents.startswith(begin)), None)
    try:
        return read(contents, blocks) if read else 0
    except (IndexError, ValueError, struct.error):  # it is cut short; so its decoder will say
        return 0
    except StopIteration:
        raise RequestError("The image consists of too many blocks for its size") from None


def _png(contents: bytes, blocks: Iterator[None]) -> int:
    return math.prod(struct.unpack_from(">II", contents, 16))  # the first chunk is IHDR


def _bmp(contents: bytes, blocks: Iterator[None]) -> int:
    width, height = struct.unpack_from("<ii", contents, 18)
    return abs(width * height)  # a negative height: the first row on top


def _jpeg(contents: bytes, blocks: Iterator[None]) -> int:
    at = 2
    while True:
        next(blocks)
        at = (
            contents.index(0xFF, at) + 1
        )  # what stands between segments is skipped, as libjpeg does
        marker = contents[at]
        if marker in SIZED:
            return math.prod(struct.unpack_from(">HH", contents, at + 4))
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            return 0
        if marker == 0xFF:  # a byte to fill: the next one may be the marker
            continue
        at += 1
        at += 0 if marker in BARE else struct.unpack_from(">H", contents, at)[0]


def _gif(contents: bytes, blocks: Iterator[None]) -> int:
    screen = math.prod(struct.unpack_from("<HH", contents, 6))
    at = 13 + _palette(contents[10])
    total = 0
    while at < len(contents):
        next(blocks)
        if contents[at] == 0x2C and at + 10 <= len(contents):  # a frame
            frame = math.prod(struct.unpack_from("<HH", contents, at + 5))
            total += max(screen, frame)  # a frame can be larger than the screen it is drawn on
            at += 11 + _palette(contents[at + 9])
        elif contents[at] == 0x21:  # an extension
            at += 2
        else:
            break
        while at < len(contents) and contents[at]:
            next(blocks)
            at += 1 + contents[at]
        at += 1
    return total


def _palette(flags: int) -> int:
    """Return the bytes of a GIF's colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp(contents: bytes, blocks: Iterator[None]) -> int:
    kind = contents[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", contents, 26)
        return (width & 0x3FFF) * (height & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", contents, 21)
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    if kind != b"VP8X":
        return 0
    width, height = (int.from_bytes(contents[at : at + 3], "little") + 1 for at in (24, 27))
    frames, at = 0, 12
    while at + 8 <= len(contents):
        next(blocks)
        name, size = struct.unpack_from("<4sI", contents, at)
        frames += name == b"ANMF"
        at += 8 + size + size % 2
    return width * height * max(1, frames)


READERS: dict[bytes, Callable[[bytes, Iterator[None]], int]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF8": _gif,
    b"BM": _bmp,
    b"RIFF": _webp,
}
