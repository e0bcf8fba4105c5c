"""Label images with a trained classifier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlkit.errors import DataError
from pipelines.image_classification.config import TASK


def predict(ref: str, inputs: tuple[str, ...], strict: bool = False) -> Iterator[dict[str, Any]]:
    """Label image files with RUN's exported model, the same graph that the server runs.

    Yields:
        `file`, `label`, `probability` and `probabilities` (by label) for each image, in order.
    Raises:
        DataError: no image among the inputs; an unreadable one if `strict`, or none readable.
    """
    from dlkit import tracking
    from dlkit.data.folder import left_out, named, none_of
    from dlkit.data.images import images_under
    from dlkit.progress import say

    files = [file for path in inputs for file in images_under(Path(path).expanduser())]
    if not files:
        raise DataError(f"INPUT: no images in {', '.join(inputs)}")
    directory, _ = tracking.export_directory(ref, TASK)

    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow()
    from dlkit import export

    labels = export.read_manifest(directory / "1")["labels"]
    classify = tf.saved_model.load(str(directory / "1")).signatures["serving_default"]

    def rows(batch: list[Path]) -> list[tuple[Path, dict]]:
        """Classify a batch; where one image fails, each alone, so that the others are answered."""
        try:
            answers = classify(image=tf.constant([file.read_bytes() for file in batch]))
        except (tf.errors.OpError, OSError):
            if len(batch) == 1:
                unreadable.append(batch[0])
                return []
            return [row for file in batch for row in rows([file])]
        values = {name: tensor.numpy() for name, tensor in answers.items()}
        return [(f, {k: v[i] for k, v in values.items()}) for i, f in enumerate(batch)]

    unreadable: list[Path] = []
    for start in range(0, len(files), 64):
        for file, answer in rows(files[start : start + 64]):
            shares = dict(zip(labels, map(float, answer["probabilities"]), strict=True))
            label = answer["label"].decode()
            yield {
                "file": str(file),
                "label": label,
                "probability": shares[label],
                "probabilities": shares,
            }
        if strict and unreadable:
            raise DataError(f"--strict: unreadable image {named(unreadable, 1)}")
    if len(unreadable) == len(files):
        raise DataError(f"INPUT: {none_of(unreadable)}")
    if unreadable:
        say(f"note: {left_out(unreadable)}")
