"""What a training run of a language model is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dlkit.options import option

TASK = "text-generation"
DEFAULT_MODEL = "transformer"
DEFAULT_STEPS = 500
# Models whose layers carry a state from one batch to the next are trained on lanes of the text.
RECURRENT = ("gru", "lstm", "simple-rnn")
# Width and heads of the transformer's variants, as `dlkit.models.transformer.VARIANTS` has them: that
# file needs Keras, and what does not fit is told before it is loaded.
SIZES = {"base": (128, 4), "nanogpt-cpu": (128, 4), "nanogpt-gpu": (384, 6)}

_LANES = {"batch_size": 32, "context_length": 128}
# Where a model trains better otherwise than by the defaults; chosen on validation. The nanoGPT ones
# are its own: README ("I only have a macbook") and config/train_shakespeare_char.py.
PRESETS: dict[str, dict[str, Any]] = {
    "gru": _LANES,
    "lstm": _LANES,
    "simple-rnn": _LANES,
    "transformer": {"optimizer": "muon", "learning_rate": 5e-3, "batch_size": 12},
    "transformer-nanogpt-cpu": {
        "optimizer": "adamw",
        "context_length": 64,
        "batch_size": 12,
        "steps": 2000,
        "learning_rate": 1e-3,
        "beta_2": 0.99,
        "weight_decay": 0.1,
        "warmup": 100,
    },
    "transformer-nanogpt-gpu": {
        "optimizer": "adamw",
        "context_length": 256,
        "batch_size": 64,
        "steps": 5000,
        "learning_rate": 1e-3,
        "beta_2": 0.99,
        "weight_decay": 0.1,
        "warmup": 100,
    },
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a training run is made from; the resolved values are saved with it."""

    data: str = option("pydoc", "pydoc, a text file, a folder of them, .jsonl, .csv, or tfds:NAME.")
    field: str | None = option(None, "Field of .jsonl, column of .csv, feature of tfds:NAME.")
    data_dir: str | None = option(None, "Folder of tensorflow-datasets.", metavar="DIR")
    download: bool = option(True, "Let tensorflow-datasets download what is missing.")
    split: str = option(
        "90/5/5", "Per cent of train, validation and test, by position; 90/10 has no test."
    )
    tokenizer: str = option("char", "What a token is.", choices=("char", "byte", "bpe"))
    vocabulary: int | None = option(
        None, "Tokens of bpe.", minimum=257, maximum=65536, shown="1024"
    )
    context_length: int = option(
        128, "Tokens a transformer sees at once; steps a gradient goes back in others.", minimum=2
    )
    model: str = option(DEFAULT_MODEL, "A name from `dlkit models`, or package.module:function.")
    params: dict = option({}, "A parameter of the model; may be repeated.")
    seed: int = option(0, "Seed of weights, order, dropout.", minimum=0, maximum=2**31 - 1)
    epochs: float | None = option(None, "Most passes over the training text.", above=0)
    steps: int | None = option(
        None, "Most steps.", minimum=1, shown=f"{DEFAULT_STEPS}, or as the time limit allows"
    )
    time_limit: float | None = option(
        None, "Time to train and validate in, such as 10m.", duration=True, metavar="TIME"
    )
    eval_every: int = option(250, "Steps between looks at the validation text.", minimum=1)
    batch_size: int = option(32, "Rows a step.", minimum=1)
    micro_batch: int | None = option(
        None,
        "Most rows in memory at once; gradients of a step are accumulated.",
        minimum=1,
        shown="a whole batch, halved where memory runs out",
    )
    precision: str = option(
        "float32",
        "What the layers compute in while training; weights and answers stay float32.",
        choices=("float32", "bfloat16"),
    )
    optimizer: str = option("adamw", "Optimiser.", choices=("adamw", "muon", "rmsprop", "sgd"))
    learning_rate: float | None = option(
        None, "Peak learning rate.", above=0, shown="2e-3; rmsprop 1e-3, sgd 0.05"
    )
    beta_2: float = option(0.99, "Decay of AdamW's second moments, a step.", above=0, below=1)
    schedule: str = option(
        "cosine",
        "How the rate falls to zero.",
        choices=("cosine", "linear", "one-cycle", "constant"),
    )
    warmup: int = option(100, "Steps over which the rate rises.", minimum=0)
    weight_decay: float = option(0.1, "Decoupled decay of matrices.", minimum=0)
    clip_norm: float | None = option(1.0, "Largest norm of the gradient.", above=0)
    ema: float | None = option(
        None,
        "Decay a step of the weights' moving average, which is then the model.",
        above=0,
        below=1,
    )
    patience: int | None = option(
        None,
        "Looks without a lower validation loss before training ends.",
        minimum=1,
        shown="never",
    )
    monitor_gradients: bool = option(
        False,
        "Record each layer's gradient and activation, and say whether they vanish or explode.",
    )
    sample_prompt: str = option("", "What the samples in the report go on from.")
    deterministic: bool = option(False, "Forbid ops that are not deterministic; for GPUs.")

    @staticmethod
    def presets(values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of the model."""
        return PRESETS.get(values.get("model", DEFAULT_MODEL), {})


def load(config: Config) -> Any:
    """Load the config's text."""
    from dlkit.data.text import load_text

    return load_text(
        config.data,
        tokenizer=config.tokenizer,
        vocabulary=config.vocabulary,
        split=config.split,
        field=config.field,
        context_length=config.context_length,
        data_dir=config.data_dir,
        download=config.download,
    )
