"""How much text one request may read or write, told before a graph makes room for it.

TensorFlow ends the process where a list of tokens does not fit into memory, instead of refusing the
request: `max_tokens` of 2**31 - 1 asks for 64 GiB.
"""

from __future__ import annotations

import numpy as np

from dlkit.serving.batching import Arrays
from dlkit.serving.model import ServedModel
from dlkit.serving.tensors import RequestError

MOST_TOKENS = 4096  # drawn for one text
MOST_TEXTS = 128  # of so many tokens that one request may ask for
# Tokens that one request may give, each row as long as the longest: numbers of logits, a vocabulary
# for each token, and the tokens themselves.
MOST_LOGITS = 2**28
MOST_READ = 2**18
READ = ("prompt", "text", "tokens")


def check_text(model: ServedModel, arrays: Arrays) -> None:
    """Refuse what dlkit's text generators could not answer in a memory of usual size.

    Of strings the bytes are counted, of which there are at least as many as tokens. Foreign models
    are not known to have these inputs.

    Raises:
        RequestError: 400, too many tokens are asked for, or too long a text is given.
    """
    if "tokenizer" not in (model.manifest or {}):
        return
    rows = max((len(array) for array in arrays.values() if array.ndim), default=0)
    if "max_tokens" in arrays:
        count = int(arrays["max_tokens"].max(initial=0))
        most = min(MOST_TOKENS, MOST_TEXTS * MOST_TOKENS // max(1, rows))
        if count > most:
            raise RequestError(
                f"max_tokens is {count:,}; at most {most:,} are drawn for each of {rows:,} rows"
            )
    prefill = model.signatures.get("prefill")
    vocabulary = prefill.outputs["logits"].shape if prefill else None
    most = min(MOST_READ, MOST_LOGITS // (vocabulary[-1] or 1 if vocabulary else 1))
    for name in READ:
        longest = _longest(arrays[name]) if name in arrays else 0
        if longest * rows > most:
            raise RequestError(
                f"{name} has {rows:,} rows of up to {longest:,} tokens or bytes; at most {most:,} "
                "are read, each row as long as the longest"
            )


def _longest(array: np.ndarray) -> int:
    if array.dtype == object:
        return max(map(len, array.ravel().tolist()), default=0)
    return array.shape[-1] if array.ndim else 1
