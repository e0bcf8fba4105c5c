"""Recurrent language models: simple, LSTM and GRU."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from dlkit.data.spec import Spec
from dlkit.models.causal import advance, initial_state, looking_back, refuse_bidirectional
from dlkit.models.layer_lists import RnnLayers
from dlkit.recurrent import CELLS, scan

# Stacked layers are trained this many steps at a time: a layer then reads one span while the layer
# above it reads the span before, each on a core of its own.
SPAN = 16


@keras.saving.register_keras_serializable("dlkit")
class Recurrent(layers.Layer):
    """A recurrent layer that returns the output of each step: `(b, t, d)` to `(b, t, units)`.

    Weights are those of `keras.layers.SimpleRNN`, `LSTM` and `GRU`, in the same order and layout,
    and so are the numbers (within 1e-5).

    Args:
        cell: "simple-rnn" (Elman 1990), "lstm" (Hochreiter & Schmidhuber 1997, with the forget gate
            of Gers et al. 2000, its bias starting at 1) or "gru" (Cho et al. 2014, resetting after
            the product).
        units: width.
    """

    # Rounding errors add up over hundreds of steps.
    full_precision = True

    def __init__(self, cell: str, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell, self.units = cell, units

    def build(self, input_shape: Any) -> None:
        """Make the kernel `(d, g u)`, the recurrent kernel `(u, g u)` and the bias."""
        gates = CELLS[self.cell].gates
        wide = gates * self.units
        self.kernel = self.add_weight(
            shape=(input_shape[-1], wide), initializer="glorot_uniform", name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, wide), initializer="orthogonal", name="recurrent_kernel"
        )
        # GRU has a bias on each side of its product.
        shape = (2, wide) if self.cell == "gru" else (wide,)
        self.bias = self.add_weight(shape=shape, initializer=self._first_bias, name="bias")

    def _first_bias(self, shape: Any, dtype: Any = None) -> Any:
        bias = ops.zeros(shape, dtype)
        if self.cell != "lstm":
            return bias
        u = self.units
        return ops.concatenate([bias[:u], ops.ones((u,), dtype), bias[2 * u :]])

    def initial_state(self, batch: Any) -> list[Any]:
        """Return zeros `(b, units)`: h, and for an LSTM c."""
        return [ops.zeros((batch, self.units)) for _ in range(CELLS[self.cell].states)]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run from zeros."""
        state = tuple(self.initial_state(ops.shape(inputs)[0]))
        return ops.transpose(self._scan(inputs, state, bool(training))[0], (1, 0, 2))

    def advance(
        self, inputs: Any, state: list[Any], *, count: Any, lengths: Any, training: bool = False
    ) -> tuple[Any, list[Any]]:
        """Run on from a state; return the outputs, and the state after `lengths` steps."""
        outputs = self._scan(inputs, tuple(state), training)
        if lengths is None:
            after = [each[-1] for each in outputs]
        else:
            # A row's state is that of its last step that counts; where none does, the one before.
            last = ops.broadcast_to(
                ops.maximum(lengths - 1, 0)[None, :, None], (1, *ops.shape(state[0]))
            )
            moved = (lengths > 0)[:, None]
            after = [
                ops.where(moved, ops.take_along_axis(each, last, 0)[0], old)
                for each, old in zip(outputs, state, strict=True)
            ]
        return ops.transpose(outputs[0], (1, 0, 2)), after

    def _scan(self, inputs: Any, state: tuple, fast: bool) -> tuple:
        bias, second = (self.bias[0], self.bias[1]) if self.cell == "gru" else (self.bias, None)
        x = ops.matmul(ops.transpose(inputs, (1, 0, 2)), self.kernel) + bias  # (t, b, g u)
        return scan(self.cell, x, state, self.recurrent_kernel, second, fast)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Return `(b, t, units)`."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal layer."""
        return {**super().get_config(), "cell": self.cell, "units": self.units}


class Carried:
    """The state of each lane of a batch, carried from one training step to the next.

    Not part of the model: it belongs to a training run and goes into its checkpoint alone.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self.variables = [
            keras.Variable(value, trainable=False, name=f"carried_{i}")
            for i, value in enumerate(initial_state(model, batch_size)[1:])
        ]


@keras.saving.register_keras_serializable("dlkit")
class RecurrentModel(keras.Model):
    """A functional model of recurrent layers, trained by truncated back-propagation through time.

    After `carry`, a training batch is `((tokens, fresh), targets)`: each row goes on from the state
    that the same row of the batch before ended in, or from zeros where `fresh`, bool `(b,)`, says
    so. The gradient goes back over the batch's own steps (Williams & Peng 1990).
    """

    def carry(self, batch_size: int) -> list[Any]:
        """Carry the state between training batches; return its variables."""
        self._carried = Carried(self, batch_size)
        return self._carried.variables

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Return logits; in training, with a carried state, run on from it."""
        carried = getattr(self, "_carried", None)
        if not training or carried is None:
            return super().call(inputs, training=training, mask=mask)
        state = [v.value for v in carried.variables]
        count = ops.zeros((ops.shape(inputs)[0],), "int32")
        span = SPAN if len(looking_back(self)) > 1 else inputs.shape[1]
        logits = []
        for start in range(0, inputs.shape[1], span):
            part, after = advance(
                self, inputs[:, start : start + span], [count, *state], training=True
            )
            state = after[1:]
            logits.append(part)
        for variable, value in zip(carried.variables, state, strict=True):
            variable.assign(ops.stop_gradient(value))
        return ops.concatenate(logits, 1)

    def train_step(self, data: Any) -> Any:
        """Train on a batch of lanes, or of plain rows."""
        carried = getattr(self, "_carried", None)
        if carried is not None:
            (tokens, fresh), targets = data
            kept = ops.cast(ops.logical_not(fresh), "float32")[:, None]
            for variable in carried.variables:
                variable.assign(variable.value * kept)
            data = tokens, targets
        return super().train_step(data)

    def test_step(self, data: Any) -> Any:
        """Score a batch from zeros, whatever training carries."""
        x, *rest = data
        return super().test_step((x[0] if isinstance(x, tuple) else x, *rest))


