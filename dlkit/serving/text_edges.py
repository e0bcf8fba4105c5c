"""Strings for a model of byte pairs, whose graph takes and gives tokens: merges fit into no graph."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
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

    tokenizer = from_json(json.loads((path / TOKENIZER).read_text(encoding="utf-8")))

    def encoded(strings: np.ndarray) -> dict[str, np.ndarray]:
        rows = [tokenizer.encode(text.decode("utf-8", "replace"), "drop") for text in strings]
        tokens = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        return {"tokens": tokens, "lengths": np.array([len(row) for row in rows], np.int32)}

    complete, score = (signatures[name].run for name in ("serving_default", "score"))

    def completed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rest = {name: array for name, array in arrays.items() if name != "prompt"}
        found = complete(encoded(arrays["prompt"]) | rest)
        texts = [tokenizer.decode(row[row >= 0]) for row in found["tokens"]]
        return found | {"text": np.array([*texts, None], object)[:-1]}

    def scored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return score(encoded(arrays["text"]))

    for name, string, function in (
        ("serving_default", "prompt", completed),
        ("score", "text", scored),
    ):
        before = signatures[name]
        kept = {k: v for k, v in before.inputs.items() if k not in ("tokens", "lengths")}
        inputs = {string: TensorSpec("string", (None,)), **kept}
        specs = dict(sorted(inputs.items()))
        signatures[name] = dataclasses.replace(before, inputs=specs, run=function)
        tensors = described[name]["inputs"]
        names = {string: {"name": string, **STRINGS}}
        described[name]["inputs"] = names | {k: tensors[k] for k in kept}
    default = signatures["serving_default"]
    outputs = default.outputs | {"text": TensorSpec("string", (None,))}
    signatures["serving_default"] = dataclasses.replace(default, outputs=outputs)
    tensors = described["serving_default"]["outputs"]
    described["serving_default"]["outputs"] = tensors | {"text": {"name": "text", **STRINGS}}
