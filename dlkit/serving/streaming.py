"""Texts of a served model, token by token: what is drawn, and what of it may be shown."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlkit.runtime import load_tensorflow
from dlkit.serving.model import ServedModel, Signature
from dlkit.serving.service import Service
from dlkit.serving.tensors import TensorSpec

# What is given for each row beside the endpoint's own inputs; see `dlkit.drawing.choose`.
DRAW = {
    "seed": np.dtype(np.int32),
    "place": np.dtype(np.int32),
    "temperature": np.dtype(np.float32),
    "top_k": np.dtype(np.int32),
    "top_p": np.dtype(np.float32),
    "min_p": np.dtype(np.float32),
}
BROKEN = "\ufffd"


class Sampled(NamedTuple):
    """How a text is drawn; see `dlkit.drawing.Sampling`. `seed` lies in [0, 2**31)."""

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class Drawn(NamedTuple):
    """A token, and the logits that it was drawn from, float32 `(vocabulary,)`."""

    token: int
    logits: np.ndarray


class TextModel:
    """A served text generator, with its tokenizer.

    Args:
        model: one for which `is_text` holds.
    """

    def __init__(self, model: ServedModel) -> None:
        from dlkit.data.tokenizers import from_json

        assert model.manifest is not None and model.tokenizer is not None
        self.tokenizer = from_json(json.loads(model.tokenizer))
        self.start: int = model.manifest["start"]
        self.context: int | None = model.manifest["context"]
        self.limit: int | None = model.manifest["limit"]
        endpoints = {name: drawing(model.signatures[name]) for name in ("prefill", "step")}
        self.model = dataclasses.replace(model, signatures=endpoints)

    def encode(self, prompt: str) -> list[int]:
        """Return a prompt's tokens; characters that have none are left out."""
        return self.tokenizer.encode(prompt, "drop").tolist()

    async def draw(
        self, service: Service, prompt: Sequence[int], count: int, how: Sampled
    ) -> AsyncGenerator[Drawn, None]:
        """Yield the next tokens, each as it is asked for.

        The same seed gives what `dlkit text-generation generate` and the export's
        `serving_default` give, but for the rounding of rows that are run together.

        Args:
            service: whose queue every step goes through, beside those of other texts.
            prompt: its tokens. Of a long one the last part counts, of none the start token.
            count: at least 0.
            how: the draw.
        Raises:
            RequestError: see `Service.submit`.
        """
        if not count:
            return
        history = list(prompt) or [self.start]
        found = await self._begin(service, history[-(self.context or 0) :], 0, how)
        for place in range(count):
            token = int(found["token"][0])
            yield Drawn(token, found["logits"][0])
            if place + 1 == count:
                return
            history.append(token)
            if self.limit is not None and int(found["state_00"][0]) >= self.limit:
                # Learned positions end: on from the last half of them, as `dlkit.generation`.
                last = history[-max(1, self.limit // 2) :]
                found = await self._begin(service, last, place + 1, how)
                continue
            state = {name: value for name, value in found.items() if name.startswith("state_")}
            inputs = {"token": np.array([token], np.int32), **state}
            found = await service.answer(self.model, "step", inputs | told(how, place + 1))

    async def _begin(
        self, service: Service, tokens: Sequence[int], place: int, how: Sampled
    ) -> dict[str, np.ndarray]:
        inputs = {
            "tokens": np.array([tokens], np.int32),
            "lengths": np.array([len(tokens)], np.int32),
        }
        return await service.answer(self.model, "prefill", inputs | told(how, place))


def is_text(model: ServedModel) -> bool:
    """Say whether a model goes on with text, token by token."""
    return model.tokenizer is not None and {"prefill", "step"} <= model.signatures.keys()


def told(how: Sampled, place: int) -> dict[str, np.ndarray]:
    """Return the inputs in `DRAW` of one row."""
    values = {**how._asdict(), "place": place}
    return {name: np.array([values[name]], dtype) for name, dtype in DRAW.items()}


def drawing(endpoint: Signature) -> Signature:
    """Return an endpoint that also takes `DRAW` and gives `token` int32 `(b,)`, drawn from `logits`.

    A step and its draw are one job of the queue, and rows of several texts are drawn together.
    """

    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: value for name, value in arrays.items() if name not in DRAW}
        found = endpoint.run(given)
        draw = {name: arrays[name] for name in DRAW}
        return found | {"token": chooser()(found["logits"], **draw)}

    row = {
        name: TensorSpec("float" if dtype.kind == "f" else "int32", (None,))
        for name, dtype in DRAW.items()
    }
    outputs = endpoint.outputs | {"token": TensorSpec("int32", (None,))}
    return dataclasses.replace(endpoint, inputs=endpoint.inputs | row, outputs=outputs, run=run)


@functools.cache
def chooser() -> Callable[..., np.ndarray]:
    """Return `dlkit.drawing.choose` on arrays, traced once for all models."""
    tf = load_tensorflow()
    from dlkit.drawing import Sampling, choose

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None), tf.float32),
            *(tf.TensorSpec((None,), tf.as_dtype(dtype)) for dtype in DRAW.values()),
        ]
    )
    def draw(
        logits: Any, seed: Any, place: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any
    ) -> Any:
        return choose(logits, seed, place, Sampling(temperature, top_k, top_p, min_p))

    def on_arrays(logits: np.ndarray, **how: np.ndarray) -> np.ndarray:
        return draw(tf.constant(logits), *(tf.constant(how[name]) for name in DRAW)).numpy()

    return on_arrays


class Unfolding:
    """A text that grows by tokens: no character is shown in parts, and no beginning of a stop.

    Args:
        tokenizer: of the tokens.
        stops: strings before the first of which the text ends; none empty.

    Attributes:
        text: whole characters so far, cut before a stop.
        stopped: a stop was met; nothing more is to be added.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self.text, self.stopped = "", False
        self._settled = ""  # of tokens that end with a character
        self._pending: list[int] = []
        self._shown = 0
        self._longest = max(map(len, self.stops), default=0)

    def add(self, token: int) -> None:
        """Take the next token."""
        self._pending.append(token)
        piece = self.tokenizer.decode(self._pending)
        whole = piece.rstrip(BROKEN)
        before, self.text = len(self.text), self._settled + whole
        if len(whole) == len(piece):
            self._settled, self._pending = self.text, []
        # No stop was there before: one must reach into what is new.
        start = max(0, before - self._longest + 1)
        found = [at for stop in self.stops if (at := self.text.find(stop, start)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def end(self) -> None:
        """Take nothing more: half a character becomes U+FFFD, as in a text decoded whole."""
        if not self.stopped:
            self.text = self._settled + self.tokenizer.decode(self._pending)
            self.stopped = True

    def fresh(self) -> str:
        """Return what can be shown by now and was not yet."""
        held = 0 if self.stopped else max((overlap(self.text, s) for s in self.stops), default=0)
        begin, self._shown = self._shown, max(self._shown, len(self.text) - held)
        return self.text[begin : self._shown]

    @property
    def shown(self) -> int:
        """Number of characters that `fresh` has given."""
        return self._shown


def overlap(text: str, stop: str) -> int:
    """Return how long an end of the text is a beginning of the stop."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
