"""The report of a language model: scores, baselines, samples and words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.errors import DataError
from dlkit.evaluation.blocks import block_length, middle, resampled
from dlkit.evaluation.ngram import LARGEST, code_points, compression, ngram_baseline
from dlkit.evaluation.samples import distinct, memorised, repetition

LN2 = float(np.log(2.0))
PASSAGES, PASSAGE = 10, 40


def scores(log_probabilities: Any, characters: Any, correct: Any) -> dict[str, float]:
    """Score the tokens of a text.

    Args:
        log_probabilities: of each token, in nats, `(n,)`.
        characters: that each token stands for, at least 0, `(n,)`.
        correct: whether each token was the likeliest, `(n,)`.
    Returns:
        `loss` (nats per character), `loss_per_token` (nats), `bits_per_char`, `perplexity` (per
        token), and `accuracy` of the next token in [0, 1].
    Raises:
        DataError: no characters, or log-probabilities that are not finite.
    """
    rows = _rows(log_probabilities, characters, correct)
    return {name: float(v) for name, v in _measures(rows.sum(0), len(rows)).items()}


def intervals(
    log_probabilities: Any, characters: Any, correct: Any, seed: int = 0
) -> dict[str, list[float]]:
    """Return a 95 % bootstrap interval of each score, over 1,000 resamples of blocks.

    Neighbours in a text are alike, so that single tokens would give too narrow an interval: what is
    drawn are blocks of sqrt(n) consecutive tokens, the text closed to a ring. (On tiny Shakespeare
    blocks of 334 characters give a loss three times the width that single ones do.)

    Args:
        log_probabilities, characters, correct: as for `scores`.
        seed: of the draws; two texts of equal length get the same blocks.
    Reference:
        Politis & Romano 1992, "A circular block-resampling procedure for stationary data".
    """
    rows = _rows(log_probabilities, characters, correct)
    drawn = _measures(resampled(rows, seed), len(rows))
    return {name: middle(values) for name, values in drawn.items()}


def _rows(log_probabilities: Any, characters: Any, correct: Any) -> np.ndarray:
    """Return loss, characters and hit of each token, float64 `(n, 3)`."""
    columns = [np.asarray(c, np.float64) for c in (log_probabilities, characters, correct)]
    rows = np.stack([-columns[0], *columns[1:]], 1)
    if not rows[:, 1].any():
        raise DataError("text to score: got no characters; accepted: at least 1")
    wrong = int(np.sum(~np.isfinite(rows[:, 0])))
    if wrong:
        raise DataError(f"{wrong:,} of {len(rows):,} log-probabilities are not finite")
    return rows


def _measures(sums: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Return the scores of sums `(..., 3)` over n tokens."""
    nats, characters, hits = np.moveaxis(sums, -1, 0)
    return {
        "loss": nats / characters,
        "loss_per_token": nats / n,
        "bits_per_char": nats / characters / LN2,
        "perplexity": np.exp(nats / n),
        "accuracy": hits / n,
    }


def per_character(log_probabilities: Any, characters: Any) -> np.ndarray:
    """Spread the log-probability of each token evenly over its characters.

    What a token without a character lost (the first bytes of one) goes to the next that has some.

    Returns:
        float32 `(characters.sum(),)`.
    """
    counts = np.asarray(characters)
    ends = counts > 0
    # How many characters ended before a token tells whose loss it belongs to.
    owner = np.minimum(np.cumsum(ends) - ends, ends.sum() - 1)
    whole = np.bincount(owner, np.asarray(log_probabilities, np.float64))
    return np.repeat(whole / counts[ends], counts[ends]).astype(np.float32)


def passages(
    log_probabilities: np.ndarray, count: int = PASSAGES, width: int = PASSAGE
) -> list[int]:
    """Return where the windows of the highest mean loss begin, the highest first; none overlap.

    Args:
        log_probabilities: of each character, `(n,)`.
        count: most windows.
        width: characters a window; where there are fewer, all of them are the only window.
    """
    width = min(width, len(log_probabilities))
    sums = np.cumsum(np.append(0.0, -np.asarray(log_probabilities, np.float64)))
    means = (sums[width:] - sums[:-width]) / width
    found: list[int] = []
    while len(found) < count and np.isfinite(means).any():
        found.append(int(means.argmax()))
        means[max(0, found[-1] - width + 1) : found[-1] + width] = -np.inf
    return found


