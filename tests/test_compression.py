"""Smaller models: pruned from a trained one, taught by a larger one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import LABELS, Done, charts_undrawn, exports_unchecked, pictures, runner

from dlkit import distillation, losses, models, optimizers, pruning
from dlkit.data import Spec
from dlkit.errors import SpecError
from dlkit.progress import Progress

Run = Callable[..., Done]
TASK = "image-classification"
SHARE = 0.8


@pytest.fixture(scope="module")
def workshop(
    trained: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A copy of the folder of the finished run: `latest` there stays what it is for other tests."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(trained[0], folder, dirs_exist_ok=True)
    return folder, trained[1]


@pytest.fixture
def there(
    workshop: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Run a command line beside the finished run; exports are unchecked and charts undrawn."""
    monkeypatch.chdir(workshop[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = runner(capfd)

    def unchecked(*arguments: object) -> Done:
        with exports_unchecked(), charts_undrawn():
            return run(*arguments)

    return unchecked


def exported_kernels(export: str) -> list[np.ndarray]:
    loaded: Any = tf.saved_model.load(f"{export}/1")
    return [a for a in (v.numpy() for v in loaded.model_variables) if a.ndim >= 2]


@pytest.mark.slow
def test_a_pruned_and_taught_run_resumes_bit_exactly_with_its_zeros(
    there: Run, workshop: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = workshop[1]["run"]
    arguments = [
        "train", "--init-from", first[:8], "--prune", SHARE, "--teacher", first[:8],
        "--epochs", "4", "--batch-size", "24", "--ema", "0.9", "--augment", "translate=0.1,mixup",
        "--json",
    ]  # fmt: skip
    whole = there(TASK, *arguments)
    assert whole.code == 0, whole.err
    result = whole.json
    # Model and data are the run's; its weights too, without which four epochs would not do.
    assert (result["model"], result["data"]) == ("mlp", workshop[1]["data"])
    assert result["metrics"]["accuracy"] > 0.8
    kernels = exported_kernels(result["export"])
    total = sum(a.size for a in kernels)
    zeros = sum(int((a == 0).sum()) for a in kernels)
    assert zeros == round(SHARE * total)
    report = json.loads(Path(result["report"]).read_text())
    assert report["pruned"]["zeros"] == zeros
    assert report["pruned"]["sparsity"] == pytest.approx(SHARE, abs=1e-4)
    assert report["pruned"]["gzip_bytes"] < 0.4 * report["pruned"]["bytes"]
    for name in ("started_from", "teacher"):
        assert report[name]["run"] == first
        assert report[name]["accuracy"] == workshop[1]["metrics"]["accuracy"]
    assert any(note.startswith(f"teacher: run {first[:8]}, mlp") for note in report["notes"])
    tags = there("runs", "show", result["run"], "--json").json["tags"]
    assert tags["dlkit.sparsity"] == f"{zeros / total:.4f}"

    shown = Progress.epoch

    def interrupting(self: Progress, epoch: int, planned: int | None, logs: Any) -> None:
        shown(self, epoch, planned, logs)
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "epoch", interrupting)
        broken = there(TASK, *arguments)
    assert broken.code == 128 + signal.SIGTERM
    interrupted = there("runs", "list", "--json").out.splitlines()[0]
    run = json.loads(interrupted)["run"]
    again = there(TASK, "train", "--resume", run, "--json")
    assert again.code == 0, again.err
    resumed = there("runs", "show", run, "--json").json["tags"]
    assert resumed["dlkit.weights"] == tags["dlkit.weights"]
    assert again.json["metrics"] == result["metrics"]


@pytest.mark.parametrize(
    "name", ["adamw", *(pytest.param(each, marks=pytest.mark.slow) for each in ("sgd", "muon"))]
)
def test_every_optimiser_keeps_zeros_at_zero(name: str) -> None:
    x, y = pictures(24)
    model = models.build(TASK, "lenet", Spec((12, 12, 1), 3, tuple(LABELS)), {})
    model.compile(
        optimizers.make_optimizer(name, 1e-2, weight_decay=0.1),
        losses.classification_loss("cross-entropy", 3),
    )
    masks = pruning.hold(model)
    pruning.prune(model, masks, 0.6)
    found = pruning.kernels(model)
    before = [np.array(v) for v in found]
    # The smallest of all kernels together are gone.
    left = np.concatenate([np.abs(a[a != 0]) for a in before])
    assert len(left) == sum(a.size for a in before) - round(0.6 * sum(a.size for a in before))
    for _ in range(3):
        model.train_on_batch(x / 255.0, y)
    for mask, was, v in zip(masks, before, found, strict=True):
        now = np.array(v)
        np.testing.assert_array_equal(np.array(mask), was != 0)
        assert not now[was == 0].any()
        assert (now[was != 0] != was[was != 0]).mean() > 0.5


def test_a_kernel_is_not_pruned_away() -> None:
    model = models.build(TASK, "mlp", Spec((4, 4, 1), 3, tuple(LABELS)), {"units": 8, "depth": 1})
    first = pruning.kernels(model)[0]
    first.assign(np.array(first) * 1e-6)
    with pytest.raises(SpecError, match=r"--prune 0\.95: nothing of .* would be left"):
        pruning.prune(model, pruning.hold(model), 0.95)


def test_the_loss_is_hintons_and_that_of_labels_alone_in_validation() -> None:
    generator = np.random.default_rng(0)
    logits, theirs = generator.normal(0, 2, (2, 5, 3)).astype(np.float32)
    shares = np.eye(3, dtype=np.float32)[[0, 1, 2, 1, 0]]
    hard = losses.classification_loss("cross-entropy", 3)
    loss = distillation.distilled(hard, 3, temperature=4.0, weight=0.7)

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    soft, own = log_softmax(theirs / 4.0), log_softmax(logits / 4.0)
    wanted = 0.3 * -(shares * log_softmax(logits)).sum(-1)
    wanted += 0.7 * 16.0 * (np.exp(soft) * (soft - own)).sum(-1)
    targets = tf.constant(np.concatenate([shares, theirs], -1))
    np.testing.assert_allclose(loss(targets, tf.constant(logits)), wanted, rtol=1e-5)
    plain = tf.constant(shares.argmax(-1).astype(np.int32))
    np.testing.assert_array_equal(
        loss(plain, tf.constant(logits)), hard(plain, tf.constant(logits))
    )
    np.testing.assert_array_equal(
        losses.accuracy(targets, tf.constant(logits)), losses.accuracy(plain, tf.constant(logits))
    )


def test_a_student_learns_what_its_teacher_says_and_the_teacher_nothing() -> None:
    x, _ = pictures(60)
    images = tf.constant(x / 255.0, tf.float32)
    keras.utils.set_random_seed(0)
    teacher, student = (
        keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
        for _ in range(2)
    )
    before = teacher.get_weights()
    taught = distillation.taught_by(teacher, 3)
    hard = losses.classification_loss("cross-entropy", 3)
    student.compile(
        keras.optimizers.Adam(0.02), distillation.distilled(hard, 3, temperature=2.0, weight=1.0)
    )
    wrong = tf.zeros((60,), tf.int32)
    for _ in range(150):
        student.train_on_batch(*taught(((images, images), wrong)))
    theirs, ours = (np.array(m(images)).argmax(-1) for m in (teacher, student))
    assert len(set(theirs)) > 1
    assert (theirs == ours).mean() > 0.9
    for was, now in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prune", "0.5"], "--prune: takes the smallest weights from a trained model"),
        (["--init-from", "latest", "--prune", "1"], "--prune"),
        (["--init-from", "latest", "--prune", "0"], "--prune"),
        (["--init-from", "nothere"], "--init-from: no run 'nothere'"),
        (["--teacher", "nothere"], "--teacher: no run 'nothere'"),
        (["--init-from", "latest", "--model", "lenet"], "is of mlp; got --model lenet"),
        (["--init-from", "latest", "-p", "units=7"], "has -p units=512; got 7"),
        (["--init-from", "latest", "--weights", "none"], "--init-from and --weights both say"),
    ],
)
def test_what_does_not_fit_is_told_before_there_is_a_run(
    there: Run, arguments: list[str], told: str
) -> None:
    before = there("runs", "list", "--json").out
    arguments = [a.replace("latest", first_run(before)) for a in arguments]
    done = there(TASK, "train", *arguments)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert there("runs", "list", "--json").out == before


def first_run(listed: str) -> str:
    return json.loads(listed.splitlines()[-1])["run"]


def test_data_of_other_labels_or_sizes_are_told(there: Run, tmp_path: Path) -> None:
    run = first_run(there("runs", "list", "--json").out)
    x, y = pictures(60, side=12)
    np.savez(tmp_path / "labels.npz", x=x, y=np.array(["cross", "stripe", "ring"])[y])
    done = there(TASK, "train", "--data", tmp_path / "labels.npz", "--teacher", run)
    assert done.code == 2
    assert f"--teacher: run {run[:8]} tells 3 labels apart, these data have 3" in done.err
    assert "the first difference: dot" in done.err
    x, y = pictures(60, side=14)
    np.savez(tmp_path / "sizes.npz", x=x, y=np.array(LABELS)[y])
    done = there(TASK, "train", "--data", tmp_path / "sizes.npz", "--init-from", run)
    assert done.code == 2
    assert "takes images of 12 x 12 x 1; these are 14 x 14 x 1" in done.err
    done = there(TASK, "compare", "--init-from", run)
    assert done.code == 2
    assert "--init-from: starts one model" in done.err
