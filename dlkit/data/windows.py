"""Windows of a text: what a language model trains on and is scored on.

Both training streams are pure functions of the seed and the position, as `dlkit.data.stream` is, so
that a resumed run sees what the uninterrupted one would have seen. A window is `context_length`
tokens `x` and, as `y`, the token after each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkit.errors import DataError, counted

if TYPE_CHECKING:
    import tensorflow as tf

# Tokens gathered at once: each batch alone would cost more to ask for than to gather.
GATHERED = 1 << 18
# Most batches gathered at once: the first of them waits for the last.
BATCHES = 256


def window_stream(
    tokens: np.ndarray,
    *,
    context_length: int,
    batch_size: int,
    steps_per_epoch: int,
    seed: int,
    epoch: int = 0,
    step: int = 0,
) -> tf.data.Dataset:
    """Stream windows drawn anywhere in the text, with replacement, for ever, from a position.

    Args:
        tokens: whole numbers `(n,)`, n above `context_length`.
        context_length: tokens a window.
        batch_size: windows a batch.
        steps_per_epoch: batches an epoch; each epoch draws from a generator of its own.
        seed: the run's seed.
        epoch: epoch to start in, from 0.
        step: batch of that epoch to start at, from 0.
    Returns:
        An endless dataset of `(x, y)`, int32 `(b, t)` each.
    Raises:
        DataError: the text is too short for one window.
    """
    _check_length(len(tokens), context_length)
    many = _batches_at_once(batch_size, context_length)

    def starts() -> Iterator[np.ndarray]:
        first, at = step, epoch
        while True:
            size = (steps_per_epoch, batch_size)
            drawn = _generator(seed, at).integers(0, len(tokens) - context_length, size)
            for chunk in range(first, steps_per_epoch, many):
                yield drawn[chunk : chunk + many]
            first, at = 0, at + 1

    return _gathered(tokens, starts, context_length, batch_size, lambda at, x, y: (x, y))


def lane_steps(n: int, context_length: int, batch_size: int) -> int:
    """Return how many steps a pass of `lane_stream` over `n` tokens has; 0 if they are too few."""
    return max(0, (n - context_length) // batch_size // context_length)


def lane_stream(
    tokens: np.ndarray,
    *,
    context_length: int,
    batch_size: int,
    steps_per_epoch: int,
    seed: int,
    epoch: int = 0,
    step: int = 0,
) -> tf.data.Dataset:
    """Stream a text in lanes: each row of a batch goes on where the same row of the last one ended.

    In each pass over the text it is cut, from an offset in [0, context_length) of its own, into
    `batch_size` lanes of equal length, one after the other; less than a step of each lane is left
    out at the end. Passes have `lane_steps` steps each and take no notice of epochs.

    Args:
        tokens: whole numbers `(n,)`.
        context_length: tokens of a lane in one step.
        batch_size: number of lanes.
        steps_per_epoch: batches an epoch.
        seed: the run's seed.
        epoch: epoch to start in, from 0.
        step: batch of that epoch to start at, from 0.
    Returns:
        An endless dataset of `((x, fresh), y)`: x and y int32 `(b, t)`; fresh bool `(b,)`, true in
        the first step of a pass, where a row goes on from nothing.
    Raises:
        DataError: the text is too short for one step of every lane.
    """
    steps = lane_steps(len(tokens), context_length, batch_size)
    if steps == 0:
        raise DataError(
            f"the text has {counted(len(tokens), 'token')}; {batch_size} lanes (--batch-size) of "
            f"{context_length} (--context-length) need {(batch_size + 1) * context_length:,}"
        )
    many = _batches_at_once(batch_size, context_length)
    lanes = np.arange(batch_size) * steps * context_length

    def starts() -> Iterator[np.ndarray]:
        at = epoch * steps_per_epoch + step
        while True:
            number, first = divmod(at, steps)
            offset = _generator(seed, number).integers(0, context_length)
            for chunk in range(first, steps, many):
                within = np.arange(chunk, min(chunk + many, steps))
                yield offset + within[:, None] * context_length + lanes
            at += steps - first

    def batch(at: Any, x: Any, y: Any) -> tuple:
        import tensorflow as tf

        # The first lane begins at the offset, which alone is below a context's length.
        fresh = tf.repeat(at[:, :1] < context_length, batch_size, axis=1)
        return (x, fresh), y

    return _gathered(tokens, starts, context_length, batch_size, batch)


def evaluation_windows(
    tokens: np.ndarray, context_length: int, batch_size: int, stride: int | None = None
) -> tf.data.Dataset:
    """Return windows that score every token but the first exactly once, in the text's order.

    The first window scores all of its targets. Each later one begins `stride` tokens further and
    scores its last `stride` targets, so that what is scored has at least `context_length - stride`
    tokens before it. The last window ends with the text and scores what is left.

    Args:
        tokens: whole numbers `(n,)`, n at least 2.
        context_length: tokens a window.
        batch_size: windows a batch.
        stride: in [1, context_length]; half the context if None.
    Returns:
        A finite dataset of `(x, y, weight)`: x and y int32 `(b, t)`; weight float32 `(b, t)`, 1
        where a target is scored, else 0. A text shorter than one window is filled up at its end,
        the last batch with windows, all of weight 0.
    Raises:
        DataError: there is nothing to score.
        ValueError: the stride is out of range.
    """
    import tensorflow as tf

    stride = max(1, context_length // 2) if stride is None else stride
    if not 1 <= stride <= context_length:
        raise ValueError(f"stride is in [1, {context_length}], not {stride}")
    targets = len(tokens) - 1
    if targets < 1:
        raise DataError(f"the text has {counted(len(tokens), 'token')}; scoring needs 2")
    # Number of targets up to the end of each window.
    reached = np.arange(context_length, max(context_length, targets) + stride, stride)
    reached = np.minimum(reached, targets)
    begins = np.maximum(reached - context_length, 0)
    scored = np.stack([np.concatenate([[0], reached[:-1]]), reached], 1) - begins[:, None]
    rest = -len(begins) % batch_size
    begins = np.pad(begins, (0, rest)).reshape(-1, batch_size)
    scored = np.pad(scored, ((0, rest), (0, 0))).reshape(-1, batch_size, 2)
    gather = _gather(np.pad(tokens, (0, max(0, context_length - targets))), context_length)
    places = np.arange(context_length)

    def batch(at: Any, span: Any) -> tuple:
        x, y = gather(at)
        weight = tf.logical_and(places >= span[..., :1], places < span[..., 1:])
        return x, y, tf.cast(weight, tf.float32)

    dataset = tf.data.Dataset.from_tensor_slices((begins, scored))
    return dataset.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def random_windows(
    tokens: np.ndarray, context_length: int, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw windows anywhere in a text, with replacement, to estimate its loss by.

    Such a loss counts targets with next to no tokens before them as much as others; it is what
    nanoGPT's training prints.

    Args:
        tokens: whole numbers `(n,)`, n above `context_length`.
        context_length: tokens a window.
        count: number of windows.
        seed: decides which.
    Returns:
        x and y, int32 `(count, t)`.
    Raises:
        DataError: the text is too short for one window.
    """
    _check_length(len(tokens), context_length)
    starts = _generator(seed).integers(0, len(tokens) - context_length, count)
    found = tokens[starts[:, None] + np.arange(context_length + 1)].astype(np.int32)
    return found[:, :-1], found[:, 1:]


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(list(numbers))))


