"""Why a classifier answers as it does: Grad-CAM and integrated gradients of a Keras model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.errors import OptionError, SpecError, nearest, one_of

# Nats; a change of the logit smaller than this is not divided by.
SMALLEST_CHANGE = 0.1
# Nats at one place; where no place has so much, the answer does not depend on the image.
SMALLEST_EVIDENCE = 1e-6
FIRST_STEPS, MOST_STEPS = 32, 4096
BATCH = 64


@dataclass(frozen=True)
class Explanation:
    """Where in an image the evidence for a class lies.

    Attributes:
        heat: float32 `(h, w)` in pixels of the model's input. Grad-CAM: at least 0. Integrated
            gradients: signed, in nats of the logit, summed over the channels. 0 all over where no
            place has 1e-6 of it: that is rounding.
        peak: row and column of the strongest evidence; None where no value is above 0.
        layer: the feature map's layer, for Grad-CAM.
        steps: intervals of the path, for integrated gradients.
        completeness_error: see `integrated_gradients`.
    """

    heat: np.ndarray
    peak: tuple[int, int] | None
    layer: str | None = None
    steps: int | None = None
    completeness_error: float | None = None


Explainer = Callable[[np.ndarray, int], Explanation]


def grad_cam(model: keras.Model, layer: str | None = None) -> Explainer:
    """Return Grad-CAM of a model: class evidence on its last convolutional feature map.

    The map's channels are summed with the mean gradient of the class's logit as weights; what is
    below 0 becomes 0, and the rest is enlarged to the image bilinearly.

    Args:
        model: functional or sequential, from float32 `(b, h, w, c)` to logits.
        layer: name of the layer whose output is taken; see `feature_maps` for None.
    Returns:
        A function of one preprocessed image `(h, w, c)` and a class number.
    Raises:
        SpecError: the model has no such feature map.
        OptionError: `layer` is none of them.
    Reference:
        Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
    """
    maps = feature_maps(model)
    if not maps:
        raise SpecError(
            f"--method grad-cam: {model.name} has no convolutional feature map that leads to its "
            "logits through pooling, flattening and dense layers alone; accepted: "
            "integrated-gradients"
        )
    if layer is not None and layer not in maps:
        raise OptionError(
            f"--layer: {model.name} has no feature map '{layer}'{nearest(layer, maps)}; "
            f"accepted: {one_of(maps)}"
        )
    chosen = layer or next(iter(maps))
    inner = keras.Model(model.inputs, [maps[chosen], model.outputs[0]])

    @tf.function(reduce_retracing=True)
    def heat(x: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)  # frozen layers alone would leave no trace
            features, logits = inner(x, training=False)
            score = logits[0, target]
        weights = tf.reduce_mean(tape.gradient(score, features), (1, 2), keepdims=True)
        cam = tf.nn.relu(tf.reduce_sum(weights * features, -1, keepdims=True))
        return tf.image.resize(tf.cast(cam, tf.float32), tf.shape(x)[1:3])[0, ..., 0]

    def explain(image: np.ndarray, target: int) -> Explanation:
        found = heat(tf.constant(image[None]), tf.constant(target)).numpy()
        found = _seen(found)
        return Explanation(found, _peak(found), chosen)

    return explain


def integrated_gradients(
    model: keras.Model, *, tolerance: float = 1e-2, most_steps: int = MOST_STEPS
) -> Explainer:
    """Return integrated gradients of a model: the class's logit, shared out over the pixels.

    The path is straight from the baseline, an image of zeros after preprocessing, to the image.
    That is the training split's mean colour where preprocessing standardises, and black where the
    model takes raw pixels. The integral is taken by the trapezoidal rule, with 32 intervals and then
    twice as many until the completeness error is below `tolerance`. That error is
    |sum of attributions - (f(image) - f(baseline))| over |f(image) - f(baseline)|, or over 0.1 nats
    where the logit f changes by less.

    Args:
        model: from float32 `(b, h, w, c)` to logits.
        tolerance: completeness error to reach.
        most_steps: number of intervals at which to stop without having reached it.
    Returns:
        A function of one preprocessed image `(h, w, c)` and a class number.
    Reference:
        Sundararajan, Taly & Yan 2017, arXiv:1703.01365, equation 1 and section 5. Departs from it:
        the logit for the probability, so that the softmax's flat ends hide nothing.
    """

    @tf.function(reduce_retracing=True)
    def slopes(points: tf.Tensor, target: tf.Tensor) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(points)
            score = tf.gather(tf.cast(model(points, training=False), tf.float32), target, axis=1)
        return tape.gradient(score, points), score

    def along(image: np.ndarray, shares: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of the gradients at shares of the way, and the logit at each."""
        total, scores = np.zeros(image.shape), []
        for start in range(0, len(shares), BATCH):
            part = shares[start : start + BATCH, None, None, None].astype(np.float32)
            gradients, score = slopes(tf.constant(part * image), tf.constant(target))
            total += gradients.numpy().sum(0, dtype=np.float64)
            scores.append(score.numpy())
        return total, np.concatenate(scores)

    def explain(image: np.ndarray, target: int) -> Explanation:
        ends, scores = along(image, np.array([0.0, 1.0]), target)
        change = float(scores[1]) - float(scores[0])
        inner, _ = along(image, np.arange(1, FIRST_STEPS) / FIRST_STEPS, target)
        steps = FIRST_STEPS
        while True:
            attributions = image * (ends / 2 + inner) / steps  # (h, w, c)
            error = abs(attributions.sum() - change) / max(abs(change), SMALLEST_CHANGE)
            if error < tolerance or 2 * steps > most_steps:
                break
            # Half way between the points there are.
            more, _ = along(image, (np.arange(steps) + 0.5) / steps, target)
            inner, steps = inner + more, 2 * steps
        heat = _seen(attributions.sum(-1).astype(np.float32))
        return Explanation(heat, _peak(heat), None, steps, error)

    return explain


