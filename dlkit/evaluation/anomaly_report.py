"""The report of an anomaly detector: metrics, components, baselines, words and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.data.anomalies import AnomalyData
from dlkit.detection.thresholds import threshold
from dlkit.errors import counted
from dlkit.evaluation import anomaly, anomaly_plots, anomaly_series, anomaly_series_plots


def anomaly_report(
    data: AnomalyData,
    scores: Mapping[str, np.ndarray],
    held_out: np.ndarray,
    limit: float,
    folder: Path,
    *,
    rate: float,
    method: str,
    notes: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a detector on its test split beside its baselines; write `report.json` and pictures.

    Args:
        data: the examples.
        scores: `score` and each component of the test examples, `(n,)`.
        held_out: scores of the held-out examples.
        limit: the threshold.
        folder: where `report.json`, `scores.png` and, with labels, `ranking.png` go.
        rate: false-positive rate asked for.
        method: of the threshold.
        notes: what a reader should know.
        about: more entries of the report.
    Returns:
        What `report.json` holds: `metrics` and `intervals` (95 %, bootstrap), `components` (each
        way of looking alone), `baselines`, `threshold`, `asked_false_positive_rate`, `verdict`.
    """
    y, score = data.test.y, scores["score"]
    judge: Any = anomaly if data.series is None else anomaly_series.Judge(data)
    raised = ~(score <= limit)
    labelled = bool((y == 1).any() and (y == 0).any())
    parts = {
        name: judge.ranking(y, values)
        for name, values in scores.items()
        if name != "score" and labelled
    }
    beside: dict[str, Any] = {}
    at_of = (anomaly.sampled(data.train.at), data.holdout.at, data.test.at)
    found = judge.baselines(*(_flat(data, at) for at in at_of)) if len(data.train) else {}
    for name, (own, theirs) in found.items():
        alarm = theirs > threshold(own, rate, method)
        beside[name] = {
            "metrics": judge.metrics(y, theirs, alarm),
            "intervals": judge.intervals(y, theirs, alarm),
        }
    report: dict[str, Any] = {
        **(about or {}),
        "split": "test",
        "kind": data.spec.kind,
        "rows": len(y),
        "anomalies": int((y == 1).sum()) if (y >= 0).all() else None,
        "splits": {name: len(getattr(data, name)) for name in ("train", "holdout", "test")},
        "contaminated": data.contaminated,
        "threshold": limit,
        "threshold_method": method,
        "asked_false_positive_rate": rate,
        "metrics": judge.metrics(y, score, raised),
        "intervals": judge.intervals(y, score, raised),
        "components": parts,
        "baselines": beside,
        "notes": [*data.notes, *notes],
    }
    report["verdict"] = judge.verdict(report)
    if parts and data.contaminated is False:
        best = max(parts, key=lambda name: parts[name]["auroc"])
        if parts[best]["auroc"] > report["metrics"]["auroc"] + 0.01:
            report["notes"].append(
                f"{best.replace('_', ' ')} alone ranks better than the score: AUROC "
                f"{parts[best]['auroc']:.4f}"
            )
    if (y < 0).any():
        report["notes"].append(
            f"nobody knows which of {counted(len(y), 'example')} are anomalies: "
            "false_positive_rate is the share that raised an alarm"
        )
    folder.mkdir(parents=True, exist_ok=True)
    anomaly_plots.histogram(held_out, score, y, limit, folder / "scores.png")
    if labelled:
        anomaly_plots.ranking(y, score, folder / "ranking.png")
    if data.series is not None:
        anomaly_series_plots.series(
            data,
            judge.per_row(score),
            judge.per_row(raised) > 0.5,
            limit,
            folder / "series.png",
        )
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def _flat(data: AnomalyData, at: np.ndarray) -> np.ndarray:
    """Return prepared examples, each one row, `(n, features)`."""
    from dlkit.detection.detector import prepared

    parts = [np.asarray(x).reshape(len(x), -1) for x in prepared(data, at)]
    return np.concatenate(parts) if parts else np.empty((0, data.spec.outputs), np.float32)
