"""What a language model says of a text: the log-probability of each token."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.data.windows import evaluation_windows, random_windows
from dlkit.models.attention import CausalSelfAttention

# A model that sees any number of tokens is run over pieces of this length, of which the first
# quarter only fills its state.
PIECE = 2048
# Tokens a batch.
BATCH_TOKENS = 16_384
# A window moves on by this share of the context: each token sees at least seven eighths of it.
STRIDE = 1 / 8


def token_scores(
    model: keras.Model, tokens: np.ndarray, context: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Score every token of a text but its first, once, by a sliding window.

    Args:
        model: from tokens int32 `(b, t)` to logits.
        tokens: `(n,)`.
        context: most tokens that the model sees; None for any number.
    Returns:
        The log-probability of each, float32 `(n - 1,)`, and whether it was the likeliest, bool.
    """
    length = context or PIECE
    stride = max(1, round(length * STRIDE)) if context else PIECE * 3 // 4
    batch = max(1, BATCH_TOKENS // length)

    @tf.function(reduce_retracing=True)
    def score(x: Any, y: Any) -> tuple[Any, Any]:
        logits = tf.cast(model(x, training=False), tf.float32)
        right = tf.argmax(logits, -1, tf.int32) == y
        return tf.gather(tf.nn.log_softmax(logits), y, batch_dims=2), right

    found: list[np.ndarray] = []
    hits: list[np.ndarray] = []
    for x, y, weight in evaluation_windows(tokens, length, batch, stride):
        values, right = score(x, y)
        counted = weight.numpy() > 0
        found.append(values.numpy()[counted])
        hits.append(right.numpy()[counted])
    return np.concatenate(found), np.concatenate(hits)


def random_window_losses(
    model: keras.Model, tokens: np.ndarray, context: int, count: int = 1000, seed: int = 0
) -> np.ndarray:
    """Return the mean loss at each place of random windows, nats per token, float64 `(context,)`.

    Their mean is what nanoGPT measures: all places count, those at a window's start with little
    context too. nanoGPT takes 20 to 200 batches of its training's size; here it is `count` windows.
    """
    x, y = random_windows(tokens, context, count, seed)
    batch = max(1, BATCH_TOKENS // context)

    @tf.function(reduce_retracing=True)
    def losses(x: Any, y: Any) -> Any:
        logits = tf.cast(model(x, training=False), tf.float32)
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits), 0)

    total = np.zeros(context)
    for i in range(0, count, batch):
        total += losses(tf.constant(x[i : i + batch]), tf.constant(y[i : i + batch])).numpy()
    return total / count


def attention_maps(model: keras.Model, tokens: np.ndarray) -> np.ndarray | None:
    """Return what each head looks at over a text, float32 `(depth, heads, t, t)`.

    None where there is no attention, or the blocks' heads differ.
    """
    found = [layer for layer in model.layers if isinstance(layer, CausalSelfAttention)]
    if len({layer.heads for layer in found}) != 1:
        return None
    inner = keras.Model(model.input, [layer.input for layer in found])
    inputs = inner(tokens[None].astype(np.int32), training=False)
    inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    maps = [layer.attention(x) for layer, x in zip(found, inputs, strict=True)]
    return np.stack([np.array(each)[0] for each in maps])
