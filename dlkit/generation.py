"""Generation: prefill the prompt once, then a step a token, in one graph.

A token is drawn by inverting the cumulative distribution at a number that is a hash of the seed and
of the token's place: the same seed gives the same text token by token, in one graph and on a server,
alone or in a batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from dlkit.models.attention import LearnedPositions
from dlkit.models.causal import State, advance, initial_state

# Prompts are padded to one of these lengths or the context's, so that few graphs are made.
PADDED = (16, 64, 256, 1024)
COLDEST = 1e-3


class Sampling(NamedTuple):
    """How the next token is drawn; each a tensor `(b,)`.

    Attributes:
        temperature: float32: the logits are divided by it, or by 0.001 where it is not above that.
        top_k: int32: only so many of the likeliest tokens; 0 for all, 1 for the likeliest alone.
        top_p: float32, in (0, 1]: the fewest likeliest tokens that reach this share together
            (Holtzman et al. 2020, arXiv:1904.09751).
        min_p: float32, in [0, 1): tokens with at least this share of the likeliest one's.
    """

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any


def uniform(seed: Any, place: Any) -> tf.Tensor:
    """Return a number in [0, 1) for each row, float32 `(b,)`: a hash, the same everywhere.

    Args:
        seed: int32 `(b,)`.
        place: int32 `(b,)`, the number of the token.
    Reference:
        Steele et al. 2014, "Fast splittable pseudorandom number generators": the mixer of
        SplitMix64.
    """
    golden = tf.constant(0x9E3779B97F4A7C15, tf.uint64)

    def mixed(z: Any) -> Any:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(shift, tf.uint64)))
            z *= tf.constant(factor, tf.uint64)
        return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(31, tf.uint64)))

    z = mixed(tf.cast(tf.cast(seed, tf.int64), tf.uint64) * golden + golden)
    z = mixed(z + tf.cast(tf.cast(place, tf.int64), tf.uint64) * golden)
    top = tf.bitwise.right_shift(z, tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(top, tf.int64), tf.float32) * 2.0**-24


def choose(logits: Any, seed: Any, place: Any, sampling: Sampling) -> tf.Tensor:
    """Draw the next token of each row, int32 `(b,)`.

    Args:
        logits: float32 `(b, vocabulary)`.
        seed, place: see `uniform`.
        sampling: what may be drawn, and how likely.
    """
    # What is not above 0 (a server cannot ask) comes to the likeliest token.
    temperature = tf.where(sampling.temperature > COLDEST, sampling.temperature, COLDEST)
    scaled = logits / temperature[:, None]
    order = tf.argsort(scaled, axis=-1, direction="DESCENDING", stable=True)
    shares = tf.nn.softmax(tf.gather(scaled, order, batch_dims=1))  # (b, v), falling
    rank = tf.range(tf.shape(logits)[1])[None]
    top_k = tf.where(sampling.top_k > 0, sampling.top_k, tf.shape(logits)[1])[:, None]
    kept = tf.logical_and(
        tf.logical_and(rank < top_k, shares >= sampling.min_p[:, None] * shares[:, :1]),
        # Rounding must not take away the last of all.
        tf.logical_or(
            tf.cumsum(shares, axis=1, exclusive=True) < sampling.top_p[:, None],
            sampling.top_p[:, None] >= 1.0,
        ),
    )
    kept = tf.logical_or(kept, rank == 0)
    reached = tf.cumsum(tf.where(kept, shares, 0.0), axis=1)
    mark = uniform(seed, place)[:, None] * reached[:, -1:]
    at = tf.reduce_sum(tf.cast(reached <= mark, tf.int32), axis=1)
    # At the very end rounding could step past the last one kept.
    at = tf.minimum(at, tf.reduce_sum(tf.cast(kept, tf.int32), axis=1) - 1)
    return tf.cast(tf.gather(order, at, batch_dims=1), tf.int32)


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
    count = tf.reduce_max(max_tokens)
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
