"""Why examples are strange: the features their score is most due to, in words and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Reasons told of an example.
TOLD = 3


@dataclass(frozen=True)
class Kept:
    """One of the worst examples.

    Attributes:
        row: number from 1, over all files.
        name: the image's file, or None.
        score, p_value, is_anomaly: the answers.
        reasons: features and their shares.
        features: `feature_scores` of the example.
        pixels: the image, or None.
    """

    row: int
    name: str | None
    score: float
    p_value: float
    is_anomaly: bool
    reasons: list[tuple[str, float]]
    features: np.ndarray
    pixels: np.ndarray | None


def reasons(features: np.ndarray, about: Mapping[str, Any]) -> list[list[tuple[str, float]]]:
    """Return the three strongest features of each example with their shares of all.

    Of several channels these are channels, summed over the window; of one, its steps, 0 being the
    row itself and -1 the one before; of images, pixels by row and column.
    """
    flat, names = named(features, about)
    count = min(TOLD, flat.shape[1])
    total = flat.sum(1)
    at = np.argpartition(-flat, count - 1, axis=1)[:, :count]
    strong = np.take_along_axis(flat, at, 1)
    order = np.argsort(-strong, axis=1, kind="stable")
    at, strong = np.take_along_axis(at, order, 1), np.take_along_axis(strong, order, 1)
    shares = strong / np.maximum(total, 1e-30)[:, None]
    return [
        [(names[i], share) for i, share in zip(row, part, strict=True) if share > 0]
        for row, part in zip(at.tolist(), shares.tolist(), strict=True)
    ]


def named(features: np.ndarray, about: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Return features as `(n, names)`, and what each is called."""
    columns = about["feature_names"]
    if about["kind"] == "images":
        width = features.shape[2]
        pixels = features.shape[1] * width
        return features.reshape(-1, pixels), [f"{i // width},{i % width}" for i in range(pixels)]
    if about["kind"] == "series":
        if len(columns) > 1:
            return features.sum(1), columns
        steps = features.shape[1]
        return features[:, :, 0], [f"{columns[0]}[{i - steps + 1}]" for i in range(steps)]
    return features, columns


class Worst:
    """The examples with the highest scores so far.

    Attributes:
        kept: they, the worst first; of equal scores, the earlier one.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self.kept: list[Kept] = []

    def add(
        self, begin: int, answers: Mapping[str, Any], why: list[list[tuple[str, float]]], piece: Any
    ) -> None:
        """Look at a piece's answers; `begin` rows came before its first."""
        order = np.argsort(-answers["score"], kind="stable")[: self.top]
        images = "pixels" in piece.inputs
        fresh = [
            Kept(
                begin + int(i) + 1,
                str(piece.frame["file"].iloc[i]) if images else None,
                float(answers["score"][i]),
                float(answers["p_value"][i]),
                bool(answers["is_anomaly"][i]),
                why[i],
                answers["feature_scores"][i].copy(),
                piece.inputs["pixels"][i].copy() if images else None,
            )
            for i in order
        ]
        self.kept = sorted([*self.kept, *fresh], key=lambda each: (-each.score, each.row))
        self.kept = self.kept[: self.top]


def table(kept: Sequence[Kept]) -> str:
    """Lay the worst examples out for a terminal."""
    lines = [["row", "score", "p value", "anomaly", "reasons"]]
    lines += [
        [
            each.name or f"{each.row:,}",
            f"{each.score:.4g}",
            f"{each.p_value:.4f}",
            "yes" if each.is_anomaly else "no",
            "  ".join(f"{name} {share:.2f}" for name, share in each.reasons),
        ]
        for each in kept
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
