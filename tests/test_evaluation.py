"""Scores against scikit-learn's, intervals against known coverage, words against numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import LABELS, pictures
from sklearn import metrics

from dlkit.data.spec import Split
from dlkit.evaluation import baselines
from dlkit.evaluation.classification import intervals, per_class, scores
from dlkit.evaluation.report import classification_report, table, verdict


def answers(n: int, classes: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes))
    logits[np.arange(n), y] += sharpness
    odds = np.exp(logits)
    return odds / odds.sum(1, keepdims=True), y


def split(n: int = 60, seed: int = 0) -> Split:
    x, y = pictures(n, seed=seed)
    return Split(x, y.astype(np.int32), tuple(map(str, range(n))), lambda i: b"")


def test_scores_agree_with_scikit_learn() -> None:
    p, y = answers(500, 8, 1.5)
    found = scores(p, y)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, p.argmax(1)))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(y, p.argmax(1), average="macro"))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(y, p, labels=range(8)))
    assert found["top_5_accuracy"] == pytest.approx(
        metrics.top_k_accuracy_score(y, p, k=5, labels=range(8))
    )
    assert "top_5_accuracy" not in scores(*answers(50, 5, 1.0))


def test_weights_are_repetitions() -> None:
    p, y = answers(40, 4, 1.0)
    w = np.random.default_rng(1).integers(0, 3, 40)
    for name, value in scores(np.repeat(p, w, 0), np.repeat(y, w)).items():
        assert scores(p, y, w.astype(float))[name] == pytest.approx(value)


def test_calibration_error_of_known_cases() -> None:
    sure = np.tile([0.8, 0.2], (1000, 1))
    right = (np.arange(1000) % 5 == 0).astype(int)
    assert scores(sure, right)["ece"] == pytest.approx(0.0, abs=1e-9)
    assert scores(sure, np.zeros(1000, int))["ece"] == pytest.approx(0.2)
    assert scores(sure, np.ones(1000, int))["ece"] == pytest.approx(0.8)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        y = np.zeros(120, int)
        hit = generator.random(120) < 0.8
        p = np.where(hit[:, None], [0.9, 0.1], [0.1, 0.9])
        low, high = intervals(p, y, {"accuracy": 0}, seed)["accuracy"]
        covered += low <= 0.8 <= high
    assert 34 <= covered <= 40


def test_per_class_says_none_where_nothing_is_defined() -> None:
    p = np.eye(3)[[0, 0, 1]]
    rows = per_class(p, np.array([0, 1, 1]), LABELS)
    assert rows[0] == {"label": "cross", "rows": 1, "precision": 0.5, "recall": 1.0, "f1": 2 / 3}
    assert (rows[2]["precision"], rows[2]["recall"], rows[2]["f1"]) == (None, None, None)


def test_nearest_neighbour_says_what_it_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    train = split(60)
    found, said = baselines.nearest_neighbour(train, train.x, 3)
    assert said == ""
    np.testing.assert_array_equal(found.argmax(1), train.y)
    monkeypatch.setattr(baselines, "MOST_ROWS", 20)
    assert "20 of 60 training rows" in baselines.nearest_neighbour(train, train.x, 3)[1]
    big = np.zeros((2, 64, 64, 1), np.uint8)
    large = Split(big, np.array([0, 1]), ("a", "b"), lambda i: b"")
    assert "shrunk to 32 x 32" in baselines.nearest_neighbour(large, big, 2)[1]


def test_the_report_is_told_when_a_baseline_wins(tmp_path: Path) -> None:
    rows, train = split(30, seed=1), split(90)
    wrong = np.eye(3)[(rows.y + 1) % 3]
    report = classification_report(wrong, rows, train, LABELS, tmp_path)
    assert "does NOT beat" in report["verdict"]
    assert report["metrics"]["accuracy"] == 0.0
    assert report["baselines"]["majority_class"]["metrics"]["accuracy"] == pytest.approx(1 / 3)
    for name in ("report.json", "confusion.png", "mistakes.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert "nearest neighbour" in table(report)


def test_a_perfect_score_is_not_called_certain(tmp_path: Path) -> None:
    rows = split(30)
    report = classification_report(np.eye(3)[rows.y], rows, rows, LABELS, tmp_path)
    assert report["intervals"]["accuracy"] == [1.0, 1.0]
    assert any("10.0 %" in note for note in report["notes"])


def test_verdicts() -> None:
    def beside(value: float) -> dict:
        return {"nearest_neighbour": {"metrics": {"accuracy": value}}}

    assert verdict({"accuracy": 0.9}, beside(0.8)).startswith("beats nearest neighbour")
    assert verdict({"accuracy": 0.8}, beside(0.8)).startswith("only equals")
    assert verdict({"accuracy": 0.7}, beside(0.8)).startswith("does NOT beat")
