"""The conformance table of forecasting: every model through everything that all have in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import pytest
from made import admitted, cores_uncompiled
from scipy.fft import dct

from dlkit import export, models, training
from dlkit.data.series import SeriesData, load_series
from dlkit.data.series_sources import Roles
from dlkit.data.spec import SeriesSpec
from dlkit.errors import OptionError, SpecError
from dlkit.export.forecast import Forecaster, held_out, scales
from dlkit.models.nhits import Interpolation

FORECASTING = "forecasting"


class Row(NamedTuple):
    """A model, its golden count for 7 targets, lookback 336, horizon 96, and a small one's parameters."""

    model: str
    parameters: int
    params: dict[str, Any]


RNN = {"units": 6, "depth": 2, "bidirectional": True, "patch": 5}
ENCODER = {"dim": 8, "heads": 2, "depth": 1}
MAP = 336 * 96 + 96
TABLE = [
    # Zeng et al. 2023: a matrix and a bias, for the trend and for what remains.
    Row("linear", MAP, {}),
    Row("nlinear", MAP, {}),
    Row("dlinear", 2 * MAP, {"kernel_size": 4}),
    # Two hidden layers, head, linear path.
    Row("mlp", 337 * 256 + 257 * 256 + 257 * 96 + MAP, {"units": 8}),
    # 13 convolutions of 32 to 32 and one of 1 to 32, shortcut, head, linear path.
    Row("tcn", 13 * 97 * 32 + 4 * 32 + 2 * 32 + 33 * 96 + MAP, {"filters": 4}),
    # Segments of 24 steps to 128; kernels (128 + 128) x gates x 128 and biases; head.
    Row("simple-rnn", 25 * 128 + 257 * 128 + 129 * 96, RNN),
    Row("lstm", 25 * 128 + 257 * 512 + 129 * 96, RNN),
    Row("gru", 25 * 128 + 258 * 384 + 129 * 96, RNN),
    # A filter over a season of 24; 14 seasons to 128 to 4.
    Row("sparsetsf", 25 + 15 * 128 + 129 * 4, {"period": 4, "units": 8}),
    # 84 tokens of 4 steps; blocks of 4 x 33 x 32, 33 x 128 + 129 x 32, two norms; norm; head.
    Row(
        "transformer",
        5 * 32 + 84 * 32 + 2 * (4 * 33 * 32 + 33 * 128 + 129 * 32 + 128) + 64 + (84 * 32 + 1) * 96,
        {**ENCODER, "patch": 5},
    ),
    # Nie et al. 2023, table 9, PatchTST/42: blocks of 4 x 17 x 16, 17 x 128 + 129 x 16, and two
    # norms with their moving statistics.
    Row(
        "patchtst",
        17 * 16 + 42 * 16 + 3 * (4 * 17 * 16 + 17 * 128 + 129 * 16 + 128) + (42 * 16 + 1) * 96,
        {**ENCODER, "patch_length": 5, "stride": 3},
    ),
    # Pooled to 21, 42 and 336 steps; two hidden layers each; 4, 8 and 96 knots; two backcasts.
    Row(
        "nhits",
        (22 + 43 + 337) * 256 + 3 * 257 * 256 + 257 * (4 + 8 + 96) + 2 * 257 * 336,
        {"units": 8, "pooling": [3, 1], "downsampling": [2, 1], "blocks": 2},
    ),
]
DEEP = {"patchtst", "transformer", "tcn", "nhits", "simple-rnn", "lstm"}
BY_ROW = pytest.mark.parametrize("row", TABLE, ids=[row.model for row in TABLE])
LOOKBACK, HORIZON = 17, 5
COVARIATES = {"past": 2, "future": 1, "static": 3}
LEVELS = (0.1, 0.5, 0.9)


def spec(targets: int = 1, lookback: int = LOOKBACK, **kwargs: Any) -> SeriesSpec:
    """What a source of so many targets has; a window holds its covariates too."""
    channels = targets + kwargs.get("past", 0) + kwargs.get("future", 0)
    return SeriesSpec((lookback, channels), targets, **{"horizon": HORIZON, **kwargs})


