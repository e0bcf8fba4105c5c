"""Spectral normalisation as its paper has it: layers that apply their kernel over its largest
singular value.

Reference:
    Miyato et al. 2018, "Spectral normalization for generative adversarial networks",
    arXiv:1802.05957, section 2.1 and algorithm 1. The kernel `(kh, kw, in, out)` of a convolution
    is the matrix `(kh * kw * in, out)`. One step of power iteration each training call; its vector
    is kept, the gradient goes through sigma with the vectors held, and no call alters the kernel.
    All this is in float32; where a layer computes in less, the normalised kernel is cast.
    (Keras's own wrapper divides the stored kernel at each call and stops sigma's gradient.)
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

EPSILON = 1e-12


class SpectralMixin:
    """Keeps the left vector of the power iteration, and gives the normalised kernel."""

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Add a variable that is float32 also where the layer computes in less."""
        return super().add_weight(*args, **kwargs | {"autocast": False})  # type: ignore[misc]

    def make_vector(self, width: int) -> None:
        """Add the vector `(1, width)`, of the kernel's outputs."""
        self.vector: Any = self.add_weight(  # type: ignore[attr-defined]
            shape=(1, width), initializer="random_normal", trainable=False, name="vector"
        )

    def normalised(self, kernel: Any, training: bool) -> Any:
        """Return `kernel / sigma(kernel)`; in training the vector takes a step first."""
        matrix = ops.reshape(kernel, (-1, kernel.shape[-1]))  # (m, n)
        held, u = ops.stop_gradient(matrix), ops.convert_to_tensor(self.vector)
        v = unit(ops.matmul(u, ops.transpose(held)))  # (1, m)
        if training:
            u = unit(ops.matmul(v, held))  # (1, n)
            self.vector.assign(u)
        else:
            u = unit(u)
        u, v = ops.stop_gradient(u), ops.stop_gradient(v)
        sigma = ops.sum(ops.matmul(v, matrix) * u)
        return ops.cast(kernel / sigma, self.compute_dtype)  # type: ignore[attr-defined]

    def save_own_variables(self, store: Any) -> None:
        """Save all variables: those of Conv2D and Dense save kernel and bias alone."""
        layers.Layer.save_own_variables(self, store)  # type: ignore[arg-type]

    def load_own_variables(self, store: Any) -> None:
        """Load all variables."""
        layers.Layer.load_own_variables(self, store)  # type: ignore[arg-type]


def unit(x: Any) -> Any:
    """Return a vector `(1, n)` of length 1 in the direction of `x`."""
    return x / (ops.sqrt(ops.sum(ops.square(x))) + EPSILON)


@keras.saving.register_keras_serializable("dlkit")
class SpectralConv2D(SpectralMixin, layers.Conv2D):
    """A convolution whose kernel, as a matrix, has spectral norm 1."""

    def build(self, input_shape: Any) -> None:
        """Make kernel, bias and vector."""
        super().build(input_shape)
        self.make_vector(self.filters)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Convolve `(b, h, w, c)`."""
        y = self.convolution_op(inputs, self.normalised(self.kernel, training))
        return y + ops.cast(self.bias, y.dtype) if self.use_bias else y


@keras.saving.register_keras_serializable("dlkit")
class SpectralDense(SpectralMixin, layers.Dense):
    """A dense layer whose kernel has spectral norm 1."""

    def build(self, input_shape: Any) -> None:
        """Make kernel, bias and vector."""
        super().build(input_shape)
        self.make_vector(self.units)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Map `(b, n)` to `(b, units)`."""
        y = ops.matmul(inputs, self.normalised(self.kernel, training))
        return y + ops.cast(self.bias, y.dtype) if self.use_bias else y


@keras.saving.register_keras_serializable("dlkit")
class SpectralEmbedding(SpectralMixin, layers.Embedding):
    """An embedding whose table has spectral norm 1."""

    def build(self, input_shape: Any = None) -> None:
        """Make table and vector."""
        super().build(input_shape)
        self.make_vector(self.output_dim)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Look up `(b,)` int32."""
        table = self.normalised(self.embeddings, training)
        return ops.take(table, ops.cast(inputs, "int32"), axis=0)

    def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:
        """Return the shape of what is looked up; Keras's own takes no `training`."""
        return super().compute_output_spec(inputs)
