"""What a run's own images tell of the formats of its export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.image_classification.config import Config, load

# Images that answers are compared on, and that 8 bits are calibrated on.
HELD_OUT, CALIBRATED = 64, 512
BATCH = 256


def samples(run: str, about: Mapping[str, Any]) -> Any:
    """Return pixels of the test split and of the training split, and the accuracy of what answers.

    Args:
        run: its id.
        about: the manifest of its export.
    Raises:
        DataError: its source is not there any more, or its images have another size.
    """
    import numpy as np

    from dlkit import tracking
    from dlkit.errors import DataError
    from dlkit.evaluation.classification import scores
    from dlkit.export.formats import Samples

    data = load(Config(**tracking.config_of(run)))
    shape = tuple(about["input_shape"])
    if tuple(data.spec.input_shape) != shape:
        raise DataError(f"{data.source}: images of {data.spec.input_shape}; the run has {shape}")
    test = data.test

    def spread(split: Any, count: int) -> Any:
        at = np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int)
        return np.ascontiguousarray(split.x[at])

    def accuracy(answer: Any) -> float:
        parts = [
            answer({"pixels": np.ascontiguousarray(test.x[i : i + BATCH])})["probabilities"]
            for i in range(0, len(test), BATCH)
        ]
        return scores(np.concatenate(parts), test.y)["accuracy"]

    return Samples(
        held_out={"pixels": spread(test, HELD_OUT)},
        training={"pixels": spread(data.train, CALIBRATED)},
        metric="accuracy",
        score=accuracy,
    )
