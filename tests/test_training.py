"""`fit` where things go wrong: rates that are too high, memory that runs out, a slow machine."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import Done

from dlkit import checkpoint, plan, tracking, training
from dlkit.data.stream import eval_stream, train_stream
from dlkit.errors import TrainingError
from dlkit.plan import Pace, Position

ROWS, BATCH = 80, 8
TASK = "image-classification"


def linear() -> keras.Model:
    """One weight on noisy inputs of -1 and 1: a parabola, which diverges at rates above 1."""
    inputs = keras.Input((1,))
    x = keras.layers.GaussianNoise(0.2)(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(x))


@keras.saving.register_keras_serializable("tests")
class Memory(keras.layers.Layer):
    """Passes its input on, if there are at most `rows` rows."""

    def __init__(self, rows: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = rows

    def call(self, inputs: Any, training: bool = False) -> Any:
        def check(n: Any) -> Any:
            if n > self.rows:
                raise MemoryError(f"no room for {n} rows")
            return n

        if not training:
            return inputs
        with tf.control_dependencies([tf.numpy_function(check, [tf.shape(inputs)[0]], tf.int32)]):
            return tf.identity(inputs)


def crowded(rows: int) -> Callable[[], keras.Model]:
    """A net with dropout and an L2 penalty that has room for `rows` rows at once."""

    def build() -> keras.Model:
        inputs = keras.Input((1,))
        x = keras.layers.Dense(16, "relu", kernel_regularizer="l2")(inputs)
        x = keras.layers.Dropout(0.3)(Memory(rows)(x))
        return keras.Model(inputs, keras.layers.Dense(1)(x))

    return build


def plain() -> keras.Model:
    """A net with a penalty, and nothing that depends on how a batch is cut."""
    inputs = keras.Input((1,))
    x = keras.layers.Dense(16, "tanh", kernel_regularizer="l2")(inputs)
    return keras.Model(inputs, keras.layers.Dense(1)(x))


def fit(
    build: Callable[[], keras.Model], path: Path, rate: float = 0.1, **given: Any
) -> tuple[str, training.Position, list[tuple[int, dict[str, float]]]]:
    """Train for four epochs; return the hash of the weights, the position and what was logged."""
    generator = np.random.default_rng(0)
    x = generator.choice([-1.0, 1.0], (ROWS, 1)).astype(np.float32)
    y = 3 * x
    training.seed_everything(0)
    model = build()
    model.compile(
        keras.optimizers.SGD(0.1),
        "mse",
        metrics=[keras.metrics.MeanAbsoluteError(name="error")],
        jit_compile=False,
    )

    def stream(epoch: int, step: int) -> Any:
        def prepare(seed: Any, rows: Any, x: Any, y: Any) -> tuple:
            return x, y

        return train_stream((x, y), prepare, batch_size=BATCH, seed=1, epoch=epoch, step=step)

    logged: list[tuple[int, dict[str, float]]] = []
    settings: dict[str, Any] = {
        "steps_per_epoch": ROWS // BATCH,
        "batch_size": BATCH,
        "epochs": 4,
        "time_limit": None,
        "schedule": "constant",
        "learning_rate": rate,
        "warmup": 0,
        "patience": None,
        "monitor": "error",
        "path": path,
        "on_epoch": lambda epoch, logs: logged.append((epoch, dict(logs))),
        "quiet": True,
    }
    validation = eval_stream((x, y), lambda x, y: (x, y), batch_size=ROWS)
    at = training.fit(model, given.pop("stream", stream), validation, **settings | given)
    return training.weights_hash(model), at, logged


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`fit` in a place of its own, where what was trained once is not trained again."""

    @functools.cache
    def trained(build: Callable[[], keras.Model], **given: Any) -> Any:
        return fit(build, tmp_path_factory.mktemp("undisturbed") / "c.npz", **given)

    return trained