def inputs_of(given: SeriesSpec, rows: int = 4) -> list[np.ndarray]:
    """Random walks, and covariates where there are some."""
    generator = np.random.default_rng(0)
    inputs = [generator.normal(size=(rows, *given.input_shape)).cumsum(1)]
    if given.future:
        inputs.append(generator.normal(size=(rows, given.horizon, given.future)))
    if given.static:
        inputs.append(generator.normal(size=(rows, given.static)))
    return [x.astype(np.float32) for x in inputs]


def perturbed(row: Row, given: SeriesSpec, **params: Any) -> keras.Model:
    """A small model whose weights are large enough to tell differences."""
    training.seed_everything(0)
    model = models.build(FORECASTING, row.model, given, {**row.params, **params})
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign_add(0.3 * generator.normal(size=variable.shape))
    return model


def forecast(model: keras.Model, inputs: list[np.ndarray]) -> np.ndarray:
    return np.array(model(inputs if len(inputs) > 1 else inputs[0], training=False))


def test_every_model_has_a_row_and_every_row_a_model() -> None:
    assert {row.model for row in TABLE} == set(models.MODELS[FORECASTING])


@BY_ROW
def test_golden_parameter_count(row: Row) -> None:
    given = SeriesSpec((336, 7), 7, horizon=96, season=24)
    with keras.StatelessScope(initialize_variables=False):
        assert models.build(FORECASTING, row.model, given).count_params() == row.parameters
    # Else the next scope would make what this one left out.
    keras.utils.clear_session(free_memory=False)


@pytest.mark.parametrize(
    "given",
    [
        spec(),
        spec(3),
        spec(3, joint=True),
        spec(2, quantiles=LEVELS),
        spec(2, joint=True, quantiles=LEVELS, **COVARIATES),
        spec(2, horizon=1, past=1, static=1),
    ],
    ids=["one", "apart", "joint", "quantiles", "everything", "one-step"],
)
@BY_ROW
def test_gives_the_shape_that_is_wanted(row: Row, given: SeriesSpec) -> None:
    model = models.build(FORECASTING, row.model, given, row.params)
    inputs = inputs_of(given)
    assert forecast(model, inputs).shape == (4, *given.output_shape)
    names = ["window", *(n for n in ("future", "static") if getattr(given, n))]
    assert [x.name for x in model.inputs] == names


@BY_ROW
def test_trains_and_survives_the_keras_format(row: Row, tmp_path: Path) -> None:
    given = spec(2, quantiles=LEVELS, **COVARIATES)
    training.seed_everything(0)
    model = models.build(FORECASTING, row.model, given, row.params)
    # A graph is traced for longer than this test runs.
    model.compile(optimizer="adamw", loss="mse", jit_compile=False, run_eagerly=True)
    inputs, y = inputs_of(given), np.ones((4, *given.output_shape), np.float32)
    before = [np.array(w) for w in model.trainable_variables]
    with cores_uncompiled():
        losses = [float(model.train_on_batch(inputs, y)) for _ in range(2)]
    assert np.isfinite(losses).all()
    after = [np.array(w) for w in model.trainable_variables]
    assert all(np.isfinite(w).all() for w in after)
    # What stands behind the zeros that the correction starts with waits for the second step.
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(forecast(model, inputs), forecast(again, inputs))


def series(folder: Path) -> SeriesData:
    """Two targets of large level, one covariate known ahead."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(generator.normal(size=(150, 3)).cumsum(0) + 1000, columns=["a", "b", "c"])
    frame.insert(0, "day", pd.date_range("2024-01-01", periods=150))
    path = folder / "series.csv"
    frame.to_csv(path, index=False)
    roles = Roles(targets=("a", "b"), future=("c",))
    return load_series(str(path), roles=roles, lookback=LOOKBACK, horizon=HORIZON)


def exported(folder: Path, deep: bool) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Export the deep models or the others, each with requests and answers; and the scales."""
    data, exports, radius = series(folder), [], np.full((HORIZON, 2), 0.5)
    for row in (row for row in TABLE if (row.model in DEEP) == deep):
        model = perturbed(row, data.spec)
        target = folder / row.model / "1"
        export.write(Forecaster(model, data, radius), target)
        exports.append((target, *held_out(model, data, radius)))
    return exports, scales(data)


