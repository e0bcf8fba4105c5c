"""What a run's own examples tell of the formats of its export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.anomaly_detection.answers import BATCH
from pipelines.anomaly_detection.config import Config, load


def samples(run: str, about: Mapping[str, Any]) -> Any:
    """Return examples of the test split, and the AUROC of what scores it, where it has labels.

    Args:
        run: its id.
        about: the manifest of its export.
    Raises:
        DataError: its source is not there any more, or its examples have another shape.
    """
    import numpy as np
    from sklearn.metrics import roc_auc_score

    from dlkit import tracking
    from dlkit.detection.parity import shown
    from dlkit.errors import DataError
    from dlkit.export.formats import Samples

    data = load(Config(**tracking.config_of(run)))
    shape = tuple(about["input_shape"])
    if tuple(data.spec.input_shape) != shape:
        raise DataError(f"{data.source}: examples of {data.spec.input_shape}; the run has {shape}")
    test = data.test

    def auroc(answer: Any) -> float:
        parts = [
            answer(data.inputs(test.at[i : i + BATCH]))["score"] for i in range(0, len(test), BATCH)
        ]
        return float(roc_auc_score(test.y, np.concatenate(parts)))

    known = set(np.unique(test.y)) == {0, 1}
    return Samples(
        held_out=data.inputs(shown(data)), metric="auroc" if known else None, score=auroc
    )
