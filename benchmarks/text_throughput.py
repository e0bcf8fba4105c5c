"""Language models against Keras and PyTorch: training steps, and generation with and without cache.

python benchmarks/text_throughput.py [--pairs 5] [--seconds 4] [--rows gpt/torch ...] [--again]

`gpt` is nanoGPT's CPU configuration (4 blocks, 4 heads, width 128, context 64, batch 12, no
dropout), `lstm` has two layers of 256 units, batch 32, 128 steps; float32 but where a row says
otherwise, AdamW, gradients clipped, a vocabulary of 65. dlkit trains through the loop that `fit`
runs, stream of windows and schedule included; the peers train on one batch again and again.
`generate` is 512 tokens of one text at nanoGPT's CPU configuration and a context of 512.

Each side is a process of its own; both are measured in turn, pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import sides
from results_file import RESULTS, ROOT, row

TORCH = ROOT / "benchmarks" / "peers" / "torch_text.py"
VOCABULARY, CHUNK = 65, 10
GPT = {"net": "gpt", "depth": 4, "heads": 4, "dim": 128, "context": 64, "batch": 12}
LSTM = {"net": "lstm", "depth": 2, "units": 256, "embedding": 128, "context": 128, "batch": 32}
LONG = {**GPT, "context": 512, "batch": 1, "work": "generate", "tokens": 512}


class Row(NamedTuple):
    """A pairing: what both do, the other side, what is asked of the ratio, and dlkit's own way."""

    job: dict[str, Any]
    other: str
    asked: float
    ours: dict[str, Any] = {}  # noqa: RUF012


ROWS = {
    "gpt/torch": Row(GPT, "torch", 1.0),
    "gpt-bfloat16/torch": Row(GPT, "torch", 1.0, {"precision": "bfloat16"}),
    "lstm/keras": Row(LSTM, "keras", 1.5),
    "lstm/torch": Row(LSTM, "torch", 0.9),
    "generate/uncached": Row(LONG, "uncached", 5.0),
    "generate/torch": Row(LONG, "torch", 5.0),
}


def dlkit_model(job: dict[str, Any]) -> Any:
    """Build the job's net."""
    from dlkit import models, training
    from dlkit.data import Spec

    training.seed_everything(0)
    spec = Spec((job["context"],), VOCABULARY, dtype="int32")
    if job["net"] == "lstm":
        params = {"depth": job["depth"], "units": job["units"], "embedding_dim": job["embedding"]}
        return models.build("text-generation", "lstm", spec, params)
    params = {name: job[name] for name in ("depth", "heads", "dim")}
    return models.build("text-generation", "transformer-nanogpt-cpu", spec, params)


def train(job: dict[str, Any]) -> None:
    """Measure training steps of dlkit."""
    import keras
    import numpy as np
    import tensorflow as tf

    from dlkit import optimizers, steps
    from dlkit.data.windows import lane_stream, window_stream

    model = dlkit_model(job)
    model.compile(
        optimizer=optimizers.make_optimizer("adamw", 1e-3, 0.1, 1.0, 0.99),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 1_000_000).astype(np.uint8)
    if job["net"] == "lstm":
        model.carry(job["batch"])
    made = lane_stream if job["net"] == "lstm" else window_stream
    stream = made(
        tokens,
        context_length=job["context"],
        batch_size=job["batch"],
        steps_per_epoch=1000,
        seed=0,
    )
    model.test_on_batch(tokens[None, :8].astype(np.int32), tokens[None, 1:9].astype(np.int32))
    batches = iter(stream)
    loop = steps.train_loop(
        model,
        schedule="cosine",
        learning_rate=1e-3,
        warmup=100,
        averages=[],
        ema=None,
        micro_batch=None,
        steps_per_epoch=1000,
        precision=job.get("precision", "float32"),
        compiled=job["net"] == "gpt",
    )
    line = tf.constant((0.0, 1.0, 1e6, 1.0), tf.float64)
    at = 0

    def work() -> None:
        nonlocal at
        loop(batches, tf.constant(CHUNK, tf.int64), tf.constant(at, tf.int64), line)
        at += CHUNK

    sides.answer(work, job["seconds"], about(model), CHUNK)


