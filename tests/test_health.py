"""Gradients by layer: what is said of them, what is drawn, and that looking changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import LABELS, Done, pictures

from dlkit import health, layers, models, optimizers, training
from dlkit.data import Spec
from dlkit.data.preprocess import standardise
from dlkit.data.stream import eval_stream, train_stream

TASK = "image-classification"


def fit(
    build: Callable[[], keras.Model], path: Path, monitor: bool = True, epochs: int = 3
) -> tuple[str, training.Position]:
    """Train a net on small pictures; return the hash of its weights and the position."""
    pixels, y = pictures(48)
    x = np.array(standardise(pixels)(pixels.astype(np.float32)))
    training.seed_everything(0)
    model = build()
    model.compile(
        optimizers.make_optimizer("adamw", 1e-3, 0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    layers.adapt(model, x)

    def stream(epoch: int, step: int) -> Any:
        def prepare(seed: Any, rows: Any, x: Any, y: Any) -> tuple:
            return x, y

        return train_stream((x, y), prepare, batch_size=16, seed=0, epoch=epoch, step=step)

    at = training.fit(
        model, stream, eval_stream((x, y), lambda x, y: (x, y), batch_size=48),
        steps_per_epoch=3, batch_size=16, epochs=epochs, time_limit=None, schedule="cosine",
        learning_rate=1e-3, warmup=2, patience=None, monitor="accuracy", path=path,
        on_epoch=lambda epoch, logs: None, monitor_gradients=monitor, quiet=True,
    )  # fmt: skip
    return training.weights_hash(model), at


def named(name: str, **params: Any) -> Callable[[], keras.Model]:
    return lambda: models.build(TASK, name, Spec((12, 12, 1), 3, LABELS), params)


def gained(gain: float) -> Callable[[], keras.Model]:
    """Twenty rectified layers whose every activation is `gain` times the one before."""

    def build() -> keras.Model:
        inputs = keras.Input((12, 12, 1))
        x = keras.layers.Flatten()(inputs)
        for i in range(20):
            initializer = keras.initializers.VarianceScaling(2 * gain**2)
            x = keras.layers.Dense(
                64, "relu", kernel_initializer=initializer, name=f"hidden_{i + 1}"
            )(x)
        return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))

    return build


# The others are convolutions and dense layers as these, deeper.
QUICK = {"mlp"}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
        for name in sorted(models.MODELS[TASK])
    ],
)
def test_looking_changes_nothing_and_no_default_is_called_ill(model: str, tmp_path: Path) -> None:
    # Dropout and batch norm: what a careless look would move on.
    known = models.describe(model, models.MODELS[TASK][model]).signature.parameters
    params = {"dropout": 0.3} if "dropout" in known else {}
    unseen, _ = fit(named(model, **params), tmp_path / "unseen.npz", monitor=False)
    seen, at = fit(named(model, **params), tmp_path / "seen.npz")
    assert seen == unseen
    assert at.probes is not None
    found = health.verdict(at.probes)
    assert found["verdict"] == "healthy", found["words"]
    assert found["flow"] > 10 * health.VANISHING
    assert found["update"] < health.EXPLODING / 2
    assert at.probes["epochs"] == [0, 1, 2, 3]
    assert np.isfinite(at.probes["activation"]).any()


def probed(model: keras.Model) -> tuple[dict[str, Any], dict[str, float]]:
    """Look at a net before its training; return the figures and what is logged."""
    training.seed_everything(0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pixels, y = pictures(48)
    batch = (tf.constant(standardise(pixels)(pixels.astype(np.float32))), tf.constant(y))
    return health.record(None, 0, health.make_probe(model), batch)


def test_thirty_rectified_layers_are_healthy() -> None:
    probes, _ = probed(named("mlp", depth=30, units=128, initializer="he_normal", dropout=0.0)())
    found = health.verdict(probes)
    assert (found["verdict"], found["layer"]) == ("healthy", None)
    assert found["words"].startswith("gradients reach every layer")
    assert len(probes["layers"]) == 31


@pytest.mark.parametrize(("gain", "word"), [(10.0, "exploding"), (0.1, "vanishing")])
def test_layers_that_gain_or_lose_are_told(gain: float, word: str) -> None:
    probes, logs = probed(gained(gain)())
    found = health.verdict(probes)
    assert found["verdict"] == word
    assert found["words"].startswith(f"gradients are {word}: that of {found['layer']} is ")
    assert logs["gradient_norm"] == pytest.approx(np.linalg.norm(probes["norm"][0]), rel=1e-5)


def test_the_figures_are_those_of_the_gradient() -> None:
    model = gained(1.0)()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pixels, y = pictures(24)
    x, y = tf.constant(standardise(pixels)(pixels.astype(np.float32))), tf.constant(y)
    found = health.make_probe(model)((x, y))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=model(x))
        )
    kernel = model.get_layer("hidden_3").kernel
    gradient = np.array(tape.gradient(loss, kernel))
    at = found["layers"].index("hidden_3")
    assert found["gradient"][at] == pytest.approx(np.sqrt(np.mean(gradient**2)), rel=1e-4)
    assert found["norm"][at] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    assert found["weight"][at] == pytest.approx(np.std(kernel), rel=1e-2)
    seen = keras.Model(model.inputs, model.get_layer("hidden_3").output)(x)
    assert found["activation"][at] == pytest.approx(np.sqrt(np.mean(np.square(seen))), rel=1e-4)


def test_long_runs_are_thinned_out() -> None:
    probes = None
    one = {"layers": ["a"], "gradient": [1.0], "weight": [1.0], "norm": [1.0]}
    one |= {"activation": [1.0], "output": 1.0}
    for epoch in range(1001):
        probes, _ = health.record(probes, epoch, lambda _: one, None)
    assert probes is not None
    assert probes["epochs"] == list(range(0, 1001, 8))
    assert len(probes["gradient"]) == len(probes["epochs"]) <= health.MOST_PROBES


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_vanishing_is_said_and_drawn(dlkit: Callable[..., Done], npz: Path) -> None:
    done = dlkit(
        TASK, "train", "--data", npz, "--model", "mlp", "-p", "depth=30",
        "-p", "units=64", "-p", "activation=sigmoid", "-p", "initializer=glorot_uniform",
        "--epochs", "2", "--monitor-gradients",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "gradients are vanishing: that of hidden_1 is " in done.out
    shown = dlkit("runs", "show", "latest", "--json").json
    assert {"gradients.png", "gradients.json"} <= set(shown["files"])
    assert {"gradient_norm", "gradient_flow"} <= set(shown["metrics"])
    path = Path(next(line.split()[1] for line in done.out.splitlines() if line[:6] == "report"))
    report = json.loads(path.read_text())
    assert (report["health"]["verdict"], report["health"]["layer"]) == ("vanishing", "hidden_1")
    assert report["health"]["words"] in report["notes"]
    numbers = json.loads(path.with_name("gradients.json").read_text())
    assert numbers["layers"][0] == "hidden_1" and len(numbers["gradient"]) == 3
