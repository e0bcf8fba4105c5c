"""Sets of tensorflow-datasets."""

from __future__ import annotations

from typing import Any

from dlkit.errors import DataError, nearest


def prepared(name: str, data_dir: str | None, download: bool) -> Any:
    """Return the builder of a set that lies prepared on disk.

    Args:
        name: the set, as tensorflow-datasets spells it.
        data_dir: where sets are kept; tensorflow-datasets' own default if None.
        download: whether a set that is not there may be downloaded and prepared.
    Raises:
        DataError: no such set, or it is not prepared and cannot be.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if download:
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders()
        raise DataError(
            f"--data: tensorflow-datasets has no '{name}'{nearest(name, known)}"
        ) from None
    except Exception as error:  # the network, the disk or the publisher's checksum
        raise DataError(
            f"--data tfds:{name} cannot be prepared: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}"
        ) from None
    if not builder.info.splits:
        raise DataError(f"--data tfds:{name}: not prepared (or allow --download)")
    return builder
