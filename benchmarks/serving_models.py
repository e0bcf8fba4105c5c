"""Models to serve: LeNet as dlkit exports it, and small nets that answer with their version.

python benchmarks/serving_models.py DIRECTORY FIRST LAST    writes the latter, in a process of its own
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from results_file import ROOT, dlkit

SIDE = 28


def lenet(folder: Path) -> Path:
    """Train LeNet for one epoch on made pictures and export it, also as ONNX; return the export.

    One that is in the folder already is taken.
    """
    if (folder / "lenet").exists():
        return folder / "lenet"
    generator = np.random.default_rng(0)
    labels = np.arange(1000) % 10
    pictures = generator.integers(0, 64, (1000, SIDE, SIDE, 1), np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[2 * label : 2 * label + 8, 10:18] += 128
    np.savez(folder / "pictures.npz", x=pictures, y=labels)
    train = ("train", "--data", "pictures.npz", "--model", "lenet", "--epochs", "1")
    dlkit("image-classification", *train, cwd=folder)
    export = ("export", "latest", "--out", "lenet", "--format", "onnx")
    dlkit("image-classification", *export, cwd=folder)
    return folder / "lenet"


def request(path: Path, rows: int = 1, name: str = "instances") -> Path:
    """Write the JSON of pictures as pixels; return its file."""
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (rows, SIDE, SIDE, 1)).tolist()
    body = {name: pixels}
    if name == "instances":
        body["signature_name"] = "from_pixels"
    path.write_text(json.dumps(body))
    return path


def write_versions(directory: Path, first: int, last: int) -> None:
    """Write versions of a net of LeNet's size whose every row says which one it is, twice."""
    from dlkit.export import MANIFEST, checksums
    from dlkit.export.warmup import write_warmup
    from dlkit.runtime import load_tensorflow

    tf: Any = load_tensorflow()
    pixels = {"pixels": np.zeros((1, SIDE, SIDE, 1), np.uint8)}

    class Net(tf.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            generator = np.random.default_rng(number)

            def weights(*shape: int) -> Any:
                return tf.Variable(generator.normal(0, 0.1, shape).astype(np.float32))

            self.first, self.second = weights(5, 5, 1, 6), weights(5, 5, 6, 16)
            self.dense, self.head = weights(7 * 7 * 16, 120), weights(120, 10)
            self.number = tf.Variable(float(number))

        @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 1], tf.uint8, "pixels")])
        def __call__(self, pixels: Any) -> dict[str, Any]:
            x = tf.cast(pixels, tf.float32) / 255.0
            for kernel in (self.first, self.second):
                x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")), 2, 2, "SAME")
            x = tf.nn.relu(tf.reshape(x, [-1, 7 * 7 * 16]) @ self.dense)
            version = tf.fill([tf.shape(pixels)[0]], self.number)
            return {
                "probabilities": tf.nn.softmax(x @ self.head),
                "version": version,
                "again": tf.identity(version),
            }

    for number in range(first, last + 1):
        net, target = Net(number), directory / str(number)
        tf.saved_model.save(net, str(target), signatures={"from_pixels": net.__call__})
        write_warmup(target, {"from_pixels": pixels})
        manifest = {"format": 1, "task": "numbers", "files": checksums(target)}
        (target / MANIFEST).write_text(json.dumps(manifest))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    write_versions(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