@pytest.mark.slow  # the others are checked with those of every task, in test_models.py
def test_deep_exports_answer_as_their_models_in_a_process_without_dlkit(tmp_path: Path) -> None:
    exports, sizes = exported(tmp_path, deep=True)
    assert max(export.check(admitted(exports), sizes)) <= 1e-5


@BY_ROW
def test_moves_and_scales_with_its_window(row: Row) -> None:
    given = spec(2, quantiles=LEVELS)
    (x,) = inputs_of(given)
    model = perturbed(row, given, instance_norm="standard")
    expected = 3.0 * forecast(model, [x]) + 5.0
    np.testing.assert_allclose(forecast(model, [3.0 * x + 5.0]), expected, rtol=1e-3, atol=1e-3)
    model = perturbed(row, given, instance_norm="last")
    expected = forecast(model, [x]) + 5.0
    np.testing.assert_allclose(forecast(model, [x + 5.0]), expected, rtol=1e-3, atol=1e-3)
    model = perturbed(row, given, instance_norm="none")
    assert np.abs(forecast(model, [x + 5.0]) - forecast(model, [x]) - 5.0).max() > 0.1


@pytest.mark.parametrize("joint", [False, True])
@BY_ROW
def test_targets_meet_only_in_a_joint_model(row: Row, joint: bool) -> None:
    given = spec(3, joint=joint, past=1)
    (x,) = inputs_of(given)
    model = perturbed(row, given)
    before, other = forecast(model, [x]), x.copy()
    other[:, :, 1] = -2.0 * other[::-1, :, 1]
    change = np.abs(forecast(model, [other]) - before).max((0, 1))
    assert change[1] > 0.01
    if joint:
        assert change[[0, 2]].min() > 0.01
    else:
        np.testing.assert_allclose(change[[0, 2]], 0.0, atol=1e-5)
    other = x.copy()
    other[:, :, 3] = -2.0 * other[::-1, :, 3]  # the covariate, which each target sees
    assert np.abs(forecast(model, [other]) - before).max((0, 1)).min() > 0.01


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")  # of a single token
@BY_ROW
def test_a_window_of_one_step_is_enough_or_told(row: Row) -> None:
    given = spec(2, lookback=1, horizon=1)
    if row.model == "patchtst":
        with pytest.raises(SpecError, match="16 steps do not fit the lookback of 1; accepted: 1"):
            models.build(FORECASTING, row.model, given)
        model = models.build(
            FORECASTING, row.model, given, {"patch_length": 1, "stride": 1, "norm": "layer"}
        )
    else:
        model = models.build(FORECASTING, row.model, given)
    assert forecast(model, inputs_of(given)).shape == (4, 1, 2)


