"""The conformance table of text generation: every model through everything that all have in common."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import admitted

from dlkit import checkpoint, export, models, optimizers, training
from dlkit.data import Spec
from dlkit.data.tokenizers import CharTokenizer
from dlkit.data.windows import lane_stream, window_stream
from dlkit.errors import OptionError, SpecError
from dlkit.export.text import TextGenerator, requests_and_answers
from dlkit.models.causal import advance, initial_state
from dlkit.recurrent import CELLS, scan

TEXT = "text-generation"


class Row(NamedTuple):
    """A model, its golden count for 65 characters and a context of 256, and a small one's parameters."""

    model: str
    parameters: int
    params: dict[str, Any]


SMALL = {"dim": 16, "depth": 2, "heads": 2, "dropout": 0.1}
TABLE = [
    # Embedding and head 65 x 128 each; blocks of 12 x 128**2.
    Row("transformer", 2 * 65 * 128 + 4 * 12 * 128**2, SMALL),
    Row("transformer-base", 2 * 65 * 128 + 4 * 12 * 128**2, {**SMALL, "positions": "learned"}),
    # nanoGPT counts 0.80 M and 10.65 M (without positions); scales of 2 x depth + 1 norms.
    Row("transformer-nanogpt-cpu", (65 + 256) * 128 + 4 * 12 * 128**2 + 9 * 128, SMALL),
    Row("transformer-nanogpt-gpu", (65 + 256) * 384 + 6 * 12 * 384**2 + 13 * 384, SMALL),
    # Embedding 65 x 128; kernels (in + 256) x gates x 256 and biases; head 256 x 65 + 65.
    Row("simple-rnn", 8_320 + (384 + 512) * 256 + 2 * 256 + 16_705, {"units": 12, "dropout": 0.1}),
    Row("lstm", 8_320 + (384 + 512) * 1024 + 2 * 1024 + 16_705, {"units": 12, "dropout": 0.1}),
    Row("gru", 8_320 + (384 + 512) * 768 + 4 * 768 + 16_705, {"units": 12, "tied": True}),
]
BY_ROW = pytest.mark.parametrize("row", TABLE, ids=[row.model for row in TABLE])
QUICK = ("lstm",)  # whose carried state is resumed too; the others have weights alone
LETTERS = "\n abcdefgh\u00e9\U0001f600"
CONTEXT = 12


@functools.cache
def tokens() -> np.ndarray:
    """A text of 600 letters, each told by the one before, with some noise."""
    generator = np.random.default_rng(0)
    steps = np.where(generator.random(600) < 0.8, 3, generator.integers(0, len(LETTERS), 600))
    return (np.cumsum(steps) % len(LETTERS)).astype(np.uint8)


def spec(context: int = CONTEXT) -> Spec:
    return Spec((context,), len(LETTERS), dtype="int32")


def perturbed(row: Row, context: int = CONTEXT, **params: Any) -> keras.Model:
    """A small model whose weights are large enough to tell differences."""
    training.seed_everything(0)
    model = models.build(TEXT, row.model, spec(context), {**row.params, **params})
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign_add(0.3 * generator.normal(size=variable.shape))
    return model


