"""Go on with a prompt, token by token."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from dlkit.errors import DataError, OptionError
from pipelines.text_generation.config import TASK


class Wish(NamedTuple):
    """How a text is to be drawn; see the options of `generate`."""

    max_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    beam: int = 1


class Generator:
    """An exported model with its tokeniser: the graphs that the server runs."""

    def __init__(self, ref: str) -> None:
        from dlkit import export, tracking

        directory, _ = tracking.export_directory(ref, TASK)

        from dlkit.runtime import load_tensorflow

        tf = load_tensorflow()
        from dlkit.data.tokenizers import from_json
        from dlkit.drawing import choose

        target = directory / "1"
        self.about = export.read_manifest(target)
        kept = (target / "assets.extra" / "tokenizer.json").read_text(encoding="utf-8")
        self.tokenizer = from_json(json.loads(kept))
        self.loaded = tf.saved_model.load(str(target))
        self.prefill = self.loaded.signatures["prefill"]
        self.step = self.loaded.signatures["step"]
        self.choose = tf.function(choose)  # one for all texts: each anew would be traced anew

    def encode(self, prompt: str, strict: bool) -> tuple[Any, str]:
        """Return a prompt's tokens, int32 `(n,)`, n at least 1, and what was left out of it.

        Raises:
            DataError: `strict`, and characters that the vocabulary lacks.
        """
        import numpy as np

        tokens = self.tokenizer.encode(prompt, "refuse" if strict else "drop")
        tokens = tokens if len(tokens) else np.array([self.about["start"]], np.int32)
        return tokens, "".join(self.tokenizer.unknown_characters(prompt))

    def draw(self, tokens: Any, wish: Wish) -> Iterator[tuple[int, float]]:
        """Yield each next token and its log-probability under the model."""
        import numpy as np

        from dlkit.drawing import Sampling

        tf = _tensorflow()
        history = [int(t) for t in tokens]
        sampling = Sampling(
            tf.constant([wish.temperature], tf.float32),
            tf.constant([wish.top_k], tf.int32),
            tf.constant([wish.top_p], tf.float32),
            tf.constant([wish.min_p], tf.float32),
        )
        answer = self.begin([history])
        for place in range(wish.max_tokens):
            logits = answer["logits"].numpy()
            shares = logits[0] - np.logaddexp.reduce(logits[0])
            changed = adjusted(logits[0], history, wish)
            at = tf.constant([wish.seed], tf.int32), tf.constant([place], tf.int32)
            token = int(self.choose(tf.constant(changed[None]), *at, sampling)[0])
            yield token, float(shares[token])
            history.append(token)
            answer = self.go_on([history], answer)

    def begin(self, rows: list[list[int]]) -> dict[str, Any]:
        """Prefill rows of equal length with their last tokens, as many as the context holds."""
        tf = _tensorflow()
        context = self.about["context"]
        kept = [row[-context:] if context else row for row in rows]
        return self.prefill(
            tokens=tf.constant(kept, tf.int32),
            lengths=tf.constant([len(row) for row in kept], tf.int32),
        )

    def go_on(self, rows: list[list[int]], answer: dict[str, Any]) -> dict[str, Any]:
        """Take each row's last token in; a full context of learned positions is made anew."""
        tf = _tensorflow()
        limit = self.about["limit"]
        if limit is not None and int(answer["state_00"][0]) >= limit:
            half = max(1, limit // 2)
            return self.begin([row[-half:] for row in rows])
        state = {name: value for name, value in answer.items() if name.startswith("state_")}
        return self.step(token=tf.constant([row[-1] for row in rows], tf.int32), **state)

    def search(self, tokens: Any, wish: Wish) -> tuple[list[int], float]:
        """Return the likeliest of `beam` continuations kept side by side, and its log-probability."""
        import numpy as np

        tf = _tensorflow()
        rows = [[int(t) for t in tokens]] * wish.beam
        scores = np.array([0.0] + [-np.inf] * (wish.beam - 1))  # all start alike: one counts
        answer = self.begin(rows)
        for _ in range(wish.max_tokens):
            logits = answer["logits"].numpy()
            shares = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            allowed = np.stack([adjusted(s, r, wish) for s, r in zip(shares, rows, strict=True)])
            shares = np.where(np.isfinite(allowed), shares, -np.inf)
            total = (scores[:, None] + shares).ravel()
            best = np.argsort(-total, kind="stable")[: wish.beam]
            parents, chosen = np.divmod(best, shares.shape[1])
            scores = total[best]
            rows = [[*rows[p], int(c)] for p, c in zip(parents, chosen, strict=True)]
            moved = {k: tf.gather(v, parents) for k, v in answer.items() if k != "logits"}
            answer = self.go_on(rows, moved)
        return rows[0][len(tokens) :], float(scores[0])


def _tensorflow() -> Any:
    import tensorflow as tf

    return tf


def adjusted(logits: Any, history: list[int], wish: Wish) -> Any:
    """Return logits `(vocabulary,)` with repetition made less likely, or impossible.

    The penalty divides positive logits of tokens that occurred and multiplies negative ones (Keskar
    et al. 2019, arXiv:1909.05858, section 4.1); a token that would repeat an n-gram is ruled out
    (Paulus et al. 2017, arXiv:1705.04304, section 2.5).
    """
    import numpy as np

    logits = logits.copy()
    if wish.repetition_penalty != 1.0:
        seen = np.unique(history)
        held = logits[seen]
        logits[seen] = np.where(
            held > 0, held / wish.repetition_penalty, held * wish.repetition_penalty
        )
    n = wish.no_repeat_ngram
    if n and len(history) >= n:
        last = history[len(history) - n + 1 :] if n > 1 else []
        repeats = [
            history[i + n - 1]
            for i in range(len(history) - n + 1)
            if history[i : i + n - 1] == last
        ]
        if len(set(repeats)) < len(logits):  # else everything would repeat: let it
            logits[repeats] = -np.inf
    return logits


def prompt_of(prompt: str | None, file: str | None) -> str:
    """Return the prompt: given, read from a file, or from standard input where it is `-`.

    Raises:
        OptionError: both are given.
        DataError: the file cannot be read, or is not UTF-8.
    """
    if prompt is not None and file is not None:
        raise OptionError("--prompt and --prompt-file exclude each other")
    if file is None and prompt != "-":
        return prompt or ""
    try:
        raw = (
            sys.stdin.buffer.read() if file in (None, "-") else Path(file).expanduser().read_bytes()
        )
        return raw.decode("utf-8")
    except OSError as error:
        raise DataError(f"--prompt-file: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"--prompt-file: {file or '-'} is not UTF-8: byte {error.object[error.start]:#04x} at "
            f"offset {error.start}"
        ) from None


def generate(
    ref: str, prompt: str, wish: Wish, strict: bool = False, source: Any = None
) -> Iterator[dict[str, Any]]:
    """Yield pieces of one continuation as they come, then the whole.

    A piece is `{"piece": text}`; the last row holds `prompt`, `text`, `tokens`, `log_probability`,
    `seed`, `dropped` (characters left out of the prompt) and `seconds_to_first`.
    """
    began = time.monotonic()
    generator = source or Generator(ref)
    tokens, dropped = generator.encode(prompt, strict)
    drawn: list[int] = []
    total, shown, first = 0.0, 0, None
    if wish.beam > 1:
        drawn, total = generator.search(tokens, wish)
        first = time.monotonic() - began
    else:
        for token, share in generator.draw(tokens, wish):
            first = first or time.monotonic() - began
            drawn.append(token)
            total += share
            text = generator.tokenizer.decode(drawn)
            if any(stop in text for stop in wish.stop):
                break
            # What may yet turn into a stop, or into another character, is held back.
            safe = len(text) - max((_overlap(text, stop) for stop in wish.stop), default=0)
            safe = len(text[:safe].rstrip("\ufffd"))
            if safe > shown:
                yield {"piece": text[shown:safe]}
                shown = safe
    text = generator.tokenizer.decode(drawn)
    ends = [text.index(stop) for stop in wish.stop if stop in text]
    text = text[: min(ends)] if ends else text
    if len(text) > shown:
        yield {"piece": text[shown:]}
    yield {
        "prompt": prompt,
        "text": text,
        "tokens": drawn,
        "log_probability": total,
        "seed": wish.seed,
        "dropped": dropped,
        "seconds_to_first": first,
    }


def _overlap(text: str, stop: str) -> int:
    """Return how long an end of the text is a beginning of the stop."""
    return next(
        (n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0
    )


@click.command("generate", help="Go on with a prompt; the text is shown as it comes.")
@click.argument("run")
@click.option("--prompt", metavar="TEXT", help="What to go on from; - reads standard input.")
@click.option("--prompt-file", metavar="FILE", help="The prompt from a file; - is standard input.")
@click.option("--max-tokens", type=click.IntRange(1), default=200, show_default=True)
@click.option("--temperature", type=float, default=0.8, show_default=True, help="At least 0.001.")
@click.option("--top-k", type=click.IntRange(0), default=0, help="Only the likeliest so many.")
@click.option("--top-p", type=float, default=1.0, help="Only the likeliest that reach this share.")
@click.option("--min-p", type=float, default=0.0, help="Only tokens this likely beside the first.")
@click.option("--repetition-penalty", type=float, default=1.0, help="Above 1: less repetition.")
@click.option("--no-repeat-ngram", type=click.IntRange(0), default=0, metavar="N")
@click.option("--stop", multiple=True, metavar="STRING", help="End before this; may be repeated.")
@click.option(
    "--count", type=click.IntRange(1), default=1, help="Texts, of seeds one after another."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--greedy", is_flag=True, help="Always the likeliest token.")
@click.option(
    "--beam", type=click.IntRange(1, 64), default=1, help="Search with N rows side by side."
)
@click.option("--strict", is_flag=True, help="Refuse characters that the vocabulary lacks.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a text.")
def command(
    run: str,
    prompt: str | None,
    prompt_file: str | None,
    count: int,
    greedy: bool,
    strict: bool,
    as_json: bool,
    **wished: Any,
) -> None:
    """Go on with a prompt.

    A prompt longer than the context keeps its last part. A full context slides on where positions
    are rotary, and is made anew from its last half where they are learned.
    """
    from dlkit.progress import say

    wish = checked_wish(Wish(**wished), greedy)
    text = prompt_of(prompt, prompt_file)
    source = Generator(run)
    for k in range(count):
        each = wish._replace(seed=(wish.seed + k) % 2**31)
        for row in generate(run, text, each, strict, source):
            if "piece" in row:
                if not as_json:
                    click.echo(row["piece"], nl=False)
                continue
            if row["dropped"] and k == 0:
                say(f"note: left out of the prompt, not in the vocabulary: {row['dropped'][:20]!r}")
            click.echo(json.dumps(row) if as_json else "")


def checked_wish(wish: Wish, greedy: bool) -> Wish:
    """Return what was wished, or say what is not accepted.

    Raises:
        OptionError: a number out of its range, or two wishes that exclude each other.
    """
    for name, value, accepted, holds in (
        ("temperature", wish.temperature, "at least 0.001 (or --greedy)", wish.temperature >= 1e-3),
        ("top-p", wish.top_p, "at least 0.000001, at most 1", 1e-6 <= wish.top_p <= 1),
        ("min-p", wish.min_p, "at least 0, below 1", 0 <= wish.min_p < 1),
        ("repetition-penalty", wish.repetition_penalty, "above 0", wish.repetition_penalty > 0),
    ):
        if not (holds and value < float("inf")):
            raise OptionError(f"--{name}: got {value:g}; accepted: {accepted}")
    if "" in wish.stop:
        raise OptionError("--stop: got an empty string; accepted: at least one character")
    if greedy and wish.beam > 1:
        raise OptionError("--greedy and --beam exclude each other")
    if wish.beam > 1 and wish.stop:
        raise OptionError("--beam and --stop exclude each other")
    return wish._replace(top_k=1, temperature=1.0) if greedy else wish
