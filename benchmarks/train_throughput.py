"""Images per second in training: dlkit against plain Keras `fit` and against PyTorch.

python benchmarks/train_throughput.py [--data-dir DIR] [--rows lenet resnet-20/torch ...] [--again]

LeNet-5 and ResNet-20 on the training split of Fashion-MNIST, float32, batches of 64, AdamW at a
constant rate, no augmentation but in the row that tells its cost. Each side is a process of its own
that waits on its standard input between measurements, so that no two thread pools work at once and
loading, tracing and the first epoch stay outside the clock. A row is one pairing with dlkit: both
sides are measured in turn, pair by pair, and the row keeps the ratio of each pair.

dlkit's figures include what its `fit` does for every user: the check of the loss, checkpoints, and
a validation after each epoch (here of one image; the peers validate nothing).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sides
from results_file import RESULTS, ROOT, row
from sides import Side, torch_python

TORCH_SCRIPT = ROOT / "benchmarks" / "peers" / "torch_throughput.py"

SETTINGS: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 2e-3,
    "weight_decay": 0.01,
    "seed": 0,
}
# Batches an epoch; None is the whole training split, which would take ResNet-20 a minute.
STEPS: dict[str, int | None] = {"lenet": None, "resnet-20": 96}
# Trained values, for images of one channel.
PARAMETERS = {"lenet": 61_706, "resnet-20": 269_434}


class Row(NamedTuple):
    """What dlkit is measured beside.

    Attributes:
        side: "keras", "torch" or "dlkit".
        variant: how that side does it.
        what: the same for a reader.
        compared: whether the headline may take it as the peer's best.
        pairs: at most so many pairs; fewer where a row only tells the size of something.
        nets: the nets that have it.
    """

    side: str
    variant: str
    what: str
    compared: bool = True
    pairs: int = 1000
    nets: tuple[str, ...] = tuple(STEPS)


ROWS = {
    "keras": Row("keras", "auto", "compile's defaults"),
    "keras-jit": Row("keras", "flipped", "the jit_compile that auto does not take", pairs=3),
    "keras-32": Row("keras", "steps32", "steps_per_execution=32", compared=False, pairs=3),
    "torch": Row("torch", "loader", "DataLoader(shuffle=True)"),
    "torch-fast": Row("torch", "batches-fused", "batches indexed whole, fused AdamW"),
    "torch-nhwc": Row("torch", "batches-fused-channelslast", "torch-fast, channels_last"),
    # At 32 x 32 the third convolution sees its whole input: a linear layer is the same function.
    "torch-linear": Row(
        "torch", "batches-fused-channelslast-linear", "torch-nhwc, C5 linear", nets=("lenet",)
    ),
    "torch-compile": Row(
        "torch", "batches-fused-channelslast-compiled", "torch-nhwc, torch.compile", pairs=3
    ),
    "augmented": Row("dlkit", "augmented", "dlkit's default augmentation", compared=False, pairs=3),
}


# The sides. Each tells its `Clock` when an epoch ends.


class Done(Exception):
    """Nobody asks for more measurements."""


class Clock:
    """Answers each line on standard input with one measurement of whole epochs."""

    def __init__(self, images: int, seconds: float, about: dict[str, Any]) -> None:
        self.images, self.seconds, self.about = images, seconds, about
        self.created, self.epochs, self.began = time.perf_counter(), -1, 0.0

    def epoch(self, logs: dict[str, Any]) -> None:
        """Note the end of an epoch; the first one is the warm-up.

        Raises:
            Done: standard input has ended.
        """
        now = time.perf_counter()
        self.epochs += 1
        if self.epochs and now - self.began < self.seconds:
            return
        if self.epochs:
            measured = {"images": self.images * self.epochs, "seconds": now - self.began}
            print(json.dumps(measured | {"loss": float(logs["loss"])}), flush=True)
        else:
            warmup = {"warmup_seconds": round(now - self.created, 2)}
            print(json.dumps(self.about | warmup), flush=True)
        if not sys.stdin.readline():
            raise Done
        self.epochs, self.began = 0, time.perf_counter()


def about_model(model: Any, **settings: Any) -> dict[str, Any]:
    """Say what a Keras side is made of."""
    import keras
    import tensorflow as tf

    return {
        "parameters": sum(int(v.numpy().size) for v in model.trainable_variables),
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "settings": {"jit_compile": bool(model.jit_compile), **settings},
    }


def dlkit_side(job: dict[str, Any]) -> None:
    """Train as `dlkit image-classification train` does: its data, builder, stream and `fit`."""
    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow()
    import keras
    import numpy as np

    from dlkit import models, optimizers, training
    from dlkit.data.augment import augment
    from dlkit.data.images import load_images
    from dlkit.data.policy import policy, written
    from dlkit.data.stream import eval_stream, train_stream

    data = load_images("tfds:fashion_mnist", data_dir=job["data_dir"], download=False)
    arrays = Path(job["arrays"])
    if not arrays.exists():
        # The peers start from the same values, standardised beforehand.
        pixels = data.train.x.astype(np.float32)
        parts = [data.preprocess(part).numpy() for part in np.array_split(pixels, 16)]
        np.savez(arrays, x=np.concatenate(parts), y=data.train.y)
    steps = job["steps"] or len(data.train) // job["batch_size"]
    rows = steps * job["batch_size"]
    changes = policy("auto" if job["variant"] == "augmented" else "none", data.kind)

    training.seed_everything(job["seed"])
    model = models.build("image-classification", job["net"], data.spec)
    options: dict[str, Any] = {"jit_compile": False}  # as the recipe has it
    model.compile(
        optimizer=optimizers.make_optimizer("adamw", job["learning_rate"], job["weight_decay"]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        **options,
    )

    def prepare(draw_seed: Any, rows: Any, x: Any, y: Any) -> tuple:
        return data.preprocess(augment(x, draw_seed, rows, changes)), y

    clock = Clock(
        rows, job["seconds"], {**about_model(model, augment=written(changes)), "steps": steps}
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Done):
        training.fit(
            model,
            lambda epoch, step: train_stream(
                (data.train.x[:rows], data.train.y[:rows]),
                prepare,
                batch_size=job["batch_size"],
                seed=job["seed"],
                epoch=epoch,
                step=step,
            ),
            eval_stream(
                (data.validation.x[:1], data.validation.y[:1]),
                lambda x, y: (data.preprocess(tf.cast(x, tf.float32)), y),
                batch_size=1,
            ),
            steps_per_epoch=steps,
            batch_size=job["batch_size"],
            epochs=10**6,
            time_limit=None,
            schedule="constant",
            learning_rate=job["learning_rate"],
            warmup=0,
            patience=None,
            monitor="accuracy",
            path=Path(folder) / "checkpoint.npz",
            on_epoch=lambda epoch, logs: clock.epoch(logs),
            quiet=True,
        )


def keras_side(job: dict[str, Any]) -> None:
    """Train with Keras alone, as its guides teach: arrays, `compile`, `fit`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np

    stored = np.load(job["arrays"])
    rows = job["steps"] * job["batch_size"]
    x, y = stored["x"][:rows], stored["y"][:rows]
    keras.utils.set_random_seed(job["seed"])
    model = {"lenet": keras_lenet, "resnet-20": keras_resnet_20}[job["net"]](keras)
    optimizer = keras.optimizers.AdamW(job["learning_rate"], weight_decay=job["weight_decay"])
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    options: dict[str, Any] = {}
    if job["variant"] == "steps32":
        options["steps_per_execution"] = 32
    if job["variant"] == "flipped":
        options["jit_compile"] = not model.jit_compile
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    clock = Clock(rows, job["seconds"], about_model(model))
    each = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: clock.epoch(logs))
    with contextlib.suppress(Done):
        model.fit(
            x,
            y,
            batch_size=job["batch_size"],
            epochs=10**6,
            shuffle=True,
            verbose=0,
            callbacks=[each],
        )