def keras_lstm(job: dict[str, Any]) -> None:
    """Measure training steps of `keras.layers.LSTM`."""
    import keras
    import numpy as np
    import tensorflow as tf

    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, job["embedding"])(tokens)
    for _ in range(job["depth"]):
        x = keras.layers.LSTM(job["units"], return_sequences=True)(x)
    model = keras.Model(tokens, keras.layers.Dense(VOCABULARY)(x))
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=0.1, beta_2=0.99, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    drawn = np.random.default_rng(0).integers(0, VOCABULARY, (job["batch"], job["context"] + 1))
    x, y = tf.constant(drawn[:, :-1], tf.int32), tf.constant(drawn[:, 1:], tf.int32)
    model.test_on_batch(x, y)
    model.optimizer.build(model.trainable_variables)

    @tf.function
    def loop() -> None:
        for _ in tf.range(CHUNK):
            model.train_step((x, y))

    sides.answer(loop, job["seconds"], about(model), CHUNK)


def generating(job: dict[str, Any]) -> None:
    """Measure texts: with the cache, in one graph, or the whole context again for each token."""
    import tensorflow as tf

    from dlkit.drawing import Sampling, choose
    from dlkit.generation import generate

    model = dlkit_model(job)
    sampling = Sampling(*(tf.constant([v]) for v in (0.8, 0, 1.0, 0.0)))
    one, prompt = tf.constant([1]), tf.constant([[0]])
    count = job["tokens"]

    @tf.function
    def cached() -> Any:
        return generate(model, prompt, one, tf.constant([count]), one, sampling)

    @tf.function
    def uncached() -> Any:
        row = prompt
        for i in tf.range(count):
            tf.autograph.experimental.set_loop_options(
                shape_invariants=[(row, tf.TensorShape([1, None]))]
            )
            logits = model(row[:, -job["context"] :], training=False)[:, -1]
            row = tf.concat([row, choose(logits, one, i[None], sampling)[:, None]], 1)
        return row

    way = uncached if job.get("uncached") else cached
    sides.answer(lambda: way(), job["seconds"], about(model), 1)


def about(model: Any) -> dict[str, Any]:
    """Say what a side is made of."""
    import keras
    import tensorflow as tf

    return {
        "parameters": sum(int(v.numpy().size) for v in model.trainable_variables),
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
    }


def measure(what: Row, pairs: int, seconds: float) -> dict[str, Any]:
    """Measure one row."""
    job = {"work": "train", "vocabulary": VOCABULARY, "seconds": seconds, **what.job}
    here = [sys.executable, __file__]
    theirs = job
    script: list[Any] = here
    if what.other == "torch":
        script = [sides.torch_python(), TORCH]
    elif what.other == "keras":
        theirs = {**job, "work": "keras-lstm"}
    else:
        theirs = {**job, "uncached": True}
    with (
        sides.started("dlkit", here, {**job, **what.ours}) as ours,
        sides.started(what.other, script, theirs) as other,
    ):
        found = sides.in_turn(ours, other, pairs)
    return {"asked": what.asked, **found, "job": {**what.job, **what.ours}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    for name in given.rows:
        found = row(
            "text_throughput",
            name,
            lambda n=name: measure(ROWS[n], given.pairs, given.seconds),
            given.again,
        )
        low, high = found["ratio_range"]
        print(
            f"{name:22} {found['ratio']:.2f} [{low:.2f}, {high:.2f}], asked {found['asked']}; "
            f"{found['ours_per_second']} against {found['theirs_per_second']} a second",
            flush=True,
        )
    kept = json.loads((RESULTS / "text_throughput.json").read_text())
    for name in ROWS:
        if name not in kept:
            print(f"{name:22} not run")


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        asked = json.loads(sys.argv[1])
        {"train": train, "keras-lstm": keras_lstm, "generate": generating}[asked["work"]](asked)
    else:
        main()
