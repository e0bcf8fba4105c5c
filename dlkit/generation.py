"""Generation: prefill the prompt once, then a step a token, in one graph."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from dlkit.drawing import Sampling, choose
from dlkit.models.attention import LearnedPositions
from dlkit.models.causal import State, advance, initial_state

# Prompts are padded to one of these lengths or the context's, so that few graphs are made.
PADDED = (16, 64, 256, 1024)


def context_limit(model: keras.Model) -> int | None:
    """Return after how many tokens a model's cache must be made anew; None for never.

    Learned positions end. Rotary ones slide, and a recurrent state holds any number of tokens.
    """
    found = [layer.length for layer in model.layers if isinstance(layer, LearnedPositions)]
    return found[0] if found else None


def prefill(model: keras.Model, tokens: Any, lengths: Any) -> tuple[tf.Tensor, State]:
    """Run a model over prompts.

    Args:
        model: a causal model.
        tokens: int32 `(b, t)`, t at most the context; each row from its start.
        lengths: int32 `(b,)`, at least 1: how many count.
    Returns:
        The logits after each row's last token, float32 `(b, vocabulary)`, and the state.
    """
    logits, state = advance(model, tokens, initial_state(model, tf.shape(tokens)[0]), lengths)
    return tf.gather(logits, lengths - 1, batch_dims=1), state


def step(model: keras.Model, token: Any, state: State) -> tuple[tf.Tensor, State]:
    """Run a model on by one token a row, int32 `(b,)`; return logits `(b, vocabulary)` and state."""
    logits, state = advance(model, token[:, None], state)
    return logits[:, 0], state


def generate(
    model: keras.Model,
    tokens: Any,
    lengths: Any,
    max_tokens: Any,
    seed: Any,
    sampling: Sampling,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Go on with prompts. To be called within a TensorFlow function.

    Where positions are learned and the context is full, the row goes on from the last half of it.

    Args:
        model: a causal model.
        tokens: int32 `(b, t)`, t at most the context.
        lengths: int32 `(b,)`, at least 1: how many of each row count.
        max_tokens: int32 `(b,)`: how many to draw.
        seed: int32 `(b,)`.
        sampling: see `Sampling`.
    Returns:
        Tokens int32 `(b, n)`, -1 behind a row's own number, and the sum of the log-probabilities
        that the model itself (at temperature 1, nothing cut off) gives them, float32 `(b,)`.
    """
    limit = context_limit(model)
    batch, prompt = tf.shape(tokens)[0], tf.shape(tokens)[1]
    # One at least: a list of none cannot be stacked.
    count = tf.maximum(tf.reduce_max(max_tokens), 1)
    logits, state = prefill(model, tokens, lengths)
    # All tokens of a row, its own from the start: what a full context is made anew from.
    history = tf.concat([tokens, tf.zeros((batch, count), tf.int32)], 1)
    columns = tf.range(prompt + count)[None]
    drawn = tf.TensorArray(tf.int32, count, element_shape=(None,))

    def body(i: Any, logits: Any, history: Any, total: Any, drawn: Any, *state: Any) -> tuple:
        going = i < max_tokens
        token = choose(logits, seed, tf.fill((batch,), i), sampling)
        own = tf.gather(tf.nn.log_softmax(logits), token, batch_dims=1)
        total += tf.where(going, own, 0.0)
        drawn = drawn.write(i, tf.where(going, token, -1))
        length = lengths + i
        history = tf.where(columns == length[:, None], token[:, None], history)
        after, following = step(model, token, list(state))
        if limit is not None:
            after, following = made_anew(after, following, state[0], history, length + 1)
        return i + 1, after, history, total, drawn, *following

    def made_anew(logits: Any, state: State, seen: Any, history: Any, length: Any) -> tuple:
        """Replace the rows that were full before their last token."""
        assert limit is not None
        full, half = seen >= limit, max(1, limit // 2)

        def anew() -> tuple:
            at = length[:, None] - half + tf.range(half)[None]
            last = tf.gather(history, tf.maximum(at, 0), batch_dims=1)
            fresh, following = prefill(model, last, tf.fill((batch,), half))
            pairs = zip([fresh, *following], [logits, *state], strict=True)
            return tuple(
                tf.where(tf.reshape(full, [-1] + [1] * (a.shape.rank - 1)), a, b) for a, b in pairs
            )

        found = tf.cond(tf.reduce_any(full), anew, lambda: (logits, *state))
        return found[0], list(found[1:])

    zero, unknown = tf.zeros((batch,)), tf.TensorShape(None)  # pyright: ignore[reportArgumentType]
    shapes = [tf.TensorShape([None, *s.shape[1:]]) for s in state]
    found = tf.while_loop(
        lambda i, *_: i < count,
        body,
        (0, logits, history, zero, drawn, *state),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None, logits.shape[1]]),
            tf.TensorShape([None, None]),
            tf.TensorShape([None]),
            unknown,
            *shapes,
        ),
    )
    return tf.transpose(found[4].stack()), found[3]