def fit(row: Row, path: Path, epochs: int) -> tuple[keras.Model, list[Any]]:
    """Train for some of three planned epochs, from the checkpoint at `path` if there is one."""
    training.seed_everything(0)
    model = models.build(TEXT, row.model, spec(), row.params)
    model.compile(
        optimizer=optimizers.make_optimizer("adamw", 1e-3, 0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    carried = model.carry(4) if hasattr(model, "carry") else []
    made = lane_stream if carried else window_stream
    common = {"context_length": CONTEXT, "batch_size": 4, "steps_per_epoch": 5, "seed": 1}

    def on_epoch(epoch: int, logs: dict[str, float]) -> None:
        if epoch == epochs < 3:
            raise KeyboardInterrupt

    rows = tokens()[:130].reshape(10, 13).astype(np.int32)
    validation = tf.data.Dataset.from_tensor_slices((rows[:, :-1], rows[:, 1:])).batch(4)
    training.fit(
        model,
        lambda epoch, step: made(tokens(), **common, epoch=epoch, step=step),
        validation,
        steps_per_epoch=5,
        batch_size=4,
        epochs=3,
        time_limit=None,
        schedule="cosine",
        learning_rate=1e-3,
        warmup=2,
        patience=None,
        monitor="loss",
        carried=carried,
        path=path,
        on_epoch=on_epoch,
        quiet=True,
    )
    return model, carried


@BY_ROW
def test_golden_parameter_count(row: Row) -> None:
    model = models.build(TEXT, row.model, Spec((256,), 65, dtype="int32"))
    assert model.count_params() == row.parameters
    assert model.output_shape == (None, None, 65)


@BY_ROW
def test_no_position_sees_its_future(row: Row) -> None:
    model, x = perturbed(row), tokens()[None, :CONTEXT].astype(np.int32)
    before = np.array(model(x))
    for at in range(1, CONTEXT):
        other = x.copy()
        other[:, at:] = (other[:, at:] + 1 + np.arange(CONTEXT - at)) % len(LETTERS)
        after = np.array(model(other))
        np.testing.assert_array_equal(before[:, :at], after[:, :at])
        assert np.abs(before[:, at] - after[:, at]).max() > 1e-3


@BY_ROW
def test_cached_logits_are_the_whole_text_s(row: Row) -> None:
    model, x = perturbed(row), tokens()[: 3 * CONTEXT].reshape(3, CONTEXT).astype(np.int32)
    whole = np.array(model(x))
    lengths = np.array([5, 7, 2], np.int32)
    logits, state = advance(model, x[:, :7], initial_state(model, 3), lengths)
    for r, n in enumerate(lengths):
        np.testing.assert_allclose(logits[r, :n], whole[r, :n], atol=1e-4)
    for k in range(5):
        at = lengths + k
        logits, state = advance(model, x[range(3), at][:, None], state)
        np.testing.assert_allclose(logits[:, 0], whole[range(3), at], atol=1e-4)
    np.testing.assert_array_equal(state[0], lengths + 5)


def test_a_full_rotary_cache_shows_what_a_window_of_the_context_shows() -> None:
    row = Row("transformer", 0, {**SMALL, "depth": 1, "dropout": 0.0})
    model, x = perturbed(row), tokens()[None, : 3 * CONTEXT].astype(np.int32)
    state = initial_state(model, 1)
    for at in range(3 * CONTEXT):
        logits, state = advance(model, x[:, at : at + 1], state)
    window = np.array(model(x[:, -CONTEXT:]))
    np.testing.assert_allclose(logits[:, 0], window[:, -1], atol=1e-4)


@BY_ROW
def test_survives_the_keras_format(row: Row, tmp_path: Path) -> None:
    model = perturbed(row)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = tokens()[None, :CONTEXT].astype(np.int32)
    np.testing.assert_array_equal(model(x), again(x))


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, marks=[pytest.mark.slow] * (r.model not in QUICK), id=r.model) for r in TABLE],
)
@pytest.mark.usefixtures("uncompiled")
def test_resumes_to_the_same_weights(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    whole, state = fit(row, tmp_path / "whole.npz", 3)
    with pytest.raises(KeyboardInterrupt):
        fit(row, tmp_path / "parts.npz", 2)
    assert 0 < checkpoint.load(tmp_path / "parts.npz")[1]["step"] < 15
    parts, state_of_parts = fit(row, tmp_path / "parts.npz", 3)
    assert training.weights_hash(parts) == training.weights_hash(whole)
    for a, b in zip(state, state_of_parts, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(np.array(a)).max() > 0


def exported(folder: Path) -> list[Any]:
    """Export each model, with requests and answers."""
    tokenizer = CharTokenizer(sorted(map(ord, LETTERS)))
    texts = [tokenizer.decode(tokens()[a:b]) for a, b in ((0, 30), (40, 44), (60, 75))]
    exports = []
    for row in TABLE:
        if row.model in ("transformer-base", "transformer-nanogpt-gpu"):
            continue  # the same graphs
        model = perturbed(row, depth=1)
        target = folder / row.model / "1"
        export.write(TextGenerator(model, tokenizer, 0), target)
        exports.append((target, *requests_and_answers(model, tokenizer, 0, texts, 30)))
    return exports


@pytest.mark.slow  # test_text_recipe.py has a transformer's
def test_exports_answer_as_their_models_in_a_process_without_dlkit(tmp_path: Path) -> None:
    assert max(export.check(admitted(exported(tmp_path)))) <= 1e-5


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_the_cores_have_keras_s_numbers_and_weights(cell: str, fast: bool) -> None:
    makers = {"simple-rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}
    theirs = getattr(keras.layers, makers[cell])(6, return_sequences=True)
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=(3, 9, 4)), tf.float32)
    theirs.build(x.shape)
    weights = [0.5 * generator.normal(size=w.shape).astype(np.float32) for w in theirs.weights]
    theirs.set_weights(weights)
    kernel, recurrent, bias = map(tf.constant, weights)
    states = tuple(
        tf.constant(generator.normal(size=(3, 6)), tf.float32) for _ in range(CELLS[cell].states)
    )
    with tf.GradientTape() as tape:
        tape.watch([x, *states])
        expected = theirs(x, initial_state=list(states))
        loss = tf.reduce_sum(tf.sin(expected))
    gradients: Any = tape.gradient(loss, [x, *(w.value for w in theirs.weights), *states])

    @tf.function
    def ours() -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, kernel, recurrent, bias, *states])
            first, second = (bias[0], bias[1]) if cell == "gru" else (bias, None)
            products = tf.transpose(tf.matmul(x, kernel), (1, 0, 2)) + first
            outputs = tf.transpose(
                scan(cell, products, states, recurrent, second, fast)[0], (1, 0, 2)
            )
            loss = tf.reduce_sum(tf.sin(outputs))
        return outputs, tape.gradient(loss, [x, kernel, recurrent, bias, *states])

    outputs, found = ours()
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for a, b in zip(found, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru", "simple-rnn"])
def test_weights_are_exchanged_with_keras_s_layers(cell: str) -> None:
    model = models.build(TEXT, cell, spec(), {"units": 6, "depth": 1})
    maker = {"simple-rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}[cell]
    theirs = getattr(keras.layers, maker)(6, return_sequences=True)
    x = tokens()[None, :CONTEXT].astype(np.int32)
    embedded = model.get_layer("embedding")(x)
    theirs.build(embedded.shape)
    theirs.set_weights(model.get_layer(f"{cell}1").get_weights())
    expected = model.get_layer("logits")(theirs(embedded))
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


def test_a_carried_state_goes_on_where_the_last_batch_ended() -> None:
    model = perturbed(Row("lstm", 0, {"units": 8}))
    model.compile(
        optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    carried = model.carry(1)
    x = tokens()[None, : 2 * CONTEXT].astype(np.int32)
    whole = np.array(model(x))
    model(x[:, :CONTEXT], training=True)
    second = np.array(model(x[:, CONTEXT:], training=True))
    np.testing.assert_allclose(second, whole[:, CONTEXT:], atol=1e-5)
    assert any(np.abs(np.array(v)).max() > 0 for v in carried)
    names = {v.path for v in model.variables}
    assert not names & {v.path for v in carried}


@pytest.mark.parametrize(
    ("model", "params", "error", "words"),
    [
        ("lstm", {"bidirectional": True}, SpecError, "must not see what comes after"),
        ("transformer", {"bidirectional": True}, SpecError, "must not see what comes after"),
        ("transformer", {"heads": 3}, SpecError, "3, which does not divide the width 128"),
        (
            "lstm",
            {"rnn_layers": [{"cell": "lstn", "units": 3}]},
            OptionError,
            "accepted: gru, lstm, simple-rnn",
        ),
        ("gru", {"rnn_layers": [{"cell": "gru"}]}, OptionError, r"rnn_layers\[0\]: needs 'units'"),
        ("transformer", {"transformer_layers": [{"head": 3}]}, OptionError, "did you mean 'heads'"),
        ("transformer-nanogpt", {}, OptionError, "did you mean 'transformer-nanogpt-"),
        ("grru", {}, OptionError, "did you mean 'gru'"),
    ],
)
def test_what_does_not_fit_is_told(
    model: str, params: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        models.build(TEXT, model, spec(), params)


def test_layer_lists() -> None:
    mixed = {"rnn_layers": [{"cell": "lstm", "units": 6}, {"cell": "gru", "units": 5}]}
    model = models.build(TEXT, "lstm", spec(), mixed)
    assert [layer.name for layer in model.layers if "1" in layer.name or "2" in layer.name] == [
        "lstm1",
        "gru2",
    ]
    blocks = {"dim": 12, "transformer_layers": [{"heads": 2, "mlp_ratio": 1}, {"heads": 3}]}
    model = models.build(TEXT, "transformer", spec(), blocks)
    assert model.get_layer("mlp1_1").units == 12
    assert model.get_layer("mlp2_1").units == 48
    assert model.get_layer("attention2").heads == 3
