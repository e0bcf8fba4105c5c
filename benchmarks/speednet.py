"""Accuracy against seconds: dlkit's speednet, a two-convolution net in plain Keras, and speednet in PyTorch.

python benchmarks/speednet.py [--data-dir DIR] [--seconds 180] [--seeds 1] [--again]

Fashion-MNIST, the same 54,000 images to train on and the same 6,000 to validate on. Each side is a
process of its own, one after the other, that trains for the same seconds: from its first step, so
that loading stays outside the clock and tracing, augmentation and validation inside it. The curve is
the accuracy on validation after each epoch; the test split is scored once, at the end.

`keras` is the network and recipe of Keras's own guide (https://keras.io/examples/vision/mnist_convnet:
two 3 x 3 convolutions of 32 and 64, dropout 0.5, Adam, batches of 128), trained until the time is up.
`torch` is speednet again with the same recipe: whitening, identity start, AdamW, averaging of
weights, alternating flip and crop, and test-time views.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results_file import RESULTS, ROOT, row
from sides import torch_python

TORCH_SCRIPT = ROOT / "benchmarks" / "peers" / "torch_speednet.py"
SIDES = {
    "dlkit": "dlkit speednet",
    "torch": "speednet in PyTorch",
    "keras": "two convolutions, plain Keras",
}


def dlkit_side(job: dict[str, Any]) -> dict[str, Any]:
    """Train as `dlkit image-classification train --model speednet --tta --time-limit` does."""
    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow(keras=True)
    from dlkit import training
    from dlkit.data.stream import eval_stream
    from dlkit.export.images import MIRRORED, logits
    from pipelines.image_classification.config import PRESETS, Config, load
    from pipelines.image_classification.setup import compiled_model, training_stream

    config = Config(
        data="tfds:fashion_mnist",
        data_dir=job["data_dir"],
        download=False,
        model="speednet",
        time_limit=job["seconds"],
        seed=job["seed"],
        **PRESETS["speednet"],
    )
    data = load(config)
    model, rate = compiled_model(config, data)
    stream, batch_size = training_stream(config, data)
    curve: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        training.fit(
            model,
            stream,
            eval_stream(
                (data.validation.x, data.validation.y),
                lambda x, y: (data.preprocess(tf.cast(x, tf.float32)), y),
                batch_size=256,
            ),
            steps_per_epoch=len(data.train) // batch_size,
            batch_size=batch_size,
            epochs=None,
            time_limit=config.time_limit,
            schedule=config.schedule,
            learning_rate=rate,
            warmup=config.warmup,
            patience=None,
            monitor="accuracy",
            ema=config.ema,
            path=Path(folder) / "checkpoint.npz",
            on_epoch=lambda _, logs: curve.append((time.monotonic() - began, logs["val_accuracy"])),
            quiet=True,
        )
    tested = {
        name: float((logits(model, data, data.test.x, views).argmax(1) == data.test.y).mean())
        for name, views in (("test", ()), ("test_views", MIRRORED))
    }
    return {"curve": curve, "parameters": trained(model), **tested}


def keras_side(job: dict[str, Any]) -> dict[str, Any]:
    """Train as Keras's guide does, until the time is up."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np

    stored = np.load(job["arrays"])
    keras.utils.set_random_seed(job["seed"])
    parts = {
        name: (stored[f"x_{name}"].astype("float32") / 255, stored[f"y_{name}"])
        for name in ("train", "validation", "test")
    }
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    curve: list[tuple[float, float]] = []

    class UntilTimeIsUp(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.began = time.monotonic()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if time.monotonic() - self.began > job["seconds"]:
                self.model.stop_training = True

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            curve.append((time.monotonic() - self.began, logs["val_accuracy"]))

    model.fit(
        *parts["train"],
        batch_size=128,
        epochs=10**6,
        validation_data=parts["validation"],
        verbose=0,
        callbacks=[UntilTimeIsUp()],
    )
    test = float(model.evaluate(*parts["test"], verbose=0)[1])
    return {"curve": curve, "parameters": trained(model), "test": test}


def trained(model: Any) -> int:
    """Count the values that are trained."""
    return sum(int(v.numpy().size) for v in model.trainable_variables)


def save_arrays(job: dict[str, Any]) -> dict[str, Any]:
    """Write dlkit's splits for the other sides: uint8 images, class numbers."""
    import numpy as np

    from dlkit.data.images import load_images

    data = load_images("tfds:fashion_mnist", data_dir=job["data_dir"], download=False)
    arrays = {}
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        arrays |= {f"x_{name}": part.x, f"y_{name}": part.y}
    np.savez(job["arrays"], **arrays)
    return {}


def run(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run one side in a process of its own and return its line of JSON."""
    script = [torch_python(), TORCH_SCRIPT] if side == "torch" else [sys.executable, __file__]
    done = subprocess.run(
        [*map(str, script), json.dumps({"side": side, **job})],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{side} ended with status {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found:
        print(f"{side}: {found['test']:.4f}", file=sys.stderr)
    return found


def measure(data_dir: str, seconds: float, seeds: int) -> dict[str, Any]:
    """Train every side under every seed, the sides in turn."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        job = {"data_dir": data_dir, "seconds": seconds}
        job["arrays"] = str(Path(folder) / "arrays.npz")
        run("arrays", job)
        for seed in range(seeds):
            for side, found in runs.items():
                found.append(run(side, {**job, "seed": seed}))
    if runs["dlkit"][0]["parameters"] != runs["torch"][0]["parameters"]:
        raise SystemExit("the two speednets have different numbers of parameters")
    found = {
        side: {
            "parameters": tries[0]["parameters"],
            **{
                key: statistics.mean(each[key] for each in tries)
                for key in ("test", "test_views")
                if key in tries[0]
            },
            "epochs": statistics.mean(len(each["curve"]) for each in tries),
            "runs": tries,
        }
        for side, tries in runs.items()
    }
    return {"seconds": seconds, "seeds": seeds, "sides": found}


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw validation accuracy against seconds, one line a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for (side, label), colour in zip(SIDES.items(), ("C0", "C1", "C2"), strict=True):
        results = found["sides"][side]
        scored = f"test {results.get('test_views', results['test']):.4f}"
        for i, each in enumerate(results["runs"]):
            axes.plot(
                *zip(*each["curve"], strict=True),
                marker=".",
                color=colour,
                alpha=1 if i == 0 else 0.5,
                label=None if i else f"{label} ({scored})",
            )
    axes.set(
        xlabel="seconds of training, validation included",
        ylabel="accuracy on validation",
        title="Fashion-MNIST on the same CPU cores",
    )
    axes.set_ylim(0.84, 0.96)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="../shared/data/tfds")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    if not Path(given.data_dir).is_dir():
        parser.error(f"--data-dir: no folder {given.data_dir}")
    found = row(
        "speednet",
        f"{given.seconds:g} seconds",
        lambda: measure(given.data_dir, given.seconds, given.seeds),
        given.again,
    )
    for side, label in SIDES.items():
        results = found["sides"][side]
        views = f", {results['test_views']:.4f} with views" if "test_views" in results else ""
        print(f"{label:32} test {results['test']:.4f}{views}, {results['epochs']:.0f} epochs")
    draw(found, RESULTS / "speednet.png")


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        asked = json.loads(sys.argv[1])
        sides = {"dlkit": dlkit_side, "keras": keras_side, "arrays": save_arrays}
        print(json.dumps(sides[asked["side"]](asked)))
    else:
        main()