def feature_maps(model: keras.Model) -> dict[str, Any]:
    """Return the convolutional feature maps of a model by layer name, the last one first.

    The graph is walked back from the logits. The first map met, a tensor `(b, h, w, c)` of at least
    2 x 2 positions, is taken if the way back from it to a layer with a convolution's kernel (rank 4)
    meets maps alone, and no attention. Pooling and dropout at its end are left out: the finer map
    before them says more. A way that meets any other rank than that of vectors `(b, n)` or maps, or
    an attention layer, ends there: so a transformer's patch embedding does not count, since only
    tokens `(b, n, d)` lead from it to the logits. Where several maps are met first (auxiliary heads),
    the one with the most layers before it comes first.

    Returns:
        Keras tensors `(b, h, w, c)`; none if the model is not functional or has no such map.
    """
    if not hasattr(model, "operations") or not getattr(model, "outputs", None):
        return {}
    last: dict[int, Any] = {}
    todo, seen = [model.outputs[0]], set()
    while todo:
        tensor = todo.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, inputs = _made_by(tensor)
        if _is_map(tensor):
            while _is_pooling(operation) and _is_map(inputs[0]):
                tensor = inputs[0]
                operation, inputs = _made_by(tensor)
            if _is_convolved(tensor):
                last[id(tensor)] = tensor
        elif len(tensor.shape) in (2, 4) and not _is_attention(operation):
            todo += inputs
    before = {key: list(_ancestors(tensor)) for key, tensor in last.items()}
    found: dict[str, Any] = {}
    for key in sorted(before, key=lambda key: -len(before[key])):
        for tensor in before[key]:
            operation, inputs = _made_by(tensor)
            if inputs and _is_map(tensor) and _is_convolved(tensor):
                found.setdefault(operation.name, tensor)
    return found


def _made_by(tensor: Any) -> tuple[Any, list[Any]]:
    """Return the layer (or other operation) that made a Keras tensor, and what it made it from."""
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    return history.operation, list(node.input_tensors)


def _ancestors(tensor: Any) -> Iterator[Any]:
    """Give a tensor and all that it is made from, nearest first."""
    seen, row = set(), [tensor]
    while row:
        following = []
        for each in row:
            if id(each) not in seen:
                seen.add(id(each))
                yield each
                following += _made_by(each)[1]
        row = following


def _is_map(tensor: Any) -> bool:
    return len(tensor.shape) == 4 and min(n or 0 for n in tensor.shape[1:3]) >= 2


def _is_pooling(operation: Any) -> bool:
    return type(operation).__name__.endswith(("Pooling2D", "Dropout", "Dropout2D"))


def _is_attention(operation: Any) -> bool:
    return "attention" in type(operation).__name__.lower()


def _is_convolution(operation: Any) -> bool:
    return any(len(weight.shape) == 4 for weight in getattr(operation, "weights", ()))


def _is_convolved(tensor: Any) -> bool:
    """Whether every way back meets a convolution first or ends, and one at least meets one."""
    met, todo, seen = False, [tensor], set()
    while todo:
        operation, inputs = _made_by(todo.pop())
        if _is_attention(operation):
            return False
        if _is_convolution(operation):
            met = True
            continue
        todo += [t for t in inputs if len(t.shape) == 4 and id(t) not in seen]
        seen |= {id(t) for t in inputs}
    return met


def _seen(heat: np.ndarray) -> np.ndarray:
    """Return a map, or zeros for one that is rounding alone."""
    return heat if np.abs(heat).max() >= SMALLEST_EVIDENCE else np.zeros_like(heat)


def _peak(heat: np.ndarray) -> tuple[int, int] | None:
    if not heat.max() > 0:
        return None
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(row), int(column)
