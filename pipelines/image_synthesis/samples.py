"""What the formats of a generator's export are asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.image_synthesis.config import TRANSLATORS, Config, load

HELD_OUT = 32


def samples(run: str, about: Mapping[str, Any]) -> Any:
    """Return noise that a generator makes pictures of, or pictures that a translator translates.

    Args:
        run: its id.
        about: the manifest of its export.
    """
    import numpy as np

    from dlkit import tracking
    from dlkit.export.formats import Samples

    config = Config(**tracking.config_of(run))
    if config.model in TRANSLATORS:
        data, _ = load(config)
        return Samples(held_out={"pixels": np.asarray(data.test.x[:HELD_OUT])})
    generator = np.random.default_rng(config.seed)
    noise = generator.standard_normal((HELD_OUT, *about["noise_shape"])).astype(np.float32)
    labels = len(about["labels"])
    asked = {"label": np.arange(HELD_OUT, dtype=np.int32) % labels} if labels else {}
    return Samples(held_out={"noise": noise, **asked})
