"""Strings for a model of byte pairs, whose graph takes and gives tokens: merges fit into no graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.serving.tensors import TensorSpec

TOKENIZER = Path("assets.extra", "tokenizer.json")
STRINGS = {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}}  # fmt: skip


def with_strings(path: Path, signatures: dict[str, Any], described: dict[str, Any]) -> None:
    """Let `serving_default` take `prompt` and give `text`, and `score` take `text`, in place of tokens.

    Args:
        path: the SavedModel's folder, which holds the tokenizer.
        signatures: `Signature` by name; both are replaced.
        described: TensorFlow Serving's description of each, changed alike.
    """
    from dlkit.data.tokenizers import from_json
    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow()
    tokenizer = from_json(json.loads((path / TOKENIZER).read_text(encoding="utf-8")))

    def encoded(strings: Any) -> dict[str, Any]:
        rows = [
            tokenizer.encode(text.decode("utf-8", "replace"), "drop") for text in strings.numpy()
        ]
        tokens = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        lengths = np.array([len(row) for row in rows], np.int32)
        return {"tokens": tf.constant(tokens), "lengths": tf.constant(lengths)}

    complete, score = (signatures[name].function for name in ("serving_default", "score"))

    def completed(prompt: Any, **rest: Any) -> dict[str, Any]:
        found = complete(**encoded(prompt), **rest)
        texts = [tokenizer.decode(row[row >= 0]) for row in found["tokens"].numpy()]
        return {**found, "text": tf.constant(texts)}

    def scored(text: Any) -> dict[str, Any]:
        return score(**encoded(text))

    for name, string, function in (
        ("serving_default", "prompt", completed),
        ("score", "text", scored),
    ):
        before = signatures[name]
        kept = {k: v for k, v in before.inputs.items() if k not in ("tokens", "lengths")}
        inputs = {string: TensorSpec("string", (None,)), **kept}
        signatures[name] = type(before)(dict(sorted(inputs.items())), function)
        tensors = described[name]["inputs"]
        names = {string: {"name": string, **STRINGS}}
        described[name]["inputs"] = names | {k: tensors[k] for k in kept}
    outputs = described["serving_default"]["outputs"]
    described["serving_default"]["outputs"] = outputs | {"text": {"name": "text", **STRINGS}}
