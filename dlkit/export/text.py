"""Endpoints of a text generator."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.drawing import Sampling
from dlkit.generation import generate, prefill, step
from dlkit.models.causal import initial_state

# Longest text that is scored at once by a model without a context of its own.
CHUNK = 1024


def context_of(model: keras.Model) -> int | None:
    """Return how many tokens a model sees at once; None for any number."""
    lengths = [layer.length for layer in model.layers if hasattr(layer, "length")]
    return min(lengths) if lengths else None


class TextGenerator(tf.Module):
    """Text in, text out; for a BPE tokeniser, whose merges no graph holds, tokens in and out.

    `serving_default` takes `prompt` string `(b,)`, UTF-8 (for BPE `tokens` int32 `(b, t)` and
    `lengths` int32 `(b,)`), `max_tokens`, `top_k`, `seed` int32 `(b,)`, `temperature`, `top_p`
    float32 `(b,)`; see `dlkit.drawing.Sampling`. It gives `text` string `(b,)` (not for BPE), what
    follows the prompt; `tokens` int32 `(b, n)`, -1 behind a row's last; and `log_probability`
    float32 `(b,)`, in nats, of those tokens under the model itself.
    Characters that the vocabulary lacks are left out of a prompt; one longer than the context keeps
    its last part; an empty one goes on from the tokeniser's start token.

    `score` takes `text` string `(b,)` (for BPE `tokens` and `lengths`) and gives `log_probability`
    float32 `(b, n)`, of each token after those before it, the first after the start token; 0 behind
    a row's last.

    `prefill` takes `tokens` int32 `(b, t)` and `lengths` int32 `(b,)`; `step` takes `token` int32
    `(b,)` and the state. Both give `logits` float32 `(b, vocabulary)` and the state: `state_00`, the
    number of tokens, int32 `(b,)`, and float32 tensors of the model's own.
    """

    def __init__(self, model: keras.Model, tokenizer: Any, start: int) -> None:
        super().__init__()
        self.model_variables = [v.value for v in model.variables]
        self.start = start
        context = context_of(model)
        textual = tokenizer.kind in ("char", "byte")

        def named(logits: Any, state: list[Any]) -> dict[str, Any]:
            return {"logits": logits, **{f"state_{i:02}": s for i, s in enumerate(state)}}

        def answer(
            tokens: Any, lengths: Any, max_tokens: Any, top_k: Any, seed: Any, *shares: Any
        ) -> dict[str, tf.Tensor]:
            tokens, lengths = self._begun(tokens, lengths, context)
            temperature, top_p = shares
            sampling = Sampling(temperature, top_k, top_p, tf.zeros_like(top_p))
            drawn, total = generate(model, tokens, lengths, max_tokens, seed, sampling)
            found = {"tokens": drawn, "log_probability": total}
            return {"text": decoded(drawn, tokenizer), **found} if textual else found

        def scored(tokens: Any, lengths: Any) -> dict[str, tf.Tensor]:
            before = tf.concat([tf.fill((tf.shape(tokens)[0], 1), start), tokens[:, :-1]], 1)
            found = log_probabilities(model, before, tokens, context)
            return {
                "log_probability": found
                * tf.sequence_mask(lengths, tf.shape(tokens)[1], found.dtype)
            }

        numbers = [
            tf.TensorSpec((None,), dtype, name)
            for name, dtype in (
                ("max_tokens", tf.int32),
                ("top_k", tf.int32),
                ("seed", tf.int32),
                ("temperature", tf.float32),
                ("top_p", tf.float32),
            )
        ]
        ids = [
            tf.TensorSpec((None, None), tf.int32, "tokens"),
            tf.TensorSpec((None,), tf.int32, "lengths"),
        ]
        if textual:
            prompts = [tf.TensorSpec((None,), tf.string, "prompt")]
            texts = [tf.TensorSpec((None,), tf.string, "text")]
            self.complete = tf.function(
                lambda prompt, *rest: answer(*encoded(prompt, tokenizer), *rest),
                input_signature=[*prompts, *numbers],
            )
            self.score = tf.function(
                lambda text: scored(*encoded(text, tokenizer)), input_signature=texts
            )
        else:
            self.complete = tf.function(answer, input_signature=[*ids, *numbers])
            self.score = tf.function(scored, input_signature=ids)
        self.prefill = tf.function(
            lambda tokens, lengths: named(*prefill(model, tokens, lengths)), input_signature=ids
        )
        states = [
            tf.TensorSpec((None, *s.shape[1:]), s.dtype, f"state_{i:02}")
            for i, s in enumerate(initial_state(model, 1))
        ]
        self.step = tf.function(
            lambda token, *state: named(*step(model, token, list(state))),
            input_signature=[tf.TensorSpec((None,), tf.int32, "token"), *states],
        )

    def _begun(self, tokens: Any, lengths: Any, context: int | None) -> tuple[Any, Any]:
        """Give rows without a token the start token, and cut rows to their last `context`."""
        empty = lengths < 1
        tokens = tf.pad(tokens, ((0, 0), (0, 1)))  # an empty batch of prompts has no column
        tokens = tf.where(empty[:, None], self.start, tokens)
        lengths = tf.maximum(lengths, 1)
        width = tf.reduce_max(lengths)
        if context is not None:
            width = tf.minimum(width, context)
        first = tf.maximum(lengths - width, 0)
        at = first[:, None] + tf.range(width)[None]
        tokens = tf.gather(tokens, tf.minimum(at, tf.shape(tokens)[1] - 1), batch_dims=1)
        return tokens, tf.minimum(lengths, width)

    def signatures(self) -> dict[str, Any]:
        """Return the concrete function of each endpoint."""
        return {
            "serving_default": self.complete.get_concrete_function(),
            "score": self.score.get_concrete_function(),
            "prefill": self.prefill.get_concrete_function(),
            "step": self.step.get_concrete_function(),
        }


def encoded(text: Any, tokenizer: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the tokens of strings `(b,)`: int32 `(b, t)` and their lengths `(b,)`, in a graph."""
    if tokenizer.kind == "byte":
        lengths = tf.strings.length(text)
        longest = tf.maximum(1, tf.reduce_max(lengths))
        padded = tf.strings.reduce_join(
            [text, tf.fill(tf.shape(text), "\0" * 1)], axis=0
        )  # decoding takes no empty string
        raw = tf.io.decode_raw(padded, tf.uint8, fixed_length=longest + 1)
        return tf.cast(raw[:, :-1], tf.int32), lengths
    known = tf.constant(tokenizer.code_points, tf.int32)
    points = tf.strings.unicode_decode(text, "UTF-8")
    at = tf.searchsorted(known, points.flat_values)
    at = tf.minimum(at, len(tokenizer.code_points) - 1)
    there = tf.gather(known, at) == points.flat_values
    tokens = tf.ragged.boolean_mask(points.with_flat_values(at), points.with_flat_values(there))
    return tf.cast(tokens.to_tensor(), tf.int32), tf.cast(tokens.row_lengths(), tf.int32)


