"""How large an encoded image will be, read from its header before anything decodes it."""

from __future__ import annotations

import io
import warnings

from dlkit.serving.batching import Arrays
from dlkit.serving.model import Signature
from dlkit.serving.tensors import RequestError

IMAGE = "image"


def check_pixels(signature: Signature, arrays: Arrays, most: int) -> None:
    """Refuse encoded images of more than `most` pixels, all frames of an animation together.

    Looks at the input named `image` where it takes strings. What is no image is left to the model.

    Raises:
        RequestError: 400, an image is too large.
    """
    spec = signature.inputs.get(IMAGE)
    if spec is None or spec.dtype != "string":
        return
    for contents in arrays[IMAGE].ravel():
        pixels = pixels_of(contents)
        if pixels > most:
            raise RequestError(
                f"The image has {pixels:,} pixels; at most {most:,} are accepted", 400
            )


def pixels_of(contents: bytes) -> int:
    """Return width x height x frames as the header says, 0 for what is no image."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning of large images
            # Opening reads the header alone.
            with Image.open(io.BytesIO(contents)) as image:
                return image.width * image.height * getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        return 2**63
    except Exception:  # Pillow raises nearly anything for a file that is cut short or made up
        return 0
