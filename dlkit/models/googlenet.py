"""GoogLeNet: the first Inception network."""

from typing import Any

import keras
from keras import layers, ops

from dlkit.data.spec import Spec
from dlkit.layers import BatchNormalization

# Szegedy et al. 2014, table 1: filters of 1 x 1; 3 x 3 reduce, 3 x 3; 5 x 5 reduce, 5 x 5; of the
# projection after pooling.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOLED_AFTER = ("3b", "4e")
AUXILIARY_AFTER = ("4a", "4d")
# Section 5: the share at which the loss of an auxiliary head is added.
AUXILIARY_WEIGHT = 0.3
# Images with a longer side under this get the slim stem and widths.
SMALL = 96


@keras.saving.register_keras_serializable("dlkit")
class AuxiliaryLogits(layers.Layer):
    """Passes the first of its inputs on; in training it keeps the others for the loss.

    Inputs are the logits and those of the auxiliary heads, each `(b, classes)`.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the logits `(b, classes)`."""
        self._kept = list(inputs[1:]) if training else []
        return inputs[0]

    def take(self) -> list[Any]:
        """Return, once, the auxiliary logits of the last call in training."""
        kept, self._kept = getattr(self, "_kept", []), []
        return kept


@keras.saving.register_keras_serializable("dlkit")
class AuxiliaryModel(keras.Model):
    """A functional model whose training loss has a share of each auxiliary head's.

    Its output is the logits alone. The training loss, and only that, includes the heads'.
    """

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of the logits, in training with 0.3 times that of each head."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        for logits in self.get_layer("auxiliary").take() if training else []:
            head = super().compute_loss(x, y, logits, sample_weight, training)
            loss = loss + AUXILIARY_WEIGHT * head
        return loss


def googlenet(
    spec: Spec,
    *,
    width: float | None = None,
    batch_norm: bool = True,
    auxiliary: bool = False,
    dropout: float | None = None,
) -> keras.Model:
    """GoogLeNet (Inception v1): nine modules of parallel 1 x 1, 3 x 3, 5 x 5 and pooled paths.

    Args:
        spec: `input_shape` is `(height, width, channels)`, any size. From 96 pixels on the paper's
            stem reduces both sides eightfold; below, a 3 x 3 convolution, pooling and another 3 x 3
            convolution reduce them twofold.
        width: factor on every number of filters. None: 1, but 0.25 where both sides are under 96
            pixels, rounded to multiples of 16 there.
        batch_norm: normalise after each convolution, which then has no bias.
        auxiliary: train with two more heads, after modules 4a and 4d, whose losses count 0.3 each.
            They are part of the model, and of no answer.
        dropout: fraction of the pooled features dropped in training, in [0, 1). None: the paper's
            0.4, but 0.2 where both sides are under 96 pixels.
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
        At 224 x 224 x 3 and 1000 classes, without batch norm: 6,998,552 parameters (the paper's
        6.8 M), 13,378,280 with the auxiliary heads.
    Reference:
        Szegedy et al. 2014, arXiv:1409.4842, table 1, figure 3 and section 5. Departs from it:
        batch norm unless told otherwise, no local response normalisation, slim for small images.
    """
    small = max(spec.input_shape[:2]) < SMALL
    factor = width or (0.25 if small else 1.0)
    dropout = (0.2 if small else 0.4) if dropout is None else dropout

    def wide(filters: int) -> int:
        # Products are fast where widths fill the processor's registers.
        unit = 16 if small else 1
        return max(unit, round(filters * factor / unit) * unit)

    def conv(
        x: keras.KerasTensor, filters: int, size: int, name: str, stride: int = 1
    ) -> keras.KerasTensor:
        return layers.Conv2D(
            filters,
            size,
            stride,
            "same",
            use_bias=not batch_norm,
            kernel_initializer="he_normal",
            name=f"{name}_conv",
        )(x)

    def rectify(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        if batch_norm:
            x = BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    def convolved(
        x: keras.KerasTensor, filters: int, size: int, name: str, stride: int = 1
    ) -> keras.KerasTensor:
        return rectify(conv(x, wide(filters), size, name, stride), name)

    def halve(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.MaxPooling2D(3, 2, "same", name=name)(x) if max(x.shape[1:3]) > 1 else x

    def module(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        # The three 1 x 1 convolutions of the input are one, and what is joined is normalised and
        # rectified once: the same function in half as many passes.
        one, reduce3, three, reduce5, five, projection = map(wide, MODULES[name])
        joined = conv(x, one + reduce3 + reduce5, 1, f"{name}_1x1")
        first, reduced = ops.split(joined, [one], axis=-1)
        reduced = rectify(reduced, f"{name}_reduced")
        for3, for5 = ops.split(reduced, [reduce3], axis=-1)
        pooled = layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
        paths = [
            first,
            conv(for3, three, 3, f"{name}_3x3"),
            conv(for5, five, 5, f"{name}_5x5"),
            conv(pooled, projection, 1, f"{name}_projection"),
        ]
        return rectify(layers.Concatenate(name=f"{name}_concat")(paths), name)

    def head(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        if min(x.shape[1:3]) >= 5:
            x = layers.AveragePooling2D(5, 3, name=f"{name}_pool")(x)
        x = layers.Flatten(name=f"{name}_flatten")(convolved(x, 128, 1, name))
        x = layers.Dense(round(1024 * factor), "relu", name=f"{name}_fc")(x)
        x = layers.Dropout(0.7, name=f"{name}_dropout")(x)
        return layers.Dense(spec.outputs, name=f"{name}_logits")(x)

    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    if small:
        x = halve(convolved(inputs, 64, 3, "stem1"), "stem1_pool")
        x = convolved(x, 192, 3, "stem2")
    else:
        x = halve(convolved(inputs, 64, 7, "stem1", stride=2), "stem1_pool")
        x = convolved(x, 64, 1, "stem2_reduce")
        x = halve(convolved(x, 192, 3, "stem2"), "stem2_pool")
    heads = []
    for name in MODULES:
        x = module(x, name)
        if auxiliary and name in AUXILIARY_AFTER:
            heads.append(head(x, f"auxiliary_{name}"))
        if name in POOLED_AFTER:
            x = halve(x, f"{name}_halve")
    x = layers.GlobalAveragePooling2D(name="pool")(x)  # (b, 1024 * width)
    x = layers.Dropout(dropout, name="dropout")(x)
    logits = layers.Dense(spec.outputs, name="logits")(x)
    if not auxiliary:
        return keras.Model(inputs, logits, name="googlenet")
    logits = AuxiliaryLogits(name="auxiliary")([logits, *heads])
    return AuxiliaryModel(inputs, logits, name="googlenet")
