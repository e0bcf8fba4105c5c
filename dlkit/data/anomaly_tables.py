"""A table for a detector: rows split into normal ones to train on and the rest, scaled by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlkit.data import tables
from dlkit.data.anomalies import AnomalyData, divide
from dlkit.data.spec import DetectorSpec
from dlkit.errors import counted

# Rows encoded at once.
BATCH = 65_536


def load_table(
    source: str,
    *,
    label: str | None,
    normal: Sequence[str],
    ignored: Sequence[str],
    contaminated: bool,
    split_seed: int,
) -> AnomalyData:
    """Load a table as a detector's data.

    Args:
        source: see `tables.kind_of`.
        label, normal: the column of labels and its normal values; an `.npz` brings its own, and so
            does the built-in table.
        ignored: columns left out.
        contaminated: see `divide`.
        split_seed: seed of the split.
    Raises:
        DataError: see `tables`; fewer than 20 normal rows.
    """
    where, notes = f"--data {source}", []
    frame, own = tables.read(source)
    label = label or own
    y = tables.labels(frame, label, normal, where)
    if label is not None:
        frame = frame.drop(columns=label)
    columns = tables.find_columns(frame, ignored, where, notes)
    raw = tables.inputs(frame, columns, where)
    train, holdout, test = divide(
        y, len(frame), contaminated=contaminated, seed=split_seed, where=where
    )
    missing = int(np.isnan(raw["rows"]).sum()) if columns.numeric else 0
    if missing:
        notes.append(f"{counted(missing, 'number')} of {where} missing; taken as typical, and told")
    notes += said_of_labels(y, contaminated, label)

    from dlkit.data.table_scaler import fit_scaler

    scaler = fit_scaler({k: v[train.at] for k, v in raw.items()}, columns, notes)
    features = np.concatenate(
        [
            np.asarray(scaler({k: tensor(v[i : i + BATCH]) for k, v in raw.items()}))
            for i in range(0, len(frame), BATCH)
        ]
    )
    width = features.shape[1]
    return AnomalyData(
        source=source,
        train=train,
        holdout=holdout,
        test=test,
        spec=DetectorSpec(input_shape=(width,), outputs=width, kind="table"),
        inputs=lambda at: {k: v[at] for k, v in raw.items()},
        arrays=lambda at: (features[at],),
        prepare=lambda x: x,
        preprocess=scaler,
        owners=scaler.owners,
        columns=columns.names,
        about={
            "columns": list(columns.numeric),
            "categories": {k: list(v) for k, v in scaler.columns.categories.items()},
            "endpoint": columns.endpoint,
            "gaps": [n for n, gap in zip(columns.numeric, scaler.gaps, strict=True) if gap],
            "label": label,
            "normal": list(normal),
        },
        contaminated=contaminated,
        notes=notes,
        restore=scaler.restore,
    )


def said_of_labels(y: np.ndarray | None, contaminated: bool, label: str | None) -> list[str]:
    """Return what a user should know of what was taken as normal."""
    if contaminated:
        return ["trained as if nobody knew what is normal: anomalies may be among the rows"]
    if y is None:
        return [
            "no labels: all rows are taken as normal; name a column with --label, if there is one"
        ]
    return []


def tensor(values: np.ndarray) -> Any:
    """Return a tensor; text becomes strings."""
    import tensorflow as tf

    return tf.constant(values.tolist() if values.dtype == object else values)
