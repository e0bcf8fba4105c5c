"""The layer that turns a table's raw rows into what a detector reads, fitted on training rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.data.tables import Columns

# Shares of the rows at either end whose values are drawn in before the scale is measured.
WINSORISED = 0.01
# Of its mean, the share that is a column's least deviation.
LEAST = 1e-6
# Deviations from the mean beyond which the logarithm goes on, and those that nothing exceeds.
LINEAR, FARTHEST = 10.0, 1e30


@keras.saving.register_keras_serializable("dlkit")
class TableScaler(keras.layers.Layer):
    """Raw columns in, float32 `(b, features)` out.

    A number is given mean 0 and deviation 1, beyond 10 by its logarithm (see `scaled`); a missing
    one becomes 0, and columns that lacked numbers in training get a feature that says so. A category
    becomes one feature for each name known and a last one for every other name; a missing one has
    none.

    It is called on `{"rows": float32 (b, numeric), COLUMN: string (b,), ...}`, the names of columns
    being those of `Columns.endpoint`.

    Args:
        columns: `[names of the columns of numbers, {column: names known}]`.
        mean, deviation: of each column of numbers.
        gaps: which columns of numbers lacked values in training.
    """

    def __init__(self, columns: Any, mean: Any, deviation: Any, gaps: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        numeric, categories = columns
        self.columns = Columns(tuple(numeric), {k: tuple(v) for k, v in categories.items()})
        self.mean = np.asarray(mean, np.float32)
        self.deviation = np.asarray(deviation, np.float32)
        self.gaps = np.asarray(gaps, bool)

    @property
    def owners(self) -> np.ndarray:
        """Return the column that each feature comes from, int32 `(features,)`."""
        numeric = np.arange(len(self.columns.numeric))
        parts = [numeric, numeric[self.gaps]]
        for i, known in enumerate(self.columns.categories.values()):
            parts.append(np.full(len(known) + 1, len(numeric) + i))
        return np.concatenate(parts).astype(np.int32)

    def call(self, inputs: Mapping[str, Any]) -> Any:
        """Scale and encode."""
        parts: list[Any] = []
        if self.columns.numeric:
            rows = tf.cast(inputs["rows"], tf.float32)
            lacking = tf.math.is_nan(rows)
            parts.append(tf.where(lacking, 0.0, scaled(rows, self.mean, self.deviation)))
            if self.gaps.any():
                parts.append(tf.cast(tf.boolean_mask(lacking, self.gaps, axis=1), tf.float32))
        for name, known in self.columns.categories.items():
            value = inputs[self.columns.endpoint[name]][:, None]
            found = value == tf.constant(list(known), tf.string)  # (b, names)
            other = ~tf.reduce_any(found, 1, keepdims=True) & (value != "")
            parts.append(tf.cast(tf.concat([found, other], 1), tf.float32))
        return tf.concat(parts, 1)

    def restore(self, x: Any) -> dict[str, Any]:
        """Return rows in raw units from what `call` gives or a model makes of it.

        What lies beyond 10 deviations stays as near as its logarithm has brought it.

        Args:
            x: float32 `(b, features)`.
        Returns:
            `reconstruction` float32 `(b, numeric)`, and the likeliest name of each column of
            categories, string `(b,)`, by its name in `Columns.endpoint`.
        """
        numeric, found = len(self.columns.numeric), {}
        if numeric:
            found["reconstruction"] = x[:, :numeric] * self.deviation + self.mean
        at = numeric + int(self.gaps.sum())
        for name, known in self.columns.categories.items():
            names = tf.constant([*known] or [""], tf.string)
            likeliest = tf.argmax(x[:, at : at + max(len(known), 1)], 1)
            found[self.columns.endpoint[name]] = tf.gather(names, likeliest)
            at += len(known) + 1
        return found

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {
            "columns": [list(self.columns.numeric), dict(self.columns.categories)],
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
            "gaps": self.gaps.tolist(),
        }


def scaled(x: Any, mean: np.ndarray, deviation: np.ndarray) -> Any:
    """Return numbers `(..., columns)` in deviations from their means, beyond 10 by their logarithm.

    What is farther stays farther, but neither a loss nor a covariance is that of one gross outlier
    alone, such as the 99999 of a broken sensor, and squares are finite.
    """
    x = tf.clip_by_value((x - mean) / deviation, -FARTHEST, FARTHEST)
    beyond = tf.maximum(tf.abs(x) - LINEAR, 0.0)
    return tf.clip_by_value(x, -LINEAR, LINEAR) + tf.sign(x) * tf.math.log(1.0 + beyond)


def fit_scaler(inputs: Mapping[str, np.ndarray], columns: Columns, notes: list[str]) -> TableScaler:
    """Return the scaler of training rows.

    The scale of a column is robust: its smallest and largest hundredth are drawn in to where they
    begin before mean and deviation are taken (winsorised, Tukey 1962), unless none of the deviation
    is left.

    Args:
        inputs: training rows as the endpoint takes them.
        columns: what each column is; categories that do not occur in these rows are not known.
        notes: gets a sentence that names the constant columns.
    """
    rows = inputs.get("rows", np.empty((0, 0), np.float32)).astype(np.float64)
    mean, deviation = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    constant = []
    for i, name in enumerate(columns.numeric):
        values = rows[~np.isnan(rows[:, i]), i]
        if not len(values):
            constant.append(name)
            continue
        low, high = np.quantile(values, [WINSORISED, 1 - WINSORISED])
        drawn = values.clip(low, high)
        # Of a column that is nearly always the same, the rest is what its scale is of.
        drawn = drawn if drawn.std() > LEAST * max(abs(drawn.mean()), 1e-12) else values
        mean[i] = drawn.mean()
        if values.min() == values.max():
            constant.append(name)
        else:
            deviation[i] = max(drawn.std(), LEAST * abs(mean[i]))
    known = {
        name: tuple(sorted(set(inputs[endpoint]) - {""}))
        for name, endpoint in columns.endpoint.items()
    }
    constant += [name for name, values in known.items() if len(values) < 2]
    if constant:
        notes.append(
            f"constant in training, so that it teaches nothing: {', '.join(map(repr, constant))}"
        )
    return TableScaler(
        [list(columns.numeric), known], mean, deviation, np.isnan(rows).any(0), name="scale"
    )
