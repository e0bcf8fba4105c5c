"""Images a second through the training stream, augmented, beside Keras's layers per element.

python benchmarks/augment_throughput.py [--data-dir DIR] [--pairs 5] [--seconds 3] [--again]

Fashion-MNIST where it is prepared in `--data-dir`, else made images of the same shape. Every stream
ends in float32 batches of 128, as the model takes them; nothing is trained. Pairs are measured in
turn; the ratio is the median over pairs, with its range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from results_file import row

BATCH = 128
POLICIES = {
    "flip+crop": "flip,crop",
    "affine": "flip,translate=0.071,rotate=5,zoom=0.05",
    "strong": "alternating-flip,crop,erase,cutmix",
}


def load(data_dir: str) -> tuple[Any, Any, str]:
    """Return 60,000 images and labels, and where they are from."""
    import numpy as np

    from dlkit.data.images import load_images, prepared

    if "fashion_mnist" in prepared(Path(data_dir)):
        data = load_images("tfds:fashion_mnist", data_dir=data_dir, download=False)
        return data.train.x, data.train.y, "fashion_mnist"
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (54_000, 28, 28, 1)).astype(np.uint8)
    return x, draw.integers(0, 10, 54_000).astype(np.int32), "made"


def ours(x: Any, y: Any, text: str) -> Any:
    """The training stream as the recipe has it."""
    from dlkit.data.augment import augment, mix
    from dlkit.data.policy import policy
    from dlkit.data.stream import train_stream

    changes = policy(text)

    def prepare(draw_seed: Any, rows: Any, images: Any, labels: Any) -> tuple:
        return mix(augment(images, draw_seed, rows, changes), labels, draw_seed, changes, 10)

    return train_stream((x, y), prepare, batch_size=BATCH, seed=0)


def keras_layers(x: Any, y: Any) -> Any:
    """Flip, pad and crop by Keras's layers, mapped over elements, then batched."""
    import keras
    import tensorflow as tf

    change = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.ZeroPadding2D(2),
            keras.layers.RandomCrop(*x.shape[1:3]),
        ]
    )
    dataset: Any = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).repeat()

    def one(image: Any, label: Any) -> tuple:
        return change(tf.cast(image, tf.float32)[None], training=True)[0], label

    dataset = dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def rate(batches: Iterator[Any], seconds: float) -> float:
    """Draw batches for some seconds; return images a second."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(8):
            next(batches)
        count += 8 * BATCH
    return count / (time.perf_counter() - began)


def measure(
    make: Callable[[], Any], peer: Iterator[Any], pairs: int, seconds: float
) -> dict[str, Any]:
    """Measure a stream against the peer in turn."""
    batches = iter(make())
    rate(batches, 1.0)
    found = [(rate(batches, seconds), rate(peer, seconds)) for _ in range(pairs)]
    ratios = [a / b for a, b in found]
    return {
        "images_per_second": statistics.median(a for a, _ in found),
        "keras_images_per_second": statistics.median(b for _, b in found),
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="../shared/data/tfds")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()

    from dlkit.runtime import load_tensorflow

    load_tensorflow(keras=True)
    x, y, source = load(given.data_dir)
    peer = iter(keras_layers(x, y))
    rate(peer, 1.0)
    for name, text in POLICIES.items():
        figures = row(
            "augment_throughput",
            name,
            lambda t=text: {
                "data": source,
                "policy": t,
                **measure(lambda: ours(x, y, t), peer, given.pairs, given.seconds),
            },
            given.again,
        )
        low, high = figures["range"]
        print(
            f"{name:10} {figures['images_per_second']:>9,.0f} images/s, Keras's layers "
            f"(flip, pad, crop) {figures['keras_images_per_second']:,.0f}: "
            f"{figures['ratio']:.1f} [{low:.1f}, {high:.1f}]"
        )


if __name__ == "__main__":
    main()