def _language_model(
    spec: Spec,
    cells: list[tuple[str, int, float]],
    embedding_dim: int,
    tied: bool,
    dropout: float,
    name: str,
) -> keras.Model:
    tokens = layers.Input((None,), dtype="int32", name="tokens")
    embedding = layers.ReversibleEmbedding(
        spec.outputs,
        embedding_dim,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.05),
        name="embedding",
    )
    x = embedding(tokens)  # (b, t, embedding_dim)
    for i, (cell, units, drop) in enumerate(cells, 1):
        x = layers.Dropout(drop, name=f"drop{i}")(x) if drop else x
        x = Recurrent(cell, units, name=f"{cell}{i}")(x)
    x = layers.Dropout(dropout, name="drop")(x) if dropout else x
    if tied:
        if x.shape[-1] != embedding_dim:
            x = layers.Dense(embedding_dim, name="projection")(x)
        logits = embedding(x, reverse=True)
    else:
        logits = layers.Dense(spec.outputs, name="logits")(x)
    return RecurrentModel(tokens, logits, name=name)


def lstm(
    spec: Spec,
    *,
    depth: int = 2,
    units: int = 256,
    embedding_dim: int | None = None,
    rnn_layers: RnnLayers = (),  # pyright: ignore[reportArgumentType]
    tied: bool = False,
    dropout: float = 0.0,
    bidirectional: bool = False,
) -> keras.Model:
    """LSTM language model: embedding, stacked LSTM layers, logits of the next token.

    Args:
        spec: `outputs` is the vocabulary; the length of the text is free.
        depth: number of recurrent layers.
        units: width of each.
        embedding_dim: width of the token embedding. None: `units`, at most 128.
        rnn_layers: the layers themselves, in place of `depth` and `units`: a list such as
            `[{"cell": "lstm", "units": 256, "dropout": 0.1}, {"cell": "gru", "units": 128}]`.
        tied: use the embedding's matrix for the logits as well (Press & Wolf 2017), after a
            projection where widths differ.
        dropout: fraction of each recurrent layer's input, and of the logits' input, dropped in
            training, in [0, 1).
        bidirectional: refused: a model that generates must not see what comes after.
    Returns:
        A `keras.Model` from tokens int32 `(b, t)` to logits float32 `(b, t, vocabulary)`.
    Raises:
        SpecError: `bidirectional` is asked for.
    Reference:
        Hochreiter & Schmidhuber 1997; Graves 2013, arXiv:1308.0850, section 2. Departs from it: no
        peephole and no skip connections.
    """
    refuse_bidirectional(bidirectional)
    cells = _cells("lstm", depth, units, rnn_layers, dropout)
    return _language_model(spec, cells, embedding_dim or min(units, 128), tied, dropout, "lstm")


def gru(
    spec: Spec,
    *,
    depth: int = 2,
    units: int = 256,
    embedding_dim: int | None = None,
    rnn_layers: RnnLayers = (),  # pyright: ignore[reportArgumentType]
    tied: bool = False,
    dropout: float = 0.0,
    bidirectional: bool = False,
) -> keras.Model:
    """GRU language model: embedding, stacked GRU layers, logits of the next token.

    Args:
        spec, depth, units, embedding_dim, rnn_layers, tied, dropout, bidirectional: as for `lstm`.
    Returns:
        A `keras.Model` from tokens int32 `(b, t)` to logits float32 `(b, t, vocabulary)`.
    Raises:
        SpecError: `bidirectional` is asked for.
    Reference:
        Cho et al. 2014, arXiv:1406.1078. Departs from it: the reset gate works after the recurrent
        product, as in cuDNN and Keras.
    """
    refuse_bidirectional(bidirectional)
    cells = _cells("gru", depth, units, rnn_layers, dropout)
    return _language_model(spec, cells, embedding_dim or min(units, 128), tied, dropout, "gru")


def simple_rnn(
    spec: Spec,
    *,
    depth: int = 2,
    units: int = 256,
    embedding_dim: int | None = None,
    rnn_layers: RnnLayers = (),  # pyright: ignore[reportArgumentType]
    tied: bool = False,
    dropout: float = 0.0,
    bidirectional: bool = False,
) -> keras.Model:
    """Simple recurrent language model: embedding, stacked tanh layers, logits of the next token.

    Args:
        spec, depth, units, embedding_dim, rnn_layers, tied, dropout, bidirectional: as for `lstm`.
    Returns:
        A `keras.Model` from tokens int32 `(b, t)` to logits float32 `(b, t, vocabulary)`.
    Raises:
        SpecError: `bidirectional` is asked for.
    Reference:
        Elman 1990; Mikolov et al. 2010, "Recurrent neural network based language model".
    """
    refuse_bidirectional(bidirectional)
    cells = _cells("simple-rnn", depth, units, rnn_layers, dropout)
    return _language_model(
        spec, cells, embedding_dim or min(units, 128), tied, dropout, "simple-rnn"
    )


def _cells(
    cell: str, depth: int, units: int, rnn_layers: RnnLayers, dropout: float
) -> list[tuple[str, int, float]]:
    """Return kind, width and input dropout of each layer."""
    if not rnn_layers:
        return [(cell, units, dropout)] * depth
    return [
        (each.get("cell", cell), each["units"], each.get("dropout", dropout)) for each in rnn_layers
    ]
