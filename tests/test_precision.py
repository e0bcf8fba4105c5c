"""Training in bfloat16: products alone; weights, losses and answers stay float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import Done, pictures

from dlkit import losses, models, optimizers, training
from dlkit.data import Spec
from dlkit.precision import computing_in

IMAGES, TEXT = "image-classification", "text-generation"
MODELS = [
    (IMAGES, "cnn", {}),
    (IMAGES, "resnet-20", {}),
    (IMAGES, "vit", {"depth": 1}),
    (TEXT, "transformer", {"depth": 1}),
    (TEXT, "transformer-nanogpt-cpu", {"depth": 1}),
    (TEXT, "gru", {"depth": 1, "units": 16}),
]


def built(task: str, name: str, params: dict[str, Any]) -> tuple[keras.Model, Any, Any]:
    training.seed_everything(0)
    if task == TEXT:
        tokens = np.random.default_rng(0).integers(0, 9, (4, 13)).astype(np.int32)
        model = models.build(task, name, Spec((12,), 9, dtype="int32"), params)
        return model, tf.constant(tokens[:, :-1]), tf.constant(tokens[:, 1:])
    x, y = pictures(12)
    model = models.build(task, name, Spec((12, 12, 1), 3), params)
    return model, tf.constant(x / 128.0 - 1.0, tf.float32), tf.constant(y.astype(np.int32))


@pytest.mark.parametrize(("task", "name", "params"), MODELS, ids=[m[1] for m in MODELS])
def test_gradients_are_float32_and_nearly_those_of_float32(
    task: str, name: str, params: dict[str, Any]
) -> None:
    model, x, y = built(task, name, params)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    before = [layer.dtype_policy.name for layer in model.layers]
    found = {}
    for precision in ("float32", "bfloat16"):
        with computing_in(model, precision), tf.GradientTape() as tape:
            logits = model(x, training=False)
            value = loss(y, logits)
        assert value.dtype == tf.float32
        gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
        assert all(g.dtype == tf.float32 for g in gradients)
        found[precision] = np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradients])
    full, half = found["float32"], found["bfloat16"]
    assert np.dot(full, half) > 0.98 * np.linalg.norm(full) * np.linalg.norm(half)
    if name != "gru":
        assert not np.array_equal(full, half)
    assert [layer.dtype_policy.name for layer in model.layers] == before
    assert model(x).dtype == tf.float32
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


def test_layers_compute_in_half_the_width_while_it_is_open() -> None:
    model, x, _ = built(IMAGES, "cnn", {})
    first = next(layer for layer in model.layers if layer.weights)
    head = model.layers[-1]
    with computing_in(model, "bfloat16"):
        assert first(x).dtype == tf.bfloat16
        assert model(x).dtype == tf.float32
        assert head.compute_dtype == "float32"
    assert first(x).dtype == tf.float32
    with pytest.raises(ZeroDivisionError), computing_in(model, "bfloat16"):
        raise ZeroDivisionError
    assert first.compute_dtype == "float32"


def test_a_step_trains_in_it() -> None:
    block = {"filters": 8, "pool_size": 2, "batch_norm": True}
    model, x, y = built(IMAGES, "cnn", {"conv_layers": [block, block]})
    model.compile(
        optimizer=optimizers.make_optimizer("muon", 1e-3, 0.01),
        loss=losses.classification_loss("cross-entropy", 3),
        jit_compile=False,
    )

    @tf.function
    def step() -> None:
        with computing_in(model, "bfloat16"):
            model.train_step((x, y))

    first = float(model.evaluate(x, y, verbose=0))
    for _ in range(30):
        step()
    assert float(model.evaluate(x, y, verbose=0)) < first


@pytest.mark.usefixtures("unchecked", "undrawn")
def test_the_command_takes_it(dlkit: Callable[..., Done], npz: Path) -> None:
    train = ["image-classification", "train", "--data", str(npz), "--model", "mlp", "--epochs", "2"]
    done = dlkit(*train, "--precision", "bfloat16", "--batch-size", "24", "--json")
    assert done.code == 0, done.err
    wrong = dlkit(*train, "--precision", "bfloat61")
    assert wrong.code == 2
    assert "did you mean 'bfloat16'" in wrong.err