def keras_lenet(keras: Any) -> Any:
    """LeNet-5; "same" padding brings 28 x 28 to the 32 x 32 that the first convolution reads."""
    layers = keras.layers
    inputs = x = keras.Input((28, 28, 1))
    x = layers.Conv2D(6, 5, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(16, 5, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(120, 5, activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(84, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def keras_resnet_20(keras: Any) -> Any:
    """ResNet-20 of the CIFAR family, shortcuts without parameters."""
    layers = keras.layers

    def conv_norm(x: Any, filters: int, stride: int) -> Any:
        x = layers.Conv2D(
            filters, 3, stride, "same", use_bias=False, kernel_initializer="he_normal"
        )(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(conv_norm(inputs, 16, 1))
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if filters > 16 and block == 0 else 1
            y = layers.ReLU()(conv_norm(x, filters, stride))
            y = conv_norm(y, filters, 1)
            if stride > 1:
                new = filters - x.shape[-1]
                x = x[:, ::stride, ::stride, :]
                x = keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))
            x = layers.ReLU()(layers.add([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


# The measuring.


@contextlib.contextmanager
def started(side: str, job: dict[str, Any]) -> Iterator[Side]:
    """Start one side of a row, whose net must be the net."""
    script = [torch_python(), TORCH_SCRIPT] if side == "torch" else [sys.executable, __file__]
    name = f"{job['net']} {side} {job['variant']}"
    with sides.started(name, script, {"side": side, **job}) as process:
        if process.about["parameters"] != PARAMETERS[job["net"]]:
            raise SystemExit(f"{name} has {process.about['parameters']} parameters")
        yield process


def rate(measured: dict[str, Any]) -> float:
    return measured["images"] / measured["seconds"]


def measure(name: str, dlkit: Side, job: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Measure dlkit and the row's side in turn; which goes first alternates."""
    side, variant, what, compared, most, _ = ROWS[name]
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    with started(side, {**job, "steps": dlkit.about["steps"], "variant": variant}) as other:
        for pair in range(min(pairs, most)):
            turns = [(dlkit, ours), (other, theirs)]
            for process, kept in turns if pair % 2 == 0 else turns[::-1]:
                kept.append(process.measure())
    ratios = [rate(a) / rate(b) for a, b in zip(ours, theirs, strict=True)]
    return {
        "what": what,
        "compared": compared,
        "images_per_second": round(statistics.median(map(rate, theirs))),
        "dlkit_images_per_second": round(statistics.median(map(rate, ours))),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "pairs": [[round(rate(a)), round(rate(b))] for a, b in zip(ours, theirs, strict=True)],
        "seconds": round(sum(m["seconds"] for m in ours + theirs), 1),
        "loss": {"dlkit": round(ours[-1]["loss"], 4), "other": round(theirs[-1]["loss"], 4)},
        "settings": {k: job[k] for k in SETTINGS} | {"steps_per_epoch": dlkit.about["steps"]},
        "seed": job["seed"],
        "dlkit": dlkit.about,
        "other": other.about,
    }


def table(rows: dict[str, Any]) -> str:
    """Lay the rows out, with dlkit's ratio to each, and the headline of each net."""
    lines = [f"{'':24}{'images/s':>9}{'dlkit':>9}{'ratio':>8}  range"]
    for key, found in rows.items():
        if found is None:
            lines.append(f"{key:24}  not run")
            continue
        low, high = found["ratio_range"]
        settings = ", ".join(f"{k}={v}" for k, v in found["other"]["settings"].items())
        lines.append(
            f"{key:24}{found['images_per_second']:>9,}{found['dlkit_images_per_second']:>9,}"
            f"{found['ratio']:>8.3f}  {low:.3f}-{high:.3f}  {found['what']} ({settings})"
        )
    for net in STEPS:
        for side, peer in (("keras", "Keras"), ("torch", "PyTorch")):
            keys = [f"{net}/{n}" for n, r in ROWS.items() if r.side == side and r.compared]
            # The peer at its best is the row where dlkit does worst.
            worst = min(
                (k for k in keys if rows.get(k)), key=lambda k: rows[k]["ratio"], default=""
            )
            if worst:
                lines.append(
                    f"{net}: dlkit trains at {rows[worst]['ratio']:.3f} of {peer} ({worst})"
                )
        if augmented := rows.get(f"{net}/augmented"):
            each = 1e6 / augmented["images_per_second"]
            cost = each * (1 - 1 / augmented["ratio"])
            lines.append(f"{net}: augmentation costs {cost:.1f} us an image, {cost / each:.1%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="../shared/data/tfds", help="tfds folder")
    parser.add_argument("--pairs", type=int, default=5, help="measurements of each side in a row")
    parser.add_argument("--seconds", type=float, default=2.0, help="least length of a measurement")
    parser.add_argument("--again", action="store_true", help="measure what is there already too")
    parser.add_argument("--rows", nargs="+", default=[], help="NET, ROW or NET/ROW; default all")
    given = parser.parse_args()
    keys = {
        f"{net}/{name}": (net, name) for net in STEPS for name, r in ROWS.items() if net in r.nets
    }
    accepted = sorted({*keys, *STEPS, *ROWS})
    for word in given.rows:
        if word not in accepted:
            parser.error(f"--rows: no row '{word}'; accepted: {', '.join(accepted)}")
    if not Path(given.data_dir).is_dir():
        parser.error(f"--data-dir: no folder {given.data_dir}")
    rows: dict[str, Any] = dict.fromkeys(keys)
    file = RESULTS / "train_throughput.json"
    if file.exists():
        rows |= {k: v for k, v in json.loads(file.read_text()).items() if k in keys}
    with tempfile.TemporaryDirectory() as folder:
        job = {**SETTINGS, "seconds": given.seconds, "data_dir": given.data_dir}
        job["arrays"] = str(Path(folder) / "arrays.npz")
        for net, steps in STEPS.items():
            work = {**job, "net": net, "steps": steps}
            with contextlib.ExitStack() as stack:

                @functools.cache
                def dlkit(stack: Any = stack, work: Any = work) -> Side:
                    return stack.enter_context(started("dlkit", {**work, "variant": "plain"}))

                for key, (of, name) in keys.items():
                    if of != net or (given.rows and not {key, net, name} & set(given.rows)):
                        continue
                    rows[key] = row(
                        "train_throughput",
                        key,
                        lambda n=name, w=work, d=dlkit: measure(n, d(), w, given.pairs),
                        given.again,
                    )
                    print(f"{key}: dlkit at {rows[key]['ratio']:.3f} of it", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        asked = json.loads(sys.argv[1])
        {"dlkit": dlkit_side, "keras": keras_side}[asked["side"]](asked)
    else:
        main()