def _check_length(n: int, context_length: int) -> None:
    if n <= context_length:
        raise DataError(
            f"the text has {counted(n, 'token')}; a window of {context_length} (--context-length) needs "
            f"{context_length + 1:,}"
        )


def _batches_at_once(batch_size: int, context_length: int) -> int:
    return min(BATCHES, max(1, GATHERED // (batch_size * (context_length + 1))))


def _gather(tokens: np.ndarray, context_length: int) -> Callable[[Any], tuple[Any, Any]]:
    """Return the function from starts `(..., b)` to x and y `(..., b, t)`, within a graph."""
    import tensorflow as tf

    with tf.device("CPU"):
        held = tf.constant(tokens)
    places = np.arange(context_length + 1)

    def gather(starts: Any) -> tuple[Any, Any]:
        found = tf.cast(tf.gather(held, starts[..., None] + places), tf.int32)
        return found[..., :-1], found[..., 1:]

    return gather


def _gathered(
    tokens: np.ndarray,
    starts: Callable[[], Iterator[np.ndarray]],
    context_length: int,
    batch_size: int,
    batch: Callable[[Any, Any, Any], tuple],
) -> tf.data.Dataset:
    """Stream `batch(starts, x, y)`, called for many batches at once, one by one."""
    import tensorflow as tf

    gather = _gather(tokens, context_length)
    dataset: Any = tf.data.Dataset.from_generator(
        starts, output_signature=tf.TensorSpec((None, batch_size), tf.int64)
    )
    dataset = dataset.map(lambda at: batch(at, *gather(at)), num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.unbatch().prefetch(tf.data.AUTOTUNE)
