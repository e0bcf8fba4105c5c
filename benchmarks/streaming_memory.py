"""Peak memory of training on a folder of images, on disk and in memory, at 10,000 and 100,000.

python benchmarks/streaming_memory.py [--images 10000 100000] [--side 96] [--again]

The images are generated into a temporary folder (JPEG and PNG by turns, two classes) and removed
afterwards. Each row is one `dlkit image-classification train` in a process of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from results_file import peak, row

BATCH = 64


def draw(folder: Path, start: int, stop: int, side: int) -> None:
    """Write images `start` to `stop`: smooth noise, brighter on top for one class."""
    from PIL import Image

    generator = np.random.default_rng(start)
    ramp = np.linspace(60, -60, side)[:, None, None]
    for i in range(start, stop):
        coarse = generator.integers(60, 196, (6, 6, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side)), np.float64)
        pixels = np.clip(smooth + (ramp if i % 2 else -ramp), 0, 255).astype(np.uint8)
        ending = "png" if i % 10 == 0 else "jpg"
        Image.fromarray(pixels).save(folder / ("up", "down")[i % 2] / f"{i:07}.{ending}")


def generate(folder: Path, count: int, side: int) -> None:
    for name in ("up", "down"):
        (folder / name).mkdir(parents=True)
    starts = range(0, count, 1000)
    with ProcessPoolExecutor() as pool:
        jobs = [pool.submit(draw, folder, s, min(count, s + 1000), side) for s in starts]
        for job in jobs:
            job.result()


def measure(count: int, side: int, stream: bool) -> dict[str, Any]:
    """Train on `count` images and return the peak resident memory of the process."""
    with tempfile.TemporaryDirectory() as home:
        generate(Path(home, "images"), count, side)
        arguments = [
            *("image-classification", "train", "--data", "images/", "--model", "lenet"),
            *("--epochs", "1", "--warmup", "0", "--batch-size", str(BATCH), "--json"),
            "--stream" if stream else "--no-stream",
        ]
        found = peak(*arguments, cwd=Path(home))
    return {
        "images": count,
        "side": side,
        "stream": stream,
        "pixels_mb": round(count * side * side * 3 / 1e6, 1),
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    for stream in (True, False):
        for count in given.images:
            name = f"{count} images, {'on disk' if stream else 'in memory'}"
            result = row(
                "streaming_memory",
                name,
                lambda count=count, stream=stream: measure(count, given.side, stream),
                given.again,
            )
            print(
                f"{name}: {result['peak_mb']:,.0f} MB at most for {result['pixels_mb']:,.0f} MB of "
                f"pixels, {result['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
