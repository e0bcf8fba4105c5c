"""What `train` and `evaluate` both do with a trained model: score a text, write samples, draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Tokens that are scored at most: a sliding window reads each eight times.
SCORED = 2_000_000
TEMPERATURES = (0.5, 0.8, 1.0)
SAMPLE_TOKENS, GLIMPSE_TOKENS = 300, 100
# Tokens whose attention is drawn.
DRAWN = 40


def start_token(tokenizer: Any) -> int:
    """Return what a text without a prompt goes on from: a new line, where there is that token."""
    found = tokenizer.encode("\n", "drop")
    return int(found[0]) if len(found) else 0


def held_out_pieces(text: Any) -> list[str]:
    """Return four pieces of held-out text, of different lengths, for the export's check."""
    whole = text.text["test"] or text.text["validation"]
    starts = [len(whole) * i // 4 for i in range(4)]
    pieces = [whole[at : at + n] for at, n in zip(starts, (80, 40, 160, 12), strict=True)]
    return [piece for piece in pieces if piece]


def writer(
    model: Any, tokenizer: Any, prompt: str, seed: int, most: int = SAMPLE_TOKENS
) -> Callable[[], list[dict[str, Any]]]:
    """Return a function that lets the model, as it is then, write at several temperatures.

    It gives dicts of `temperature`, `prompt` and `text`, of `most` tokens.
    """
    import numpy as np
    import tensorflow as tf

    from dlkit.export.text import context_of
    from dlkit.generation import Sampling, generate

    tokens = tokenizer.encode(prompt, "drop")
    tokens = tokens if len(tokens) else np.array([start_token(tokenizer)], np.int32)
    context = context_of(model)
    tokens = tokens[-context:] if context else tokens
    count = len(TEMPERATURES)
    rows = tf.constant(np.tile(tokens, (count, 1)), tf.int32)
    sampling = Sampling(
        tf.constant(TEMPERATURES, tf.float32),
        tf.zeros(count, tf.int32),
        tf.ones(count),
        tf.zeros(count),
    )

    @tf.function
    def run() -> Any:
        lengths = tf.fill((count,), len(tokens))
        wanted = tf.fill((count,), most)
        return generate(model, rows, lengths, wanted, tf.fill((count,), seed), sampling)

    def write() -> list[dict[str, Any]]:
        drawn, _ = run()
        return [
            {"temperature": t, "prompt": prompt, "text": tokenizer.decode(row)}
            for t, row in zip(TEMPERATURES, drawn.numpy(), strict=True)
        ]

    return write


def report_on(
    model: Any,
    text: Any,
    split: str,
    folder: Path,
    *,
    prompt: str = "",
    seed: int = 0,
    notes: Sequence[str] = (),
    about: Mapping[str, Any],
    train: str | None = None,
) -> dict[str, Any]:
    """Score a split of a text, let the model write, and draw; see `dlkit.evaluation.text_report`."""
    from dlkit.evaluation import language, text_plots
    from dlkit.evaluation.text import text_report
    from dlkit.export.text import context_of

    folder.mkdir(parents=True, exist_ok=True)
    tokens, notes = getattr(text, split), list(notes)
    if len(tokens) > SCORED:
        notes.append(f"the first {SCORED:,} of {len(tokens):,} tokens are scored")
        tokens = tokens[:SCORED]
    characters = text.tokenizer.characters(tokens)
    context = context_of(model)
    log_probabilities, correct = language.token_scores(model, tokens, context)
    window = min(context or text.spec.input_shape[0], len(tokens) - 1)
    losses = language.random_window_losses(model, tokens, window)
    text_plots.loss_by_position(losses, folder / "loss_by_position.png")
    piece = tokens[:DRAWN]
    maps = language.attention_maps(model, piece[: context or DRAWN])
    if maps is not None:
        labels = [text.tokenizer.decode(piece[i : i + 1]) for i in range(maps.shape[-1])]
        text_plots.attention(maps, labels, folder / "attention.png")
    return text_report(
        log_probabilities,
        characters[1:],
        correct,
        text.text[split][: int(characters.sum())],
        text.text["train"] if train is None else train,
        folder,
        split=split,
        samples=writer(model, text.tokenizer, prompt, seed)(),
        more={"loss_random_windows": float(losses.mean())},
        about={**about, "window": window},
        notes=notes,
    )
