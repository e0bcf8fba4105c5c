"""The report of a classifier: scores, baselines, words and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.data.spec import Split
from dlkit.errors import counted
from dlkit.evaluation import baselines, paired, plots
from dlkit.evaluation.calibration import uncalibrated
from dlkit.evaluation.classification import intervals, per_class, reliability, scores


def classification_report(
    probabilities: np.ndarray,
    rows: Split,
    train: Split,
    labels: tuple[str, ...],
    folder: Path,
    *,
    split: str = "test",
    calibration: Mapping[str, Any] | None = None,
    drift: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Score a classifier beside its baselines; write `report.json`, `answers.npz`, three pictures.

    Args:
        probabilities: the model's, `(n, classes)`.
        rows: the scored rows.
        train: the training split, which the baselines learn from.
        labels: name of each class.
        folder: where `report.json`, `answers.npz` (see `paired.write`), `confusion.png`,
            `mistakes.png` and `reliability.png` go.
        split: name of the scored split.
        calibration: the fields of a `Calibration` that `probabilities` have gone through.
        drift: how the rows differ from the run's own, as `drift.drift` gives it.
        about: more entries for the report.
        notes: what a reader should know beside what is found here.
    Returns:
        What `report.json` holds: `metrics`, `intervals`, `baselines` (each with `metrics` and
        `intervals`), `per_class`, `verdict`, `reliability` (bins), `notes` and `rows_fingerprint`
        (see `Split`); where given, `calibration`, with log loss and ECE of the scored split before
        and after, and `drift`.
    """
    metrics = scores(probabilities, rows.y)
    guess = baselines.majority(train, len(labels), len(rows))
    near, cut = baselines.nearest_neighbour(train, rows.x, len(labels))
    beside = {}
    for name, answer, kept in (
        ("majority_class", guess, ("accuracy", "macro_f1", "log_loss")),
        ("nearest_neighbour", near, ("accuracy", "macro_f1")),
    ):
        values = scores(answer, rows.y)
        beside[name] = {
            "metrics": {k: values[k] for k in kept},
            "intervals": intervals(answer, rows.y, dict.fromkeys(kept)),
        }
    folder.mkdir(parents=True, exist_ok=True)
    plots.confusion(probabilities.argmax(1), rows.y, labels, folder / "confusion.png")
    wrong = plots.mistakes(rows.x, probabilities, rows.y, labels, folder / "mistakes.png")
    notes = [*notes, *([f"nearest neighbour: {cut}"] if cut else [])]
    if metrics["accuracy"] == 1.0:
        # Resampling rows that are all right says nothing of the errors that were not drawn.
        notes.append(
            f"no mistakes in {counted(len(rows), 'image')}: by the rule of three the error rate may "
            f"still be up to {min(100, 300 / len(rows)):.1f} %"
        )
    panels = {"reliability": reliability(probabilities, rows.y)}
    if calibration:
        calibration = dict(calibration)
        notes.append(calibration["note"])
        if calibration["temperature"] != 1.0:
            raw = uncalibrated(probabilities, calibration["temperature"])
            was = scores(raw, rows.y)
            calibration[split] = {
                name: {"before": was[name], "after": metrics[name]} for name in ("log_loss", "ece")
            }
            panels = {"before calibration": reliability(raw, rows.y)} | {
                "after": panels["reliability"]
            }
    plots.reliability(panels, folder / "reliability.png")
    if drift:
        notes += drift["notes"]
    report = {
        **(about or {}),
        "split": split,
        "rows": len(rows),
        "rows_fingerprint": rows.fingerprint(),
        "metrics": metrics,
        "intervals": intervals(probabilities, rows.y, metrics),
        "baselines": beside,
        "verdict": verdict(metrics, beside),
        "notes": notes,
        "reliability": reliability(probabilities, rows.y),
        **({"calibration": calibration} if calibration else {}),
        **({"drift": drift} if drift else {}),
        "per_class": per_class(probabilities, rows.y, labels),
        "most_confident_mistakes_shown": wrong,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    paired.write(probabilities, rows.y, folder / "answers.npz")
    return report


def verdict(metrics: Mapping[str, float], beside: Mapping[str, Any]) -> str:
    """Say in words whether the model beats its best baseline in accuracy."""
    best = max(beside, key=lambda name: beside[name]["metrics"]["accuracy"])
    bar = beside[best]["metrics"]["accuracy"]
    words = best.replace("_", " ")
    if metrics["accuracy"] > bar:
        return f"beats {words} ({metrics['accuracy']:.4f} against {bar:.4f})"
    if metrics["accuracy"] == bar:
        return f"only equals {words} ({bar:.4f}): this model has learnt nothing that {words} does not know"
    return (
        f"does NOT beat {words} ({metrics['accuracy']:.4f} against {bar:.4f}): use {words} instead"
    )


def table(report: Mapping[str, Any]) -> str:
    """Lay a report's scores out for a terminal, one row a score, one column a contestant."""
    columns = {"model": report, **report["baselines"]}
    head = ["", *(name.replace("_", " ") for name in columns)]
    lines = [head]
    for name in report["metrics"]:
        line = [name.replace("_", " ")]
        for values in columns.values():
            if name in values["metrics"]:
                low, high = values["intervals"][name]
                line.append(f"{values['metrics'][name]:.4f} [{low:.4f}, {high:.4f}]")
            else:
                line.append("-")
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