def text_report(
    log_probabilities: Any,
    characters: Any,
    correct: Any,
    text: str,
    train: str,
    folder: Path,
    *,
    split: str = "test",
    samples: Sequence[Mapping[str, Any]] = (),
    more: Mapping[str, float] | None = None,
    about: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Score a language model beside its baselines; write `report.json` and `surprise.png`.

    Args:
        log_probabilities, characters, correct: of the scored tokens, as for `scores`.
        text: ends with the characters that those tokens stand for. What stands before them (the
            first token, which nothing predicts) is not scored, but the n-gram reads it.
        train: the training text, which the baselines learn from.
        folder: where the files go.
        split: name of the scored split.
        samples: what the model wrote, each with `temperature`, `prompt` and `text`.
        more: further metrics, which get no interval, such as `loss_random_windows`.
        about: more entries for the report.
        notes: what a reader should know beside what is found here.
    Returns:
        What `report.json` holds: `rows` (scored tokens), `characters`, `text_sha256` of the scored
        characters, `metrics`, `intervals`, `block_length` (tokens), `baselines` (each with
        `metrics` and `intervals`; `ngram` with `order` and `losses`), `verdict`, `against_ngram`
        (`difference` of the losses, the model's less the n-gram's, and its `interval`, both on the
        same blocks of text), `notes`, `most_surprising` (10 passages of 40 characters: `where` in
        the scored characters, `text`, mean `loss`) and `samples`, each with `distinct_2` (of
        words), `repetition` and `memorised`; `held_out`, the same of scored text as long as the
        first sample.
    Raises:
        DataError: see `scores` and `ngram_baseline`.
        ValueError: the text is shorter than its tokens say.
    """
    from dlkit.evaluation import text_plots

    rows, counts = _rows(log_probabilities, characters, correct), np.asarray(characters)
    size = int(counts.sum())
    if size > len(text):
        raise ValueError(f"the tokens stand for {size} characters, the text has {len(text)}")
    text, before = text[len(text) - size :], text[: len(text) - size]
    spread = per_character(log_probabilities, counts)
    metrics = scores(log_probabilities, counts, correct)
    own = intervals(log_probabilities, counts, correct)
    beside, ngram, said = _baselines(train, before, text, bool(np.all(counts == 1)))
    difference, words = _against(rows, ngram, own["loss"], beside["ngram"]["intervals"]["loss"])
    report = {
        **(about or {}),
        "split": split,
        "rows": len(rows),
        "characters": size,
        "text_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        "metrics": {**metrics, **(more or {})},
        "intervals": own,
        "block_length": block_length(len(rows)),
        "baselines": beside,
        "verdict": verdict(metrics, beside),
        "against_ngram": difference,
        "notes": [*notes, *said, words, *_smaller(metrics["loss"], beside)],
        "most_surprising": [
            {
                "where": at,
                "text": text[at : at + PASSAGE],
                "loss": -float(spread[at : at + PASSAGE].mean(dtype=np.float64)),
            }
            for at in passages(spread)
        ],
        "samples": [{**each, **_judged(each["text"], train)} for each in samples],
    }
    if samples:
        held = text[: len(samples[0]["text"])]
        report["held_out"] = {"characters": len(held), **_judged(held, train)}
    folder.mkdir(parents=True, exist_ok=True)
    text_plots.surprise(text, spread, folder / "surprise.png")
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def _judged(text: str, train: str) -> dict[str, Any]:
    return {
        "distinct_2": distinct(text.split(), 2),
        "repetition": repetition(text),
        "memorised": memorised(text, train)._asdict(),
    }


def _baselines(
    train: str, before: str, text: str, single: bool
) -> tuple[dict[str, Any], np.ndarray, list[str]]:
    """Return the baselines, the n-gram's log-probability of each character, and notes.

    Args:
        train: the training text.
        before: unscored characters before the text.
        text: the scored characters.
        single: whether tokens are single characters, so that accuracies can be compared.
    """
    found, size = ngram_baseline(train, before + text), len(text)
    one, hits = np.ones(size), np.zeros(size)
    if single:
        majority = np.bincount(code_points(train[-LARGEST:])).argmax()
        hits = code_points(text) == majority
    beside: dict[str, Any] = {}
    for name, given in (("ngram", found.per_character), ("unigram", found.unigram)):
        kept = ["loss", "bits_per_char"]
        kept += ["accuracy"] if single and name == "unigram" else []
        values, spans = scores(given[-size:], one, hits), intervals(given[-size:], one, hits)
        beside[name] = {
            "metrics": {k: values[k] for k in kept},
            "intervals": {k: spans[k] for k in kept},
        }
    beside["ngram"] |= {"order": found.order, "losses": found.losses}
    small = compression(train, text)
    for name in ("bz2", "xz"):
        values = {"loss": small[name] * LN2, "bits_per_char": small[name]}
        beside[name] = {"metrics": values, "intervals": {}, "alone": small[f"{name}_alone"]}
    said = [f"n-gram: {found.note}", f"compressors: {small['note']}"]
    return beside, found.per_character[-size:], said


def _against(
    rows: np.ndarray, ngram: np.ndarray, own: list[float], other: list[float]
) -> tuple[dict[str, Any], str]:
    """Compare the losses of model and n-gram on the same blocks of text; say it in words."""
    ends = np.cumsum(rows[:, 1]).astype(np.int64)
    sums = np.cumsum(np.append(0.0, -ngram.astype(np.float64)))
    theirs = sums[ends] - sums[ends - rows[:, 1].astype(np.int64)]
    pair = np.stack([rows[:, 0] - theirs, rows[:, 1]], 1)
    drawn = resampled(pair, 0)
    mean, (low, high) = pair[:, 0].sum() / pair[:, 1].sum(), middle(drawn[:, 0] / drawn[:, 1])
    overlap = "overlap" if own[0] <= other[1] and other[0] <= own[1] else "do not overlap"
    chance = "may be chance" if low <= 0 <= high else "is more than chance"
    words = (
        f"the intervals of the model's loss and the n-gram's {overlap}; on the same blocks of text "
        f"the difference, {mean:+.4f} [{low:+.4f}, {high:+.4f}] nats per character, {chance}"
    )
    return {"difference": float(mean), "interval": [low, high]}, words


def _smaller(loss: float, beside: Mapping[str, Any]) -> list[str]:
    """Say which compressors, given train, need less than the model."""
    return [
        f"{name}, given train, needs less than the model: {beside[name]['metrics']['loss']:.4f} "
        f"against {loss:.4f} nats per character"
        for name in ("bz2", "xz")
        if beside[name]["metrics"]["loss"] < loss
    ]


def verdict(metrics: Mapping[str, float], beside: Mapping[str, Any]) -> str:
    """Say in words whether the model's loss is below the n-gram's."""
    loss, bar = metrics["loss"], beside["ngram"]["metrics"]["loss"]
    if loss < bar:
        return f"beats the n-gram ({loss:.4f} against {bar:.4f} nats per character)"
    if loss == bar:
        return f"only equals the n-gram ({bar:.4f} nats per character): this model has learnt nothing that the n-gram does not know"
    return (
        f"does NOT beat the n-gram ({loss:.4f} against {bar:.4f} nats per character): use the "
        "n-gram instead"
    )


def table(report: Mapping[str, Any]) -> str:
    """Lay a report's scores out for a terminal, one row a score, one column a contestant."""
    columns = {"model": report, **report["baselines"]}
    order = report["baselines"]["ngram"]["order"]
    lines = [["", *(f"{order}-gram" if name == "ngram" else name for name in columns)]]
    for name in report["metrics"]:
        line = [name.replace("_", " ")]
        for values in columns.values():
            cell = f"{values['metrics'][name]:.4f}" if name in values["metrics"] else "-"
            low_high = values["intervals"].get(name)
            span = f" [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else ""
            line.append(cell + span)
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