def decoded(tokens: Any, tokenizer: Any) -> tf.Tensor:
    """Return tokens int32 `(b, n)`, -1 left out, as strings `(b,)`, in a graph."""
    there = tokens >= 0
    if tokenizer.kind == "byte":
        table = tf.constant([bytes([i]) for i in range(256)] + [b""])
        raw = tf.strings.reduce_join(tf.gather(table, tf.where(there, tokens, 256)), axis=1)
        return tf.strings.unicode_transcode(raw, "UTF-8", "UTF-8", errors="replace")
    known = tf.constant(tokenizer.code_points, tf.int32)
    kept = tf.ragged.boolean_mask(tf.gather(known, tf.maximum(tokens, 0)), there)
    return tf.strings.unicode_encode(kept, "UTF-8")


def log_probabilities(
    model: keras.Model, tokens: Any, targets: Any, context: int | None
) -> tf.Tensor:
    """Return the log-probability of each target after its tokens, float32 `(b, t)`, in a graph.

    A text longer than the context is scored in windows that overlap by half; each token is taken
    from the window that shows it more.
    """
    if context is None or context < 2:
        return _chosen(model(tokens, training=False), targets)
    half = context // 2
    batch, length = tf.shape(tokens)[0], tf.shape(tokens)[1]
    # Windows start at every half; the first half of each but the first is only looked at.
    windows = tf.maximum(1, (length + half - 1) // half - 1)
    wide = (windows + 1) * half
    at = tf.range(windows)[:, None] * half + tf.range(2 * half)[None]

    def framed(rows: Any) -> Any:
        rows = tf.concat([rows, tf.zeros((batch, wide - length), rows.dtype)], 1)
        return tf.reshape(tf.gather(rows, at, axis=1), (-1, 2 * half))

    found = _chosen(model(framed(tokens), training=False), framed(targets))
    found = tf.reshape(found, (batch, windows, 2 * half))
    rest = tf.reshape(found[:, 1:, half:], (batch, -1))
    return tf.concat([found[:, 0], rest], 1)[:, :length]


def _chosen(logits: Any, targets: Any) -> tf.Tensor:
    return tf.gather(tf.nn.log_softmax(logits), targets, batch_dims=2)


def requests_and_answers(
    model: keras.Model, tokenizer: Any, start: int, texts: list[str], max_tokens: int = 24
) -> tuple[dict, dict]:
    """Return held-out requests for each endpoint, and the trained model's own answers to them.

    The answers go through the tokeniser itself, not through its graph.

    Args:
        texts: pieces of held-out text: their first halves are prompts, all of them are scored.
    """
    context = context_of(model)
    rows = [tokenizer.encode(text) for text in texts]
    prompts = [tokenizer.encode(text[: max(1, len(text) // 2)]) for text in texts]
    count = len(texts)
    numbers = {
        "max_tokens": np.full(count, max_tokens, np.int32),
        "top_k": np.array([0, 1, 5, 0][:count] + [0] * (count - 4), np.int32),
        "seed": np.arange(count, dtype=np.int32),
        "temperature": np.array([1.0, 1.0, 0.8, 0.5][:count] + [1.0] * (count - 4), np.float32),
        "top_p": np.array([1.0, 1.0, 1.0, 0.9][:count] + [1.0] * (count - 4), np.float32),
    }
    drawn, totals = [], []
    run: Any = tf.function(
        lambda tokens, lengths, most, seed, *how: generate(
            model, tokens, lengths, most, seed, Sampling(*how)
        )
    )
    for i, prompt in enumerate(prompts):
        kept = prompt[-context:] if context else prompt
        row = {name: tf.constant(value[i : i + 1]) for name, value in numbers.items()}
        sampling = (row["temperature"], row["top_k"], row["top_p"], tf.zeros(1))
        tokens, total = run(
            tf.constant(kept[None], tf.int32),
            tf.constant([len(kept)], tf.int32),
            row["max_tokens"],
            row["seed"],
            *sampling,
        )
        drawn.append(tokens.numpy()[0])
        totals.append(total.numpy()[0])
    scores = np.zeros((count, max(map(len, rows))), np.float32)
    for i, row in enumerate(rows):
        before = np.concatenate([[start], row[:-1]]).astype(np.int32)[None]
        found = log_probabilities(
            model, tf.constant(before), tf.constant(row[None], tf.int32), context
        )
        scores[i, : len(row)] = found.numpy()[0]
    lengths = np.array(list(map(len, prompts)), np.int32)
    padded = np.zeros((count, int(lengths.max())), np.int32)
    for i, prompt in enumerate(prompts):
        padded[i, : len(prompt)] = prompt
    answers = {"tokens": np.array(drawn), "log_probability": np.array(totals)}
    first = {"tokens": padded, "lengths": lengths}
    if context:
        first["tokens"] = padded[:, :context]
        first["lengths"] = np.minimum(lengths, context)
    logits, state = prefill(model, tf.constant(first["tokens"]), tf.constant(first["lengths"]))
    token = np.array(
        [row[len(p) % len(row)] for row, p in zip(rows, prompts, strict=True)], np.int32
    )
    after, _ = step(model, tf.constant(token), state)
    named = {f"state_{i:02}": np.array(s) for i, s in enumerate(state)}
    if tokenizer.kind in ("char", "byte"):
        answers["text"] = np.array([tokenizer.decode(row) for row in drawn])
        requests = {
            "serving_default": {
                "prompt": _strings([t[: max(1, len(t) // 2)] for t in texts]),
                **numbers,
            },
            "score": {"text": _strings(texts)},
        }
    else:
        whole = np.zeros((count, scores.shape[1]), np.int32)
        for i, row in enumerate(rows):
            whole[i, : len(row)] = row
        sizes = np.array(list(map(len, rows)), np.int32)
        requests = {
            "serving_default": {"tokens": padded, "lengths": lengths, **numbers},
            "score": {"tokens": whole, "lengths": sizes},
        }
    requests |= {"prefill": first, "step": {"token": token, **named}}
    return requests, {
        "serving_default": answers,
        "score": {"log_probability": scores},
        "prefill": {"logits": logits.numpy()},
        "step": {"logits": after.numpy()},
    }


def _strings(texts: list[str]) -> np.ndarray:
    """Return UTF-8 bytes as an object array `(n,)`."""
    return np.array([text.encode() for text in texts] + [None], dtype=object)[:-1]
