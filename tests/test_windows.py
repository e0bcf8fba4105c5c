"""Windows and lanes of a text: what training and evaluation read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlkit.data.text import load_text
from dlkit.data.windows import (
    evaluation_windows,
    lane_steps,
    lane_stream,
    random_windows,
    window_stream,
)
from dlkit.errors import DataError

TOKENS = np.random.default_rng(0).permutation(251).astype(np.uint8)


def streamed(
    stream: Callable[..., Any], epoch: int = 0, step: int = 0, steps: int = 5, **options: Any
) -> Any:
    sizes = {"context_length": 4, "batch_size": 3, "steps_per_epoch": steps, "seed": 7, **options}
    return stream(TOKENS, epoch=epoch, step=step, **sizes).as_numpy_iterator()


def flat(batch: Any) -> list[np.ndarray]:
    x, y = batch
    return [*x, y] if isinstance(x, tuple) else [x, y]


@pytest.mark.parametrize("stream", [window_stream, lane_stream])
def test_a_stream_goes_on_from_any_position(stream: Callable[..., Any]) -> None:
    source = streamed(stream)
    batches = [next(source) for _ in range(53)]
    for at in (0, 1, 4, 5, 7, 19, 20, 21, 22, 41):
        later = streamed(stream, *divmod(at, 5))
        for expected in batches[at:]:
            for one, two in zip(flat(next(later)), flat(expected), strict=True):
                np.testing.assert_array_equal(one, two)
    other = streamed(stream, seed=8)
    assert any((flat(next(other))[0] != flat(batch)[0]).any() for batch in batches[:3])


def test_windows_are_pieces_of_the_text_from_all_over_it() -> None:
    source = streamed(window_stream, steps=300)
    place = np.argsort(TOKENS)
    starts = []
    for _ in range(600):
        x, y = next(source)
        assert x.dtype == y.dtype == np.int32 and x.shape == y.shape == (3, 4)
        at = place[x]
        np.testing.assert_array_equal(np.diff(at, axis=1), 1)
        np.testing.assert_array_equal(place[y], at + 1)
        starts += at[:, 0].tolist()
    assert set(starts) == set(range(251 - 4))
    assert starts[:900] != starts[900:]


def test_lanes_go_on_where_they_ended() -> None:
    steps = lane_steps(len(TOKENS), 4, 3)
    assert steps == 20
    source = streamed(lane_stream)
    place = np.argsort(TOKENS)
    offsets = []
    for _ in range(8):
        batches = [next(source) for _ in range(steps)]
        starts = [fresh for (_, fresh), _ in batches]
        assert all(fresh.dtype == bool and fresh.shape == (3,) for fresh in starts)
        assert [fresh.tolist() for fresh in starts] == [[True] * 3] + [[False] * 3] * (steps - 1)
        x = np.concatenate([x for (x, _), _ in batches], axis=1)  # (b, steps * t)
        y = np.concatenate([y for _, y in batches], axis=1)
        assert x.dtype == y.dtype == np.int32
        at = place[x]
        np.testing.assert_array_equal(np.diff(at, axis=1), 1)
        np.testing.assert_array_equal(place[y], at + 1)
        np.testing.assert_array_equal(np.diff(at[:, 0]), steps * 4)
        offsets.append(int(at[0, 0]))
    assert set(offsets) <= {0, 1, 2, 3} and len(set(offsets)) > 1


def test_texts_too_short_to_train_on() -> None:
    sizes: dict[str, Any] = {"context_length": 8, "steps_per_epoch": 5, "seed": 0}
    assert lane_steps(72, 8, 8) == 1 and lane_steps(71, 8, 8) == 0 == lane_steps(3, 8, 8)
    assert len(next(iter(lane_stream(TOKENS[:72], batch_size=8, **sizes)))) == 2
    with pytest.raises(DataError, match=r"71 tokens; 8 lanes .* of 8 .* need 72"):
        lane_stream(TOKENS[:71], batch_size=8, **sizes)
    assert len(next(iter(window_stream(TOKENS[:9], batch_size=8, **sizes)))) == 2
    for short in (
        lambda: window_stream(TOKENS[:8], batch_size=8, **sizes),
        lambda: random_windows(TOKENS[:8], 8, 1, 0),
    ):
        with pytest.raises(DataError, match=r"8 tokens; a window of 8 .* needs 9"):
            short()


@pytest.mark.parametrize("n", [2, 5, 8, 9, 10, 14, 17, 18, 100, 101])
@pytest.mark.parametrize(("t", "stride"), [(8, None), (8, 1), (8, 3), (8, 8), (1, None)])
def test_evaluation_scores_every_token_but_the_first_once(
    n: int, t: int, stride: int | None
) -> None:
    tokens, place = TOKENS[:n], np.argsort(TOKENS)
    dataset: Any = evaluation_windows(tokens, t, 4, stride)
    assert [spec.shape for spec in dataset.element_spec] == [(4, t)] * 3
    scored, context = [], []
    for x, y, weight in dataset.as_numpy_iterator():
        assert (x.dtype, y.dtype, weight.dtype) == (np.int32, np.int32, np.float32)
        assert set(weight.ravel().tolist()) <= {0.0, 1.0}
        for row, column in zip(*np.nonzero(weight), strict=True):
            target = int(place[y[row, column]])
            seen = place[x[row, : column + 1]]
            np.testing.assert_array_equal(seen, np.arange(target - column - 1, target))
            scored.append(target)
            context.append(column + 1)
    assert scored == list(range(1, n))
    least = t - (stride or max(1, t // 2)) + 1
    assert all(seen >= min(target, least) for seen, target in zip(context, scored, strict=True))
    assert dataset.cardinality().numpy() == sum(1 for _ in dataset)


def test_evaluation_needs_something_to_score() -> None:
    with pytest.raises(DataError, match="1 token; scoring needs 2"):
        evaluation_windows(TOKENS[:1], 8, 4)
    with pytest.raises(ValueError, match=r"stride is in \[1, 8\], not 9"):
        evaluation_windows(TOKENS, 8, 4, 9)


def test_random_windows_are_the_seeds_own() -> None:
    x, y = random_windows(TOKENS, 4, 2000, 3)
    assert x.dtype == y.dtype == np.int32 and x.shape == y.shape == (2000, 4)
    place = np.argsort(TOKENS)
    np.testing.assert_array_equal(place[x] + 1, place[y])
    assert set(place[x[:, 0]].tolist()) == set(range(251 - 4))
    np.testing.assert_array_equal(random_windows(TOKENS, 4, 2000, 3)[0], x)
    assert (random_windows(TOKENS, 4, 2000, 4)[0] != x).any()


def test_tiny_shakespeare(real_data: Path) -> None:
    source = str(real_data / "tinyshakespeare.txt")
    loaded = load_text(source, split="90/10")
    assert loaded.sizes() == {"train": 1_003_854, "validation": 111_540, "test": 0}
    assert loaded.tokenizer.size == 65 and loaded.train.dtype == np.uint8
    assert loaded.notes == []
    three = load_text(source)
    assert three.sizes() == {"train": 1_003_854, "validation": 55_770, "test": 55_770}
    joined = np.concatenate([three.train, three.validation, three.test])
    assert loaded.tokenizer.decode(joined) == (real_data / "tinyshakespeare.txt").read_text("utf-8")
