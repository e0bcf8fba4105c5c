"""Pictures of scores: how normal examples and anomalies spread, and how well they part."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dlkit.evaluation.plots import new_figure, save_figure

BINS = 60


def histogram(
    held_out: np.ndarray, score: np.ndarray, y: np.ndarray, limit: float, path: Path
) -> None:
    """Draw the spread of scores of held-out and test examples, with the threshold."""
    figure = new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    everything = np.concatenate([held_out, score])
    top = float(np.quantile(everything, 0.99)) if len(everything) else 1.0
    top = max(top, 1.5 * limit, 1e-6)
    edges = np.linspace(float(min(everything.min(), 0.0)), top, BINS).tolist()
    kinds = [("held-out normal", held_out, "tab:gray")]
    if (y < 0).any():
        kinds.append(("test", score, "tab:blue"))
    else:
        kinds.append(("normal, test", score[y == 0], "tab:blue"))
        kinds.append(("anomalies, test", score[y == 1], "tab:red"))
    for name, values, colour in kinds:
        if len(values):
            axes.hist(
                values.clip(max=top), edges, density=True, alpha=0.5, color=colour,
                label=f"{name} ({len(values):,})",
            )  # fmt: skip
    axes.axvline(limit, color="black", linestyle="--", label="threshold")
    axes.set_xlabel("score (the last bar holds all that is beyond)")
    axes.set_ylabel("density")
    axes.legend()
    save_figure(figure, path)


def ranking(y: np.ndarray, score: np.ndarray, path: Path) -> None:
    """Draw the receiver operating characteristic, and precision over recall."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure = new_figure(8.0, 4.0)
    left, right = figure.subplots(1, 2)
    false, true, _ = roc_curve(y, score)
    left.plot(false, true)
    left.plot([0, 1], [0, 1], color="tab:gray", linestyle=":", label="chance")
    left.set_xlabel("false-positive rate")
    left.set_ylabel("true-positive rate")
    left.legend(loc="lower right")
    precision, recall, _ = precision_recall_curve(y, score)
    right.plot(recall, precision)
    right.axhline(float(y.mean()), color="tab:gray", linestyle=":", label="chance")
    right.set_xlabel("recall")
    right.set_ylabel("precision")
    right.set_ylim(0, 1.02)
    right.legend(loc="lower left")
    save_figure(figure, path)