@pytest.mark.parametrize(("keep", "epoch"), [("best", 1), ("last", 4)])
def test_the_best_epoch_is_kept_or_the_last(tmp_path: Path, keep: str, epoch: int) -> None:
    """The monitored error falls, and larger is taken for better: the first epoch is the best."""
    nets: list[keras.Model] = []
    hashes: list[str] = []

    def build() -> keras.Model:
        nets.append(linear())
        return nets[0]

    def note(*_: Any) -> None:
        hashes.append(training.weights_hash(nets[0]))

    found, position, _ = fit(build, tmp_path / "checkpoint.npz", keep=keep, on_epoch=note)
    assert position.best_epoch == epoch
    assert found == hashes[epoch - 1]
    assert len(set(hashes)) == 4


def kill_after(saves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end as if killed right after its checkpoint was written so many times."""
    save, count = checkpoint.save, 0

    def once(*arguments: Any) -> None:
        nonlocal count
        save(*arguments)
        count += 1
        if count == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", once)


@pytest.mark.parametrize(("rate", "retries"), [(0.3, 0), (1.6, 1), (3.2, 2)])
def test_a_run_that_diverges_goes_back_with_half_the_rate(
    tmp_path: Path, rate: float, retries: int
) -> None:
    _, at, logged = fit(linear, tmp_path / "c.npz", rate)
    assert (at.retries, at.rate_factor) == (retries, 0.5**retries)
    assert len(at.notes) == retries
    assert all("learning rate halved" in note and "the start" in note for note in at.notes)
    assert [epoch for epoch, _ in logged] == [1, 2, 3, 4]
    assert logged[-1][1]["val_loss"] < 1
    assert logged[-1][1]["learning_rate"] == pytest.approx(rate / 2**retries)


@pytest.mark.parametrize("rate", [1e3, pytest.param(1e38, marks=pytest.mark.slow)])
def test_the_third_time_is_the_last(tmp_path: Path, rate: float) -> None:
    with pytest.raises(TrainingError, match=r"diverged at learning rates .*the loss is (nan|inf)"):
        fit(linear, tmp_path / "c.npz", rate)
    _, state = checkpoint.load(tmp_path / "c.npz")
    assert (state["step"], state["retries"]) == (0, 2)
    with pytest.raises(TrainingError, match="diverged"):
        fit(linear, tmp_path / "c.npz", rate)


def test_it_goes_back_to_the_end_of_the_last_good_epoch(undisturbed: Callable[..., Any]) -> None:
    """A rate that rises: the second epoch diverges, and the first stays as it was logged."""
    # The warm-up takes two epochs: in the first the rate stays below 1, in the second it does not.
    _, at, logged = undisturbed(linear, rate=1.9, warmup=20, epochs=20)
    assert at.retries == 1
    assert "went back to the end of epoch 1" in at.notes[0]
    assert [epoch for epoch, _ in logged] == list(range(1, 21))
    assert logged[0][1]["learning_rate"] == pytest.approx(0.95)
    assert logged[1][1]["learning_rate"] == pytest.approx(0.95)


@pytest.mark.parametrize(
    "saves", [2, *(pytest.param(saves, marks=pytest.mark.slow) for saves in (1, 4, 6, 9))]
)
@pytest.mark.parametrize(("rate", "warmup"), [(3.2, 0), (1.9, 20)])
def test_killed_around_a_recovery_it_ends_in_the_same_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Callable[..., Any],
    saves: int,
    rate: float,
    warmup: int,
) -> None:
    whole, at, logged = undisturbed(linear, rate=rate, warmup=warmup, epochs=20)
    assert at.retries > 0
    with monkeypatch.context() as patch:
        # A checkpoint after every few steps, at other steps than the whole run's.
        patch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
        patch.setattr(training, "CHUNK_SECONDS", 0.0)
        kill_after(saves, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(linear, tmp_path / "parts.npz", rate, warmup=warmup, epochs=20)
    parts, again, rest = fit(linear, tmp_path / "parts.npz", rate, warmup=warmup, epochs=20)
    assert parts == whole
    assert again.retries == at.retries
    assert rest[-1][1]["loss"] == logged[-1][1]["loss"]


@pytest.mark.parametrize(
    "size", [3, 4, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 8))]
)
def test_micro_batches_add_up_to_the_batch(
    tmp_path: Path, undisturbed: Callable[..., Any], size: int
) -> None:
    _, _, whole = undisturbed(plain)
    _, _, parts = fit(plain, tmp_path / "parts.npz", micro_batch=size)
    for (_, one), (_, two) in zip(whole, parts, strict=True):
        for name in ("loss", "error", "val_loss", "val_error"):
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=2e-6), name


@pytest.mark.slow
def test_where_memory_runs_out_the_micro_batch_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, _, _ = fit(crowded(3), tmp_path / "asked.npz", micro_batch=2)
    found, at, logged = fit(crowded(3), tmp_path / "found.npz")
    assert at.micro_batch == 2
    assert [note.split(";")[0] for note in at.notes] == [
        "8 examples do not fit into memory: micro-batch 4",
        "4 examples do not fit into memory: micro-batch 2",
    ]
    assert [epoch for epoch, _ in logged] == [1, 2, 3, 4]
    assert found == asked
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
        kill_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(crowded(3), tmp_path / "parts.npz")
    _, state = checkpoint.load(tmp_path / "parts.npz")
    assert state["micro_batch"] == 2
    assert fit(crowded(3), tmp_path / "parts.npz")[0] == asked


def test_one_example_that_does_not_fit_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="one example at a time does not fit into memory"):
        fit(crowded(0), tmp_path / "c.npz")


def test_a_training_step_of_its_own_takes_no_micro_batch(tmp_path: Path) -> None:
    class Own(keras.Model):
        def train_step(self, data: Any) -> dict[str, Any]:
            return super().train_step(data)

    def build() -> keras.Model:
        inputs = keras.Input((1,))
        return Own(inputs, keras.layers.Dense(1)(inputs), name="own")

    with pytest.raises(TrainingError, match="own has a training step of its own"):
        fit(build, tmp_path / "c.npz", micro_batch=2)


def test_a_rate_of_100_is_told_and_the_run_failed(dlkit: Callable[..., Done], npz: Path) -> None:
    options = ("--data", npz, "--model", "mlp", "--epochs", "2", "--learning-rate", "100")
    done = dlkit(TASK, "train", *options)
    assert done.code == 2
    notes = [line for line in done.err.splitlines() if line.startswith("note: ")]
    assert ["100 to 50" in notes[0], "50 to 25" in notes[1]] == [True, True]
    assert "training diverged at learning rates 100, 50 and 25" in done.err.splitlines()[-1]
    shown = dlkit("runs", "show", "latest", "--json")
    listed = dlkit("runs", "list", "--json").json
    assert listed["status"] == "FAILED"
    shown = dlkit("runs", "show", listed["run"], "--json").json
    assert "training diverged" in shown["tags"]["dlkit.failure"]


@pytest.mark.usefixtures("unchecked", "undrawn")
def test_a_recovery_is_told_on_the_run(dlkit: Callable[..., Done], npz: Path) -> None:
    # The penalty's parabola alone decides: at 0.2 and 0.1 it diverges, at 0.05 it does not.
    done = dlkit(
        TASK, "train", "--data", npz, "--model", "mlp", "-p", "depth=0", "-p", "l2=10",
        "--optimizer", "sgd", "--learning-rate", "0.2", "--warmup", "0", "--weight-decay", "0",
        "--schedule", "constant", "--epochs", "4", "--batch-size", "24", "--micro-batch", "7",
    )  # fmt: skip
    assert done.code == 0, done.err
    told = [line.removeprefix("note: ") for line in done.err.splitlines() if "halved" in line]
    assert ["from 0.2 to 0.1;" in told[0], "from 0.1 to 0.05;" in told[1]] == [True, True]
    shown = dlkit("runs", "show", "latest", "--json").json
    assert shown["tags"]["dlkit.went_back"] == "; ".join(told)
    assert all(line in done.out for line in told)
    history = tracking.client().get_metric_history(shown["run"], "loss")
    assert sorted(m.step for m in history) == [1, 2, 3, 4]


def test_a_micro_batch_above_the_batch_is_refused(dlkit: Callable[..., Done], npz: Path) -> None:
    options = ("--data", npz, "--batch-size", "16", "--micro-batch", "17")
    done = dlkit(TASK, "train", *options)
    assert done.code == 2
    assert "--micro-batch: got 17; accepted: 1 to the batch size, 16" in done.err


class Slow:
    """A stream that takes `slow` seconds a batch from some moment on."""

    def __init__(self, at: float, fast: float, slow: float) -> None:
        self.began, self.at, self.fast, self.slow = time.monotonic(), at, fast, slow
        generator = np.random.default_rng(1)
        self.batches = (generator.choice([-1.0, 1.0], (BATCH, 1)) for _ in count())

    def __call__(self, epoch: int, step: int) -> Any:
        def wait() -> Any:
            late = time.monotonic() - self.began > self.at
            time.sleep(self.slow if late else self.fast)
            return next(self.batches).astype(np.float32)

        def batch(_: Any) -> tuple:
            x = tf.ensure_shape(tf.numpy_function(wait, [], tf.float32), (BATCH, 1))
            return x, 3 * x

        return tf.data.Dataset.range(10**9).map(batch)


@pytest.mark.slow  # by the clock, which other work can spoil
@pytest.mark.parametrize(("fast", "slow"), [(0.004, 0.012), (0.012, 0.004)])
def test_a_machine_that_changes_its_speed_ends_at_the_limit(
    tmp_path: Path, fast: float, slow: float
) -> None:
    stream, limit = Slow(2.5, fast, slow), 8.0
    _, at, logged = fit(
        linear, tmp_path / "c.npz", 0.1, stream=stream, epochs=None, time_limit=limit,
        schedule="linear",
    )  # fmt: skip
    assert at.finished == "planned steps done"
    assert at.seconds == pytest.approx(limit, rel=0.05)
    assert at.total != at.schedule_total  # the first plan was for another speed
    rates = [logs["learning_rate"] for _, logs in logged]
    assert rates[-1] < 0.1 / 40
    assert np.diff(rates).max() <= 0


def test_a_revised_plan_goes_on_from_the_rate_it_has() -> None:
    at = Position(step=100, time_limit=100.0)
    plan.make_plan(at, Pace(100, 10.0, 1, 1.0), spent=15.0, per_epoch=50)
    # 84 seconds for 50 steps in 5 and an end in 1, over and over.
    assert at.total == at.schedule_total == 100 + 14 * 50
    at.step = 300
    before = plan.schedule_line(at)
    assert plan.due(at, 50.0) and not plan.due(at, 49.0)
    assert not plan.revise(at, Pace(100, 10.0, 2, 2.0), 39.0, 50)  # as planned
    assert plan.revise(at, Pace(100, 20.0, 2, 2.0), 51.0, 50)  # half as fast
    assert at.total == 300 + 4 * 50 + 15
    after = plan.schedule_line(at)

    def reached(line: tuple[float, float, float], step: float) -> float:
        return line[0] + line[1] * step

    assert reached(before, 300) == 300 == pytest.approx(reached(after, 300))
    assert reached(after, at.total) == pytest.approx(at.schedule_total) == 800
    at.step, shorter = 250, at.total  # gone back
    assert plan.revise(at, Pace(), 60.0, 50, tolerance=0.0)
    assert at.total < shorter
    assert reached(plan.schedule_line(at), 250) == pytest.approx(250)
    assert reached(plan.schedule_line(at), at.total) == pytest.approx(800)
    at.step = at.total - 20
    assert plan.revise(at, Pace(), 99.9, 50)  # hardly any time: the rate comes down even so
    assert at.total == at.step + 10
    assert reached(plan.schedule_line(at), at.total) == pytest.approx(800)


def test_an_average_takes_in_every_step_before_it_is_validated(tmp_path: Path) -> None:
    # An average that forgets at once is the model itself, however few steps an epoch has.
    short = {"steps_per_epoch": 3, "epochs": 4}
    _, _, alone = fit(plain, tmp_path / "a.npz", **short)
    _, _, averaged = fit(plain, tmp_path / "b.npz", ema=1e-9, **short)
    for (_, one), (_, other) in zip(alone, averaged, strict=True):
        assert other["val_loss"] == pytest.approx(one["val_loss"], rel=1e-5)
    assert len({logs["val_loss"] for _, logs in averaged}) == 4
