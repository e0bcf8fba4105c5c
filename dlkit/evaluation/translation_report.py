"""The report of a translator between two domains of pictures, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.checkpoint import write_atomically
from dlkit.data.spec import Data
from dlkit.evaluation import fidelity
from dlkit.evaluation.feature_net import FeatureNet
from dlkit.evaluation.synthesis_plots import rows_of

MOST_ROWS, SHOWN = 10_000, 32
DIRECTIONS = ("a-to-b", "b-to-a")
# Draws for the intervals of means.
DRAWS = 200


def translation_report(
    translate: Callable[[np.ndarray, str], np.ndarray],
    domains: tuple[Data, Data],
    nets: tuple[FeatureNet, FeatureNet],
    folder: Path,
    *,
    about: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Translate the test pictures of both domains; write `report.json` and a picture each way.

    Args:
        translate: uint8 pictures `(n, h, w, c)` and a direction to such pictures.
        domains: a and b.
        nets: judge the pictures of a, and of b; those of labels that both domains share also tell
            whether a translation shows what its original did.
        folder: where `report.json`, `a-to-b.png` and `b-to-a.png` go.
        about: more entries of the report.
        notes: what a reader should know.
        seed: of what is drawn.
    Returns:
        What `report.json` holds. Metrics, each also with the ending `_b_to_a`: `fid` (translations
        against test pictures of the other domain), `cycle` (mean absolute difference after there
        and back, in [0, 1]) and, where labels are shared, `label_accuracy`. Baselines:
        `real_against_real` (training pictures of the domain) and `untranslated`.
    """
    whole: dict[str, Any] = {"metrics": {}, "intervals": {}}
    beside: dict[str, Any] = {
        name: {"metrics": {}, "intervals": {}} for name in ("real_against_real", "untranslated")
    }
    generator, sizes = np.random.default_rng(seed), []
    one, other = (data.spec for data in domains)
    # Two domains of one class each share it by name alone: the net then tells the domains apart.
    shares_labels = one.labels == other.labels and one.outputs > 1 and len(nets[0].labels) > 1
    for way, direction in enumerate(DIRECTIONS):
        source, target, net = domains[way], domains[1 - way], nets[1 - way]
        ending = "" if way == 0 else "_b_to_a"
        rows = min(MOST_ROWS, len(source.test), len(target.test), len(target.train))
        sizes.append(rows)
        at = np.sort(generator.permutation(len(source.test))[:rows])
        originals, y = np.asarray(source.test.x[at]), source.test.y[at]
        made = translate(originals, direction)
        back = translate(made, DIRECTIONS[1 - way])
        known = np.sort(generator.permutation(len(target.train))[:rows])
        held = np.sort(generator.permutation(len(target.test))[:rows])
        features = net.features(np.asarray(target.test.x[held]))
        shown = {
            "model": made,
            "untranslated": originals,
            "real_against_real": np.asarray(target.train.x[known]),
        }
        for name, pictures in shown.items():
            column = whole if name == "model" else beside[name]
            seen, probabilities = net.look(pictures)
            column["metrics"][f"fid{ending}"] = fidelity.fid(features, seen)
            column["intervals"][f"fid{ending}"] = fidelity.fid_interval(features, seen, seed=seed)
            if shares_labels:
                truth = target.train.y[known] if name == "real_against_real" else y
                _mean(column, f"label_accuracy{ending}", probabilities.argmax(1) == truth)
        change = np.abs(originals.astype(np.float32) - back).mean((1, 2, 3)) / 255.0
        _mean(whole, f"cycle{ending}", change)
        rows_of(originals[:SHOWN], made[:SHOWN], folder / f"{direction}.png")
    report: dict[str, Any] = {
        **(about or {}),
        "translates": True,
        "split": "test",
        "rows": min(sizes),
        **whole,
        "baselines": beside,
        "verdict": verdict(whole["metrics"], beside),
        "notes": list(notes),
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1).encode()
    write_atomically(folder / "report.json", lambda file: file.write(text))
    return report


def _mean(column: dict[str, Any], name: str, values: np.ndarray) -> None:
    """Put a mean and its interval, by the normal approximation, into a column."""
    value, n = float(values.mean()), len(values)
    deviation = float(values.std() / n**0.5)
    column["metrics"][name] = value
    column["intervals"][name] = fidelity.around(value, deviation, low=0.0, high=1.0)


def verdict(metrics: Mapping[str, float], beside: Mapping[str, Any]) -> str:
    """Say in words whether translations are nearer to the other domain than the originals were."""
    plain = beside["untranslated"]["metrics"]
    words = []
    for ending, direction in (("", "a to b"), ("_b_to_a", "b to a")):
        own, bar = metrics[f"fid{ending}"], plain[f"fid{ending}"]
        beats = "beats" if own < bar else "does NOT beat"
        words.append(
            f"{beats} leaving pictures as they are {direction} (FID {own:.3g} against {bar:.3g})"
        )
    return "; ".join(words)
