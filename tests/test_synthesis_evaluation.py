"""How generated pictures are judged: known values, and answers that must come out bad."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlkit import checkpoint, training
from dlkit.data.images import load_images
from dlkit.data.spec import Data, Split, taken
from dlkit.errors import CheckpointError, DataError, SpecError
from dlkit.evaluation import feature_training, fidelity, synthesis_plots
from dlkit.evaluation.feature_net import FeatureNet, from_weights, trained
from dlkit.evaluation.memorised import memorised
from dlkit.evaluation.synthesis_metrics import gaussian
from dlkit.evaluation.synthesis_report import classification_accuracy_score, synthesis_report

SCORES = ("fid", "kid", "precision", "recall", "density", "coverage")


def cut(data: Data, rows: int, one_class: bool = False) -> Data:
    """The first rows of each split; all of one class, if so asked."""

    def part(split: Split) -> Split:
        at = np.arange(min(rows, len(split)))
        y = np.zeros(len(at), np.int32) if one_class else split.y[at]
        return Split(taken(split.x, at), y, split.names[: len(at)], split.encoded)

    parts = {name: part(getattr(data, name)) for name in ("train", "validation", "test")}
    spec = dataclasses.replace(data.spec, outputs=1, labels=("all",)) if one_class else data.spec
    return dataclasses.replace(data, **parts, spec=spec)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_images("digits")


@pytest.fixture(scope="module")
def small(digits: Data) -> Data:
    return cut(digits, 160)


@pytest.fixture(scope="module", autouse=True)
def fewer_steps() -> Iterator[None]:
    """Train nets for 19 epochs, and not for the 28 that digits otherwise get."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = dataclasses.replace(feature_training.CNN, steps=400)
        patch.setattr(feature_training, "CNN", recipe)
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train small nets for six epochs."""
    recipe = dataclasses.replace(feature_training.CNN, epochs=6, steps=1)
    monkeypatch.setattr(feature_training, "CNN", recipe)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nets")


@pytest.fixture(scope="module")
def net(digits: Data, nets: Path) -> FeatureNet:
    return trained(digits, nets, quiet=True)


def test_fid_of_gaussians_is_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    # Diagonal covariances: |m|^2 + sum (s - t)^2, once the draws have exactly these moments.
    x = generator.standard_normal((500, 6))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    s, t, m = np.arange(1.0, 7.0), np.full(6, 2.5), np.linspace(-1, 1, 6)
    assert fidelity.fid(x * s, x * t + m) == pytest.approx(np.sum((s - t) ** 2) + np.sum(m**2))
    assert fidelity.fid(x, x) == pytest.approx(0, abs=1e-9)


def test_fid_is_finite_and_symmetric_with_fewer_rows_than_features() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((12, 40)), generator.standard_normal((9, 40)) * 2
    value = fidelity.fid(a, b)
    assert np.isfinite(value) and value > 0
    assert value == pytest.approx(fidelity.fid(b, a), rel=1e-6)
    low, high = fidelity.fid_interval(a, b)
    assert 0 <= low < value < high


def test_kid_is_the_unbiased_estimate_written_out() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((9, 3)), generator.standard_normal((9, 3)) + 1

    def mean(x: np.ndarray, y: np.ndarray, apart: bool) -> float:
        values = [
            (x[i] @ y[j] / 3 + 1) ** 3
            for i in range(len(x))
            for j in range(len(y))
            if not (apart and i == j)
        ]
        return float(np.mean(values))

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert fidelity.kid(a, b, subsets=2) == pytest.approx(expected)


def test_kid_of_equal_distributions_is_near_zero_and_of_others_is_not() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.standard_normal((2, 1500, 8))
    assert abs(fidelity.kid(a, b, subsets=10)) < 0.03
    assert fidelity.kid(a, b + 0.5, subsets=10) > 0.3


def test_prdc_agrees_with_distances_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    real, fake = generator.standard_normal((37, 4)), generator.standard_normal((29, 4)) + 1.5

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None] - b[None], axis=-1)

    own, theirs = (np.sort(apart(x, x), 1)[:, 5] for x in (real, fake))
    near = apart(real, fake)
    expected = {
        "precision": np.mean((near <= own[:, None]).any(0)),
        "recall": np.mean((near <= theirs).any(1)),
        "density": (near <= own[:, None]).sum(0).mean() / 5,
        "coverage": np.mean((near <= own[:, None]).any(1)),
    }
    monkeypatch.setattr(fidelity, "BLOCK", 8)
    assert fidelity.prdc(real, fake) == pytest.approx(expected)
    assert 0 < expected["precision"] < 1 and 0 < expected["coverage"] < 1


def test_modes_are_counted_and_compared_with_the_real_shares() -> None:
    shares = np.array([0.5, 0.25, 0.25])
    assert fidelity.modes(np.array([0, 0, 1, 2]), 3, shares) == (3, pytest.approx(0))
    found, divergence = fidelity.modes(np.array([1, 1, 1]), 3, shares)
    assert (found, divergence) == (1, pytest.approx(np.log(4)))
    assert np.isfinite(fidelity.modes(np.array([2]), 3, np.array([0.5, 0.5, 0.0]))[1])


def test_copies_of_training_pictures_are_found_and_fresh_ones_are_not(digits: Data) -> None:
    train = digits.train.x
    copies = memorised(train[5:45], train)
    assert copies.share == 1 and copies.nearest[:, 0].tolist() == list(range(5, 45))
    assert copies.distance[:, 0].max() == 0
    nudged = np.clip(train[:40].astype(int) + 1, 0, 255).astype(np.uint8)
    assert memorised(nudged, train).share == 1
    twice = np.concatenate([train[:40], train[:40]])
    assert memorised(train[:40], twice).share == 1
    assert memorised(digits.test.x, train).share < 0.02


def test_nearest_pictures_are_exact_over_blocks(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, train = digits.test.x[:30], digits.train.x
    flat = [x.reshape(len(x), -1).astype(float) for x in (samples, train)]
    near = np.linalg.norm(flat[0][:, None] - flat[1][None], axis=-1)
    monkeypatch.setattr("dlkit.evaluation.memorised.VALUES", 64 * 100)
    found = memorised(samples, train)
    np.testing.assert_allclose(found.distance, np.sort(near, 1)[:, :2])
    np.testing.assert_array_equal(found.nearest[:, 0], near.argmin(1))


def test_a_feature_net_is_kept_and_its_hash_is_checked(
    digits: Data, nets: Path, net: FeatureNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert net.accuracy is not None and net.accuracy > 0.96
    (described,) = nets.glob("*/features.json")
    assert json.loads(described.read_text())["hash"] == net.hash
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", lambda *a, **k: pytest.fail("trained again"))
        again = trained(digits, nets, quiet=True)
    assert again.hash == net.hash and again.describe() == net.describe()
    features = again.features(digits.test.x)
    assert features.dtype == np.float32 and features.shape == (len(digits.test), 64)
    np.testing.assert_array_equal(features, net.features(digits.test.x))
    assert (net.classes(digits.test.x) == digits.test.y).mean() == net.accuracy
    before = described.read_text()
    described.write_text(before.replace(net.hash, "0" * 64))
    with pytest.raises(CheckpointError, match=r"not those that features\.json was written for"):
        trained(digits, nets, quiet=True)
    described.write_text(before)


@pytest.mark.slow
def test_a_feature_net_that_was_interrupted_ends_in_the_same_weights(
    small: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    undisturbed = trained(small, tmp_path / "a", quiet=True)
    save, count = checkpoint.save, 0

    def killed(*arguments: Any) -> None:
        nonlocal count
        save(*arguments)
        count += 1
        if count == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        patch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            trained(small, tmp_path / "b", quiet=True)
    (left,) = (tmp_path / "b").glob("*/training.npz")
    assert checkpoint.load(left)[1]["step"] > 0
    resumed = trained(small, tmp_path / "b", quiet=True)
    assert resumed.hash == undisturbed.hash
    assert not left.exists()


@pytest.mark.slow
def test_one_class_is_looked_at_by_its_rotations(digits: Data, tmp_path: Path, quick: None) -> None:
    one = cut(digits, 600, one_class=True)
    net = trained(one, tmp_path, quiet=True)
    assert "telling rotations" in net.describe() and net.labels == ()
    assert net.accuracy is not None and net.accuracy > 0.4  # by chance 0.25
    with pytest.raises(SpecError, match="tells no classes"):
        net.classes(one.test.x)
    report = synthesis_report(one.train.x[:150], one, net, tmp_path, wanted=one.train.y[:150])
    assert "modes" not in report["metrics"] and "label_accuracy" not in report["metrics"]
    assert any("tells no classes" in note for note in report["notes"])
    oblong = Split(one.train.x[:, :4], one.train.y, one.train.names, one.train.encoded)
    with pytest.raises(SpecError, match="got 4 x 8; nearest: --image-size 6"):
        trained(dataclasses.replace(one, train=oblong), tmp_path, quiet=True)


def test_three_channels_are_judged_by_a_net_of_one(
    small: Data, tmp_path: Path, quick: None
) -> None:
    net = trained(small, tmp_path, per_channel=True, quiet=True)  # none of these in the cache
    assert net.channels == 3 and net.accuracy is not None
    assert trained(small, tmp_path, quiet=True).describe() == net.describe()


def test_three_channels_are_three_pictures(digits: Data, nets: Path, net: FeatureNet) -> None:
    stacked = trained(digits, nets, per_channel=True, quiet=True)
    x = digits.test.x[:150].reshape(50, 3, 8, 8).transpose(0, 2, 3, 1)
    assert stacked.hash == net.hash and len(stacked.labels) == 1000
    assert stacked.labels[123] == "123"
    singles = net.classes(digits.test.x[:150]).reshape(50, 3)
    assert stacked.classes(x).tolist() == (singles @ [100, 10, 1]).tolist()
    np.testing.assert_allclose(
        stacked.features(x), net.features(digits.test.x[:150]).reshape(50, -1), atol=1e-5
    )
    with pytest.raises(SpecError, match="got 1 channels"):
        stacked.features(digits.test.x)


def test_the_report_tells_good_samples_from_bad(
    digits: Data, net: FeatureNet, tmp_path: Path
) -> None:
    train, n = digits.train, len(digits.test)
    copied = synthesis_report(
        train.x[-n:],
        digits,
        net,
        tmp_path,
        wanted=train.y[-n:],
        notes=("said before",),
        about={"run": "r"},
        more={"metrics": {"nll": 90.0}, "intervals": {"nll": [89.0, 91.0]}},
    )
    assert json.loads((tmp_path / "report.json").read_text()) == copied
    assert (copied["run"], copied["metrics"]["nll"]) == ("r", 90.0)
    assert copied["metrics"]["memorised"] == 1 and "are copies of training" in copied["verdict"]
    assert copied["verdict"].startswith("beats a Gaussian")
    assert copied["notes"][0] == "said before"
    assert any("biased upwards" in note for note in copied["notes"])
    assert size(tmp_path / "neighbours.png")[0] > 500
    beside = {name: c["metrics"] for name, c in copied["baselines"].items()}
    assert all(set(SCORES) <= set(metrics) for metrics in beside.values())
    floor = beside["real_against_real"]
    for metrics in (copied["metrics"], floor):
        assert metrics["label_accuracy"] > 0.93 and metrics["modes"] == 10
        assert metrics["coverage"] > 0.8 and metrics["fid"] < beside["gaussian"]["fid"] / 3
    assert floor["memorised"] < 0.02
    assert floor["fid"] * 3 < beside["gaussian"]["fid"] < beside["noise"]["fid"]
    for name in (*SCORES, "modes", "modes_kl", "label_accuracy", "memorised"):
        low, high = copied["intervals"][name]
        assert low <= copied["metrics"][name] <= high
    # One class, and the mean of each class, are no picture of the data.
    one = train.x[train.y == 3]
    means = np.stack([train.x[train.y == k].mean(0) for k in range(10)]).astype(np.uint8)
    for samples in (one[np.arange(n) % len(one)], means[np.arange(n) % 10]):
        report = synthesis_report(samples, digits, net, tmp_path)
        assert report["metrics"]["coverage"] < 0.3 * floor["coverage"]
        assert report["metrics"]["recall"] < 0.3
        assert report["metrics"]["fid_ratio"] > 10
        assert report["verdict"].startswith("does NOT beat a Gaussian")
    with pytest.raises(DataError, match="samples are"):
        synthesis_report(samples[:, :4], digits, net, tmp_path)


def test_the_gaussian_has_the_moments_of_the_pictures() -> None:
    generator = np.random.default_rng(0)
    mixed = generator.standard_normal((800, 2)) @ np.array([[9.0, 5, 0, 2], [0, 6, 7, 2]])
    x = np.rint(mixed + 128).clip(0, 255).astype(np.uint8).reshape(800, 2, 2, 1)
    drawn = gaussian(x, 20_000, generator)
    one, other = (z.reshape(len(z), 4).astype(float) for z in (x, drawn))
    np.testing.assert_allclose(one.mean(0), other.mean(0), atol=0.5)
    np.testing.assert_allclose(np.cov(one.T), np.cov(other.T), atol=3.5)


@pytest.mark.slow
def test_labels_that_mean_nothing_teach_nothing(
    small: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = small.train.x, small.train.y
    kept = tmp_path / "other"
    kept.write_text("stays")
    beside = tmp_path / "kept"
    right = classification_accuracy_score(x, y, small, tmp_path, quiet=True)
    wrong = classification_accuracy_score(x, y[::-1], small, tmp_path, kept=beside, quiet=True)
    # The answer for real pictures is kept; of other pictures it is another one.
    trainings = []

    def counted(*given: Any, **more: Any) -> Any:
        trainings.append(given)
        return feature_training.fit_net(*given, **more)

    monkeypatch.setattr("dlkit.evaluation.synthesis_report.fit_net", counted)
    again = classification_accuracy_score(x, y[::-1], small, tmp_path, kept=beside, quiet=True)
    assert (again, len(trainings)) == (wrong, 1)
    classification_accuracy_score(x[:60], y[:60], small, tmp_path, kept=beside, quiet=True)
    assert len(trainings) == 3
    for path in beside.iterdir():
        path.unlink()
    beside.rmdir()
    assert right["metrics"]["accuracy"] == right["metrics"]["real_accuracy"] > 0.6
    assert wrong["metrics"]["accuracy"] < 0.4 < wrong["metrics"]["real_accuracy"]
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_weights_that_do_not_fit_are_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file"):
        from_weights(tmp_path / "none.h5")
    broken = tmp_path / "broken.h5"
    broken.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="does not fit Inception v3") as told:
        from_weights(broken)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_inception_takes_pictures_of_any_size(tmp_path: Path) -> None:
    import keras

    theirs = keras.applications.InceptionV3(include_top=False, pooling="avg", weights=None)
    file = tmp_path / "notop.weights.h5"
    theirs.save_weights(file)
    net = from_weights(file)
    assert net.hash == training.weights_hash(theirs) and net.accuracy is None
    grey = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1)).astype(np.uint8)
    features = net.features(grey)
    assert features.shape == (3, 2048)
    np.testing.assert_allclose(features, net.features(grey.repeat(3, -1)), rtol=1e-4, atol=1e-5)
    with pytest.raises(SpecError):
        net.probabilities(grey)


def test_a_grid_shows_each_pixel_as_it_is(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (5, 14, 14, 3)).astype(np.uint8)
    synthesis_plots.grid(x, tmp_path / "grid.png", 3)
    with Image.open(tmp_path / "grid.png") as image:
        drawn = np.asarray(image)
    side, gap = 14 * 4, synthesis_plots.GAP
    assert drawn.shape == (2 * side + 3 * gap, 3 * side + 4 * gap, 3)
    fourth = drawn[side + 2 * gap :, gap:][:side, :side]
    np.testing.assert_array_equal(fourth[::4, ::4], x[3])
    np.testing.assert_array_equal(fourth[3::4, 3::4], x[3])
    synthesis_plots.strip(x, tmp_path / "strip.png", [f"{i}" for i in range(5)])
    assert size(tmp_path / "strip.png")[0] == 5 * side + 6 * gap
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "strip.png"]


def test_an_animation_holds_each_frame(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 14, 14, 1)).astype(np.uint8)
    synthesis_plots.animation(list(x), tmp_path / "a.gif", columns=2)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3  # pyright: ignore[reportAttributeAccessIssue]
        image.seek(1)
        shown = np.asarray(image.convert("L"))
    expected = synthesis_plots.laid_out(x[1], 2)[:, :, 0]
    np.testing.assert_array_equal(shown, expected)


# ---- Its benchmark.


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("image_synthesis")


def test_a_row_is_measured_anew_for_other_seconds(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import results_file  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(results_file, "RESULTS", tmp_path)
    monkeypatch.setattr(results_file, "commit", lambda: "abc")
    for value, seconds, expected in ((1, 300, 1), (2, 300, 1), (3, 1200, 3), (4, 1200, 3)):
        given = {"seconds_asked": seconds}
        found = results_file.row("b", "dcgan", lambda value=value: {"fid": value}, **given)
        assert (found["fid"], found["seconds_asked"]) == (expected, seconds)
    for value, expected in ((5, 5), (6, 5)):
        assert results_file.row("b", "sampling", lambda v=value: {"n": v})["n"] == expected


@pytest.mark.parametrize(
    ("more", "seconds"), [([], [1200, 1200, 1800]), (["--seconds", "9"], [9] * 3)]
)
def test_a_row_has_seconds_of_its_own(
    script: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    seconds: list[int],
) -> None:
    (tmp_path / "fashion_mnist").mkdir()
    rows, asked = "dcgan-ns,stacked-stable,vae-likelihood", []
    monkeypatch.setattr("sys.argv", ["x", "--data-dir", str(tmp_path), "--rows", rows, *more])
    for name in ("generator", "likelihood"):
        monkeypatch.setattr(script, name, lambda *given: {"given": given})

    def row(name: str, key: str, job: Any, again: bool, **given: Any) -> dict[str, Any]:
        assert given["seconds_asked"] in job()["given"]
        asked.append(given["seconds_asked"])
        return {}

    monkeypatch.setattr(script, "row", row)
    script.main()
    assert asked == seconds