@pytest.mark.parametrize(
    ("model", "params", "error", "words"),
    [
        (
            "tcn",
            {"kernel_size": 1},
            SpecError,
            "1 step sees nothing of the past; accepted: at least",
        ),
        (
            "lstm",
            {"patch": 18},
            SpecError,
            "18 steps do not fit the lookback of 17; accepted: 1 to",
        ),
        (
            "transformer",
            {"patch": 18},
            SpecError,
            "do not fit the lookback of 17; accepted: 1 to 17",
        ),
        ("transformer", {"heads": 3}, SpecError, "32 does not divide by the 3 heads; accepted: a"),
        (
            "sparsetsf",
            {"period": 18},
            SpecError,
            "do not fit the lookback of 17; accepted: 1 to 17",
        ),
        ("patchtst", {"patch_length": 18}, SpecError, "do not fit the lookback of 17; accepted: 1"),
        ("patchtst", {"stride": 17}, SpecError, "got 17 for patches of 16; accepted: 1 to 16"),
        ("patchtst", {"dim": 10}, SpecError, "10 does not divide by the 4 heads; accepted: a mult"),
        (
            "nhits",
            {"pooling": [2, 1]},
            SpecError,
            "got [2, 1], [24, 12, 1]; accepted: lists of one",
        ),
        ("nhits", {"pooling": [], "downsampling": []}, SpecError, "got [], []; accepted: lists"),
        ("nhits", {"pooling": [2, 0, 1]}, OptionError, "-p pooling: got 0; accepted: at least 1"),
        ("gru", {"patch": 0}, OptionError, "-p patch: got 0; accepted: at least 1"),
        ("linear", {"instance_norm": "lst"}, OptionError, "did you mean 'last'?"),
        ("patchts", {}, OptionError, "did you mean 'patchtst'?"),
    ],
)
def test_what_does_not_fit_is_told(
    model: str, params: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        models.build(FORECASTING, model, spec(), params)


@pytest.mark.parametrize("basis", ["steps", "cosines"])
def test_nlinear_is_a_linear_map_of_the_window_less_its_last_value(basis: str) -> None:
    model = perturbed(Row("nlinear", 0, {}), spec(), basis=basis)
    (x,) = inputs_of(spec())
    kernel, bias = map(np.array, model.get_layer("linear").weights)
    last = x[:, -1]
    moved = x[..., 0] - last
    if basis == "cosines":
        moved = dct(moved, norm="ortho")
    np.testing.assert_allclose(
        forecast(model, [x])[..., 0], moved @ kernel + bias + last, atol=1e-4
    )


def test_noise_on_the_window_is_ridge_regression() -> None:
    """In the mean over the noise, least squares has the penalty noise**2 for each window's square."""
    noise, rng = 0.5, np.random.default_rng(0)
    past = rng.standard_normal((512, 6)).astype(np.float32)
    past -= past[:, -1:]
    truth = past @ rng.standard_normal((6, 2)).astype(np.float32)
    small = SeriesSpec((6, 1), 1, horizon=2)
    net = models.build(FORECASTING, "nlinear", small, {"noise": noise})
    quiet = models.build(FORECASTING, "nlinear", small)
    rate = keras.optimizers.schedules.InverseTimeDecay(0.2, 20, 1)
    net.compile(keras.optimizers.SGD(rate), "mse")
    often = (np.tile(past[..., None], (150, 1, 1)), np.tile(truth[..., None], (150, 1, 1)))
    net.fit(*often, batch_size=512, shuffle=False, verbose=0)
    quiet.set_weights(net.get_weights())
    found = net.predict(past[..., None], verbose=0)[..., 0]
    np.testing.assert_array_equal(found, quiet.predict(past[..., None], verbose=0)[..., 0])
    penalised = past.T @ past + noise**2 * len(past) * np.eye(6)
    np.testing.assert_allclose(
        found, past @ np.linalg.solve(penalised, past.T @ truth), atol=0.1 * float(truth.std())
    )
    plain = past @ np.linalg.lstsq(past, truth, rcond=None)[0]
    assert np.abs(found - plain).max() > 0.3 * float(truth.std())


@pytest.mark.parametrize(
    ("model", "params"),
    [("linear", {}), ("nlinear", {}), ("mlp", {"activation": "tanh", "instance_norm": "last"})],
)
def test_without_biases_a_window_upside_down_is_forecast_upside_down(
    model: str, params: dict[str, Any]
) -> None:
    (x,) = inputs_of(spec())
    net = perturbed(Row(model, 0, {}), spec(), bias=False, **params)
    assert not any(weight.name == "bias" for weight in net.weights)
    np.testing.assert_allclose(forecast(net, [-x]), -forecast(net, [x]), atol=1e-5)


def test_hidden_layers_beside_a_linear_map_start_at_nothing() -> None:
    (x,) = inputs_of(spec())
    model = models.build(FORECASTING, "mlp", spec(), {"instance_norm": "none", "basis": "steps"})
    kernel = np.array(model.get_layer("skip").kernel)
    np.testing.assert_allclose(forecast(model, [x])[..., 0], x[..., 0] @ kernel, atol=1e-4)
    alone = models.build(FORECASTING, "mlp", spec(), {"skip": False})
    assert np.array(alone.get_layer("head").kernel).any()


@pytest.mark.parametrize("size", [1, 4, 25])
def test_the_trend_is_a_moving_average_between_repeated_ends(size: int) -> None:
    model = models.build(FORECASTING, "dlinear", spec(), {"kernel_size": size})
    (x,) = inputs_of(spec())
    before = (size - 1) // 2
    padded = np.pad(x[..., 0], ((0, 0), (before, size - 1 - before)), "edge")
    expected = np.lib.stride_tricks.sliding_window_view(padded, size, 1).mean(-1)
    trend = keras.Model(model.input, model.get_layer("trend").output)(x)
    np.testing.assert_allclose(np.array(trend)[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("lookback", [17, 32])
def test_the_tcn_is_one_of_dilated_convolutions(lookback: int) -> None:
    given = spec(lookback=lookback)
    model = perturbed(Row("tcn", 0, {"filters": 4, "skip": False, "instance_norm": "none"}), given)
    (x,) = inputs_of(given)
    y: Any = x
    for block in (1, 2, 3, 4) if lookback > 29 else (1, 2, 3):
        entry = y
        for i in (1, 2):
            weights = model.get_layer(f"block{block}_conv{i}").get_weights()
            dilated = keras.layers.Conv1D(
                4, 3, padding="causal", dilation_rate=2 ** (block - 1), activation="relu"
            )
            dilated.build(y.shape)
            dilated.set_weights(weights)
            y = dilated(y)
        if block == 1:
            entry = model.get_layer("block1_shortcut")(entry)
        y = keras.ops.relu(y + entry)
    expected = model.get_layer("head")(y[:, -1])
    np.testing.assert_allclose(forecast(model, [x])[..., 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("depth", "seen"), [(None, 17), (1, 5), (2, 13)])
def test_blocks_of_the_tcn_cover_the_window(depth: int | None, seen: int) -> None:
    row = Row("tcn", 0, {"depth": depth, "skip": False, "instance_norm": "none"})
    model, (x,) = perturbed(row, spec()), inputs_of(spec())
    for at in range(LOOKBACK):
        other = x.copy()
        other[:, at] += 3.0
        changed = not np.array_equal(forecast(model, [other]), forecast(model, [x]))
        assert changed == (at >= LOOKBACK - seen)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["simple-rnn", "lstm", "gru"])
def test_states_are_those_of_keras_s_layers(cell: str, bidirectional: bool) -> None:
    params = {"units": 4, "depth": 2, "patch": 1, "bidirectional": bidirectional}
    model = perturbed(Row(cell, 0, params), spec(), instance_norm="none")
    (x,) = inputs_of(spec())
    maker = {"simple-rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}[cell]
    y: Any = x
    for i in (1, 2):
        layer: Any = getattr(keras.layers, maker)(4, return_sequences=i == 1)
        weights = model.get_layer(f"{cell}{i}").get_weights()
        if bidirectional:
            layer = keras.layers.Bidirectional(layer)
            weights += model.get_layer(f"{cell}{i}_back").get_weights()
        layer.build(y.shape)
        layer.set_weights(weights)
        y = layer(y)
    expected = model.get_layer("head")(y)
    np.testing.assert_allclose(forecast(model, [x])[..., 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", ["simple-rnn", "transformer"])
def test_segments_end_at_the_last_step(model: str) -> None:
    net = models.build(FORECASTING, model, spec(), {"patch": 5, "instance_norm": "none"})
    (x,) = inputs_of(spec())
    found = np.array(keras.Model(net.input, net.get_layer("segments").output)(x))
    expected = np.concatenate([np.repeat(x[:, :1], 3, 1), x], 1).reshape(4, 4, 5)
    np.testing.assert_array_equal(found, expected)


def test_stacks_of_nhits_draw_lines_between_their_knots() -> None:
    knots = np.array([[[1.0], [3.0]]], np.float32)
    line = np.array(Interpolation(8)(knots))[0, :, 0]
    np.testing.assert_allclose(line, [1, 1, 1.25, 1.75, 2.25, 2.75, 3, 3], atol=1e-6)
    np.testing.assert_array_equal(Interpolation(2)(knots), knots)
    assert Interpolation(3)(knots[:, :1]).shape == (1, 3, 1)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_pooled_transformer_has_a_head_of_its_width(pooling: str) -> None:
    net = models.build(FORECASTING, "transformer", spec(), {**ENCODER, "pooling": pooling})
    assert net.get_layer("head").kernel.shape == (8, HORIZON)
    assert forecast(net, inputs_of(spec())).shape == (4, HORIZON, 1)
