"""USAD: two autoencoders that share an encoder, one trained to deceive the other.

Its training step has two losses with gradients of their own, and so is TensorFlow's.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf
from keras import layers, ops

from dlkit.data.spec import DetectorSpec
from dlkit.errors import SpecError
from dlkit.models.autoencoder import dense_stack

# n of the paper's equations counts epochs; here so many steps make one, whatever the data's size.
STEPS = 100


@keras.saving.register_keras_serializable("dlkit")
class Bounded(layers.Layer):
    """Squash values smoothly into (-bound, bound); near 0 they stay as they are.

    Args:
        bound: above 0.
    """

    def __init__(self, bound: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bound = bound

    def call(self, x: Any) -> Any:
        """Squash `(b, ...)`."""
        return self.bound * ops.tanh(x / self.bound)

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {"bound": self.bound}


@keras.saving.register_keras_serializable("dlkit")
class First(layers.Layer):
    """Give the first of several tensors; the others stay in the model, for those who look there."""

    def call(self, tensors: Any) -> Any:
        """Return the first."""
        return tensors[0]


@keras.saving.register_keras_serializable("dlkit")
class Usad(keras.Model):
    """The model with its training step; made by `usad`."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Lower both autoencoders' losses, equations 8 and 9 of the paper, each by its own weights."""
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        parts: dict[str, list[Any]] = {"encoder": [], "first": [], "second": []}
        for layer in self.layers:
            part = layer.name.split("_")[0]
            parts[part if part in parts else "encoder"] += layer.trainable_weights
        own = keras.Model(
            self.input, [self.get_layer(n).output for n in ("first", "second", "again")]
        )
        share = 1.0 / (1.0 + tf.cast(self.optimizer.iterations // STEPS, tf.float32))
        with tf.GradientTape(persistent=True) as tape:
            error, other, deceived = (tf.reduce_mean((x - y) ** 2) for y in own(x, training=True))
            first = share * error + (1.0 - share) * deceived
            second = share * other - (1.0 - share) * deceived
            both = first + second
        pairs = [
            (gradient, weight)
            for part, loss in (("encoder", both), ("first", first), ("second", second))
            for gradient, weight in zip(tape.gradient(loss, parts[part]), parts[part], strict=True)
        ]
        self.optimizer.apply_gradients(pairs)
        for metric in self.metrics:
            metric.update_state(error, sample_weight=tf.shape(x)[0])
        return self.get_metrics_result()


def usad(
    spec: DetectorSpec,
    *,
    encoder: list[int] = (128, 64),  # type: ignore[assignment]
    activation: Literal["relu", "gelu", "silu", "tanh"] = "silu",
    bound: float = 8.0,
) -> keras.Model:
    """USAD: an autoencoder, and a second one trained to tell the first one's output from data.

    Args:
        spec: see `DetectorSpec`; any kind; windows and images are read as one long row.
        encoder: widths of the layers down to the code, which is the last; both decoders mirror them.
        activation: nonlinearity of the hidden layers.
        bound: reconstructions lie within it, in prepared units: the second autoencoder is rewarded
            for a large error, which must have an end.
    Returns:
        A `Usad` from prepared float32 `(b, *input_shape)` to the first autoencoder's reconstruction.
        Its layer `again` gives the second one's of that, by which it scores too.
    Raises:
        SpecError: an empty list.
    Reference:
        Audibert et al. 2020, KDD, doi:10.1145/3394486.3403392, section 3. Departs from it: both
        losses are lowered in one step; outputs bounded by a tanh, not a sigmoid; the shares of the
        losses change every 100 steps, not every epoch.
    """
    if not encoder:
        raise SpecError("-p encoder: got an empty list; accepted: widths such as [64,32,8]")
    widths = list(encoder)
    inputs = keras.Input(spec.input_shape, name="example")
    x = layers.Flatten(name="flat")(inputs)  # (b, n)
    flat = keras.Input((spec.outputs,), name="row")
    hidden = dense_stack(flat, widths[:-1], activation, "encoder_hidden")
    encode = keras.Model(
        flat, layers.Dense(widths[-1], name="encoder_code")(hidden), name="encoder"
    )

    def decoder(name: str) -> keras.Model:
        code = keras.Input((widths[-1],))
        # Names of their own: a checkpoint tells variables, and the optimiser's, by them.
        y = dense_stack(code, widths[-2::-1], activation, f"{name}_hidden")
        y = Bounded(bound)(layers.Dense(spec.outputs, name=f"{name}_output")(y))
        return keras.Model(code, y, name=name)

    first, second = decoder("first_decoder"), decoder("second_decoder")
    code = layers.Identity(name="latent")(encode(x))  # (b, d)
    answer = first(code)

    def shaped(y: Any, name: str) -> Any:
        return layers.Reshape(spec.input_shape, name=name)(y)

    answers = [
        shaped(answer, "first"),
        shaped(second(code), "second"),
        shaped(second(encode(answer)), "again"),
    ]
    return Usad(inputs, First(name="reconstruction")(answers), name="usad")
