"""How a row differs from its neighbours: measured against the plain way, and without leaps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlkit.data.anomalies import AnomalyData, Examples
from dlkit.data.spec import DetectorSpec
from dlkit.detection.components import Member, without_itself
from dlkit.detection.detector import Detector


def crossing_lines(n: int, seed: int) -> np.ndarray:
    """Draw rows on two lines, float32 `(n, 2)`: what is usual at one place is not at another."""
    generator = np.random.default_rng(seed)
    along = generator.uniform(-1, 1, n)
    side = np.where(np.arange(n) % 2, 1.0, -1.0)
    rows = np.stack([4 * side + along, side * along], 1) + 0.02 * generator.normal(size=(n, 2))
    return rows.astype(np.float32)


def identity(width: int) -> keras.Model:
    """A model whose code is the row itself."""
    inputs = keras.Input((width,), name="example")
    latent = keras.layers.Dense(width, kernel_initializer="identity", name="latent")(inputs)
    out = keras.layers.Dense(width, kernel_initializer="identity", name="reconstruction")(latent)
    return keras.Model(inputs, out)


def normal_rows(trained: int, held: int, tested: int) -> AnomalyData:
    """Gaussian rows of 3 features, model inputs as they are."""
    x = np.random.default_rng(4).normal(size=(trained + held + tested, 3)).astype(np.float32)
    at = np.split(np.arange(len(x)), [trained, trained + held])
    train, holdout, test = (Examples(each, np.zeros(len(each), np.int32)) for each in at)
    return AnomalyData(
        "made", train, holdout, test,
        spec=DetectorSpec(input_shape=(3,), outputs=3, kind="table"),
        inputs=lambda at: {"rows": x[at]},
        arrays=lambda at: (x[at],),
        prepare=lambda x: x,
        preprocess=lambda raw: raw["rows"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def member() -> Member:
    """What such a model finds normal in both lines."""
    found = Member(identity(2), "table")
    rows = crossing_lines(400, 0)
    found.fit([tf.constant(rows[:320])], [tf.constant(rows[320:])])
    return found


def test_a_row_off_its_neighbours_line_is_strange(member: Member) -> None:
    new = crossing_lines(100, 1)
    off = new + np.array([0.0, 0.4], np.float32)
    normal, strange = (member.look(tf.constant(x))["local"].numpy() for x in (new, off))
    # Of both lines together the covariance says nothing: they cross the plane either way.
    blind = member.look(tf.constant(off))["mahalanobis"].numpy()
    usual = member.look(tf.constant(new))["mahalanobis"].numpy()
    assert np.mean(strange[:, None] > normal) > 0.99
    assert np.mean(blind[:, None] > usual) < 0.8


def test_nothing_leaps_where_neighbours_change(member: Member) -> None:
    ends = crossing_lines(2, 2)
    share = np.linspace(0, 1, 4001, dtype=np.float32)[:, None]
    path = ends[0] + share * 0.25 * (ends[1] - ends[0])
    seen = member.look(tf.constant(path))["local"].numpy()
    assert np.abs(np.diff(seen)).max() < 0.02 * np.ptp(seen)


def test_a_known_row_is_no_neighbour_of_its_own(member: Member) -> None:
    rows = crossing_lines(400, 0)[320:]
    known = member.look(tf.constant(rows), known=True)["local"].numpy()
    new = member.look(tf.constant(crossing_lines(80, 3)))["local"].numpy()
    assert np.median(known) == pytest.approx(np.median(new), rel=0.5)
    assert np.median(member.look(tf.constant(rows))["local"].numpy()) < 0.8 * np.median(known)


def test_more_columns_than_rows_leave_known_rows_as_near_as_new_ones() -> None:
    generator = np.random.default_rng(0)
    rows, new = (generator.normal(size=(n, 100)).astype(np.float32) for n in (50, 200))
    wide = Member(identity(100), "table")
    wide.fit([tf.constant(rows[:40])], [tf.constant(rows[40:])])
    known = wide.look(tf.constant(rows[40:]), known=True)["local"].numpy()
    fresh, strange = (wide.look(tf.constant(x))["local"].numpy() for x in (new, new * 2.5))
    assert np.median(known) == pytest.approx(np.median(fresh), rel=0.5)
    assert np.mean(strange > known.max()) > 0.95


def test_without_itself_is_the_distance_from_the_others() -> None:
    x = np.random.default_rng(0).normal(size=(40, 5))

    def squared(row: np.ndarray, rows: np.ndarray) -> float:
        off = row - rows.mean(0)
        return float(off @ np.linalg.solve(np.cov(rows, rowvar=False), off))

    for i in range(3):
        found = float(without_itself(tf.constant(squared(x[i], x), tf.float64), len(x)))
        assert found == pytest.approx(squared(x[i], np.delete(x, i, 0)), rel=1e-9)


@pytest.mark.parametrize("score", ["fusion", "neighbours"])
def test_deviations_from_the_median_keep_to_the_rate_among_ranks(score: str) -> None:
    data = normal_rows(200, 400, 2000)
    detector = Detector([identity(3)], data, score=score, rate=0.02, method="mad")
    scores = detector.scores(data.test.at)["score"]
    assert 0.005 < np.mean(scores > detector.threshold) < 0.04


def test_what_an_export_looks_through_does_not_grow_with_the_held_out_rows() -> None:
    data = normal_rows(100, 5000, 300)
    detector = Detector([identity(3)], data)
    for curve in (detector, *detector.ranks[0].values()):
        assert len(curve.knots) <= 4000
    found = {k: v.numpy() for k, v in detector.answer(data.arrays(data.test.at)[0]).items()}
    share = (detector.held_out >= found["score"][:, None]).sum(1)
    np.testing.assert_allclose(found["p_value"], (share + 1) / 5001, atol=1e-3)
    # Of the largest none is left out.
    rare = share < 1000
    assert rare.any()
    np.testing.assert_allclose(found["p_value"][rare], (share[rare] + 1) / 5001, atol=2.5e-4)
