"""How long one image takes through an exported model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

WARM_UP = 20
ROUNDS = 5
CALLS = 40
ROUND_SECONDS = 0.5


def latencies(endpoints: Mapping[str, Any], image: np.ndarray) -> dict[str, float]:
    """Return the median seconds of one call with one image, for each `from_pixels` endpoint.

    Args:
        endpoints: a signature of a loaded SavedModel by name.
        image: uint8 `(h, w, c)`.
    Returns:
        Seconds by name. After 20 calls to warm up, five rounds of up to 40 calls (of half a second
        at most, of one call at least) go through the endpoints in turn, so that a busy moment of
        the machine does not fall on one of them alone. A call ends with its answer in NumPy.
    """
    import tensorflow as tf

    pixels = tf.constant(image[None])  # (1, h, w, c)

    def call(endpoint: Any) -> float:
        began = time.perf_counter()
        endpoint(pixels=pixels)["probabilities"].numpy()
        return time.perf_counter() - began

    taken: dict[str, list[float]] = {name: [] for name in endpoints}
    for endpoint in endpoints.values():
        until = time.perf_counter() + 2 * ROUND_SECONDS
        for _ in range(WARM_UP):
            call(endpoint)
            if time.perf_counter() > until:
                break
    for _ in range(ROUNDS):
        for name, endpoint in endpoints.items():
            until = time.perf_counter() + ROUND_SECONDS
            for _ in range(CALLS):
                taken[name].append(call(endpoint))
                if time.perf_counter() > until:
                    break
    return {name: float(np.median(each)) for name, each in taken.items()}
