"""N-grams against counts made by hand and by dictionaries, intervals, spans, the report, pictures."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlkit.errors import DataError, OptionError
from dlkit.evaluation import samples, text_plots
from dlkit.evaluation.blocks import block_length
from dlkit.evaluation.ngram import compression, log_probabilities, ngram_baseline
from dlkit.evaluation.text import (
    distinct,
    intervals,
    memorised,
    passages,
    per_character,
    repetition,
    scores,
    table,
    text_report,
    verdict,
)

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "that",
    "the",
    "rat",
    "ran",
    "at",
    "dawn",
    "to",
    "see",
    "her",
    "hat",
]


def sentences(count: int, seed: int = 0) -> str:
    generator = np.random.default_rng(seed)
    return " ".join(WORDS[i] for i in generator.integers(0, len(WORDS), count))


def slow(train: str, scored: str, order: int) -> list[float]:
    """Witten-Bell by dictionaries, as its formula reads."""
    follows: dict[str, Counter] = defaultdict(Counter)
    for length in range(order):
        for i in range(length, len(train)):
            follows[train[i - length : i]][train[i]] += 1
    size = len(set(train)) + bool(set(scored) - set(train))

    def share(c: str, context: str, length: int) -> float:
        if length < 0:
            return 1 / size
        h = context[len(context) - length :] if length <= len(context) else None
        below = share(c, context, length - 1)
        counts = follows.get(h) if h is not None else None
        if not counts:
            return below
        kinds = len(counts)
        return (counts[c] + kinds * below) / (counts.total() + kinds)

    whole = train + scored
    return [
        math.log(share(whole[i], whole[max(0, i - order + 1) : i], order - 1))
        for i in range(len(train), len(whole))
    ]


def test_witten_bell_by_hand() -> None:
    found = np.exp(log_probabilities("aab", "aab", 2))
    # a: (2 + 2 / 2) / (3 + 2); after a, (1 + 2 x 0.6) / (2 + 2); nothing follows b in train.
    np.testing.assert_allclose(found[0], [0.6, 0.6, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found[1], [0.6, 0.55, 0.45], rtol=1e-6)


@pytest.mark.parametrize("kind", ["words", "letters", "wide", "short"])
def test_counts_agree_with_dictionaries(kind: str) -> None:
    generator = np.random.default_rng(3)
    if kind == "words":
        train, scored = sentences(400), sentences(60, 1) + " ?!"
    elif kind == "letters":
        train, scored = ("".join("ab"[i] for i in generator.integers(0, 2, n)) for n in (300, 50))
    elif kind == "wide":
        # So many characters that 9 of them do not fit into 64 bits, nor 5.
        alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + 7500)))
        train = alphabet + alphabet[40:90] * 3 + alphabet[60:80] * 2
        scored = alphabet[45:85] + "x" + alphabet[60:75]
    else:
        train, scored = "ab", "abcabcabcd"
    found = log_probabilities(train, scored, 9)
    assert found.shape == (9, len(scored))
    for order in (1, 2, 3, 6, 9):
        np.testing.assert_allclose(found[order - 1], slow(train, scored, order), rtol=2e-6)


@pytest.mark.parametrize("end", ["th", "zebra ", "h€"])
def test_probabilities_sum_to_one_over_the_vocabulary(end: str) -> None:
    train = sentences(200) + end
    everything = [*sorted(set(train)), "µ"]
    # The µ after each character makes the place of unseen ones count every time.
    total = sum(np.exp(log_probabilities(train, c + "µ", 6)[:, 0]) for c in everything)
    np.testing.assert_allclose(total, np.ones(6), rtol=1e-5)


def test_unseen_characters_share_one_place_and_are_said() -> None:
    train = sentences(300)
    known, found = ngram_baseline(train, "cat"), ngram_baseline(train, "c€t µ")
    assert "not in train" not in known.note
    assert "2 characters of the scored text are not in train" in found.note
    assert np.isfinite(found.per_character).all()
    assert found.unigram[1] == found.unigram[4] < found.unigram[0]


def test_the_order_is_chosen_on_the_end_of_train() -> None:
    generator = np.random.default_rng(0)
    state, chain = 0, []
    for u in generator.random(30_000):
        state = (state + (u > 0.1) + (u > 0.9)) % 5
        chain.append("abcde"[state])
    train, scored = "".join(chain[:25_000]), "".join(chain[25_000:])
    found = ngram_baseline(train, scored)
    assert found.order == 2 == min(found.losses, key=found.losses.__getitem__)
    assert list(found.losses) == list(range(1, 9))
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.1))
    assert found.loss == pytest.approx(entropy, abs=0.03)
    assert found.loss == pytest.approx(-found.per_character.mean(), rel=1e-5)
    assert found.per_character.dtype == np.float32 and len(found.per_character) == len(scored)
    assert -found.unigram.mean() == pytest.approx(math.log(5), abs=0.01)
    only = ngram_baseline(train, scored, orders=(3, 1))
    assert only.order == 3 and list(only.losses) == [1, 3] and only.loss > found.loss


def test_the_losses_that_choose_are_those_of_the_held_out_tail() -> None:
    train = sentences(500)
    tail = round(0.1 * len(train))
    expected = -log_probabilities(train[:-tail], train[-tail:], 4).mean(1)
    found = ngram_baseline(train, "the", orders=range(1, 5))
    np.testing.assert_allclose(list(found.losses.values()), expected, rtol=1e-5)


def test_a_long_train_is_cut_to_its_end_and_said() -> None:
    train, scored = "xyz" * 2000 + sentences(300), sentences(50, 1)
    size = len(sentences(300))
    cut = ngram_baseline(train, scored, largest=size)
    assert f"the last {size:,} of {len(train):,} characters" in cut.note
    whole = ngram_baseline(sentences(300), scored)
    np.testing.assert_array_equal(cut.per_character, whole.per_character)
    assert whole.note.startswith("order")


def test_more_text_and_known_text_cost_less() -> None:
    train, scored = sentences(3000), sentences(300, 1)
    losses = [ngram_baseline(train[:n], scored).loss for n in (100, 1000, 10_000)]
    assert losses[0] > losses[1] > losses[2]
    noise = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 4000)))
    given = noise[:3000], noise[2500:3500]
    seen, fresh = ngram_baseline(*given, orders=(5,)).per_character.reshape(2, 500).mean(1)
    assert seen > fresh + 1
    assert fresh < -math.log(26)


@pytest.mark.parametrize(("train", "scored"), [("", "a"), ("a", "a"), ("ab", "")])
def test_too_little_text_is_refused(train: str, scored: str) -> None:
    with pytest.raises(DataError, match="accepted: at least 2 and 1"):
        ngram_baseline(train, scored)


@pytest.mark.parametrize("orders", [(), (0, 3)])
def test_orders_are_checked(orders: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="whole numbers from 1"):
        ngram_baseline("abc", "a", orders)


def test_tiny_shakespeare(real_data: Path) -> None:
    path = real_data / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    whole = path.read_bytes().decode()
    cut = len(whole) * 9 // 10
    found = ngram_baseline(whole[:cut], whole[cut:])
    assert found.order == 5
    assert found.loss == pytest.approx(1.669, abs=0.005)


def test_compressors_know_train() -> None:
    generator = np.random.default_rng(0)
    noise = "".join("abcdefgh"[i] for i in generator.integers(0, 8, 20_000))
    found = compression(noise, noise[:4000])
    assert 3.0 <= found["bz2_alone"] < 3.4 and 3.0 <= found["xz_alone"] < 3.9
    assert found["xz"] < 0.1 and found["bz2"] < found["bz2_alone"] - 0.3
    fresh = compression(noise[:10_000], noise[10_000:])
    assert 2.9 < fresh["bz2"] < 3.4 and 2.9 < fresh["xz"] < 3.9
    assert "the first 2,000,000 of 2,000,100" in compression("ab", "ab" * 1_000_050)["note"]
    with pytest.raises(DataError, match="no characters"):
        compression("ab", "")


def test_scores_by_hand() -> None:
    found = scores(np.log([0.5, 0.25]), [1, 3], [True, False])
    assert found["loss"] == pytest.approx(3 * math.log(2) / 4)
    assert found["loss_per_token"] == pytest.approx(3 * math.log(2) / 2)
    assert found["bits_per_char"] == pytest.approx(0.75)
    assert found["perplexity"] == pytest.approx(2**1.5)
    assert found["accuracy"] == 0.5
    with pytest.raises(DataError, match="got no characters"):
        scores([], [], [])
    with pytest.raises(DataError, match="1 of 2 log-probabilities are not finite"):
        scores([-1.0, -np.inf], [1, 1], [1, 1])


def drifting(n: int, seed: int) -> np.ndarray:
    """Losses that follow their neighbours, with mean 2."""
    noise = np.random.default_rng(seed).normal(size=n)
    values = np.zeros(n)
    for i in range(1, n):
        values[i] = 0.8 * values[i - 1] + 0.1 * noise[i]
    return 2 + values


def test_intervals_cover_the_truth_of_neighbours_that_are_alike() -> None:
    covered = alone = 0
    for seed in range(40):
        loss = drifting(1600, seed)
        one = np.ones(len(loss))
        low, high = intervals(-loss, one, one, seed)["loss"]
        covered += low <= 2 <= high
        # As if each stood by itself.
        half = 1.96 * loss.std() / math.sqrt(len(loss))
        alone += abs(loss.mean() - 2) <= half
    assert 33 <= covered <= 40
    assert alone < 30


def test_intervals_hold_their_score_and_follow_the_seed() -> None:
    generator = np.random.default_rng(0)
    given = -generator.random(500), generator.integers(0, 4, 500), generator.random(500) < 0.3
    found, values = intervals(*given), scores(*given)
    assert set(found) == set(values)
    for name, (low, high) in found.items():
        assert low < values[name] < high
    assert found == intervals(*given) != intervals(*given, seed=1)
    np.testing.assert_allclose(found["bits_per_char"], np.divide(found["loss"], math.log(2)))
    assert intervals([-1.0], [2], [True])["loss"] == [0.5, 0.5]
    assert (block_length(10_000), block_length(1)) == (100, 1)


def test_losses_of_tokens_are_spread_over_their_characters() -> None:
    found = per_character([-3.0, -1.0, -2.0, -6.0, -4.0], [3, 0, 0, 2, 0])
    np.testing.assert_allclose(found, [-1, -1, -1, -6.5, -6.5])


def test_distinct_and_repetition_by_hand() -> None:
    assert distinct(["a", "b", "a", "b", "a"], 2) == 2 / 4
    assert distinct("aaaa", 1) == 0.25
    assert distinct(np.array([1, 2, 3]), 2) == 1.0
    assert distinct("a", 2) == 1.0
    assert repetition("abcdefghij" * 2) == pytest.approx(1 / 11)
    assert repetition("x" * 100) == pytest.approx(90 / 91)


def longest_by_hand(sample: str, train: str) -> int:
    spans = (sample[i:j] for i in range(len(sample)) for j in range(i, len(sample) + 1))
    return max((len(span) for span in spans if span in train), default=0)


@pytest.mark.parametrize("letters", ["ab", "abcdef", "".join(map(chr, range(40, 90)))])
def test_the_longest_span_is_found(letters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PIECE", 50)  # spans cross the ends of pieces
    generator = np.random.default_rng(len(letters))
    for size in (0, 1, 3, 9, 40, 60):
        sample, train = (
            "".join(letters[i] for i in generator.integers(0, len(letters), n)) for n in (size, 400)
        )
        found = memorised(sample, train)
        assert found.length == len(found.text) == longest_by_hand(sample, train)
        assert found.text in sample
        assert found.where == (train.find(found.text) if found.text else -1)
    assert memorised(train[30:120], train) == (90, train[30:120], 30)


def test_a_span_that_ends_what_was_marked_is_found() -> None:
    assert memorised("0abcdefg#abcdefghi", "..0abcdefghi..") == (9, "abcdefghi", 3)


def test_a_planted_span_is_found_with_its_place() -> None:
    train = sentences(20_000)
    span = "Ünlikely, that 中文 $x$ happens"
    train = train[:54_321] + span + train[54_321:]
    sample = "zq" + "QZ" * 40 + span[3:] + "Q" * 30
    assert memorised(sample, train) == (len(span) - 3, span[3:], 54_324)
    assert memorised("中", "abc") == (0, "", -1)
    assert memorised("abc", "") == (0, "", -1)


def test_passages_are_the_worst_and_apart() -> None:
    loss = np.ones(1000)
    loss[100:140], loss[700:740] = 5, 7
    loss[720] = 9
    found = passages(-loss)
    assert found[:2] == [700, 100] and len(found) == 10
    assert np.diff(sorted(found)).min() >= 40
    assert passages(-loss[:130], count=2) == [90, 0]
    assert passages(-loss[:7]) == [0]


def made(folder: Path, gain: float, **more: Any) -> dict[str, Any]:
    """A report of a model of characters that is the n-gram, `gain` nats better."""
    train, text = sentences(2000), sentences(300, 1)
    given = ngram_baseline(train, text).per_character[1:].astype(np.float64)
    return text_report(
        np.minimum(given + gain, -1e-9) if gain > 0 else given + gain,
        np.ones(len(given), int),
        np.arange(len(given)) % 4 == 0,
        text,
        train,
        folder,
        **more,
    )


def test_the_report(tmp_path: Path) -> None:
    train = sentences(2000)
    sample = {"temperature": 0.8, "prompt": "the", "text": "Q" * 20 + train[1000:1100], "seed": 3}
    report = made(
        tmp_path / "new",
        0.1,
        samples=[sample],
        more={"loss_random_windows": 1.5},
        about={"run": "r"},
        notes=["said before"],
    )
    n = len(sentences(300, 1)) - 1
    assert (report["run"], report["split"], report["rows"], report["characters"]) == (
        "r",
        "test",
        n,
        n,
    )
    assert set(report["metrics"]) == {
        "loss", "loss_per_token", "bits_per_char", "perplexity", "accuracy", "loss_random_windows",
    }  # fmt: skip
    assert set(report["intervals"]) == set(report["metrics"]) - {"loss_random_windows"}
    assert set(report["baselines"]) == {"ngram", "unigram", "bz2", "xz"}
    for name, each in report["baselines"].items():
        loss, bits = (each["metrics"][k] for k in ("loss", "bits_per_char"))
        assert loss == pytest.approx(bits * math.log(2))
        assert set(each["intervals"]) == (set(each["metrics"]) if "gram" in name else set())
    spaces = sentences(300, 1)[1:].count(" ") / n
    assert report["baselines"]["unigram"]["metrics"]["accuracy"] == pytest.approx(spaces)
    assert report["verdict"].startswith("beats the n-gram")
    assert report["notes"][0] == "said before"
    assert any(note.startswith("n-gram: order") for note in report["notes"])
    assert report["against_ngram"]["difference"] == pytest.approx(
        report["metrics"]["loss"] - report["baselines"]["ngram"]["metrics"]["loss"]
    )
    low, high = report["against_ngram"]["interval"]
    assert low < report["against_ngram"]["difference"] < high < 0
    shown = report["samples"][0]
    assert {k: shown[k] for k in sample} == sample
    assert shown["memorised"]["length"] == 100 and shown["memorised"]["where"] == 1000
    assert shown["repetition"] == pytest.approx(10 / 111)
    assert report["held_out"]["characters"] == 120
    worst = report["most_surprising"]
    assert len(worst) == 10 and worst[0]["loss"] >= worst[9]["loss"] > report["metrics"]["loss"]
    assert all(each["text"] == sentences(300, 1)[1:][each["where"] :][:40] for each in worst)
    # What is written is the report: JSON holds the orders as strings.
    written = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(report))
    lines = table(written).splitlines()
    assert lines[0].split() == ["model", f"{report['baselines']['ngram']['order']}-gram", "unigram", "bz2", "xz"]  # fmt: skip
    assert lines[6].split() == ["loss", "random", "windows", "1.5000", "-", "-", "-", "-"]
    assert table(report) == table(written)
    with Image.open(tmp_path / "new" / "surprise.png") as picture:
        assert picture.width > 800


def test_the_report_is_told_when_the_n_gram_wins(tmp_path: Path) -> None:
    worse = made(tmp_path, -0.5)
    assert "does NOT beat the n-gram" in worse["verdict"]
    assert worse["against_ngram"]["interval"][0] > 0
    assert any(
        "overlap; on the same" in note or "do not overlap" in note for note in worse["notes"]
    )
    assert any(note.startswith("xz, given train, needs less") for note in worse["notes"])
    equal = made(tmp_path, 0.0)
    assert "only equals the n-gram" in equal["verdict"]
    assert any("overlap; on" in note and "may be chance" in note for note in equal["notes"])
    assert "samples" in equal and "held_out" not in equal


def test_tokens_of_several_characters_are_scored_by_character(tmp_path: Path) -> None:
    train, text = sentences(1000), "_" + sentences(120, 1)
    counts = np.tile([3, 0, 2, 1], len(text))
    counts = counts[: int(np.searchsorted(np.cumsum(counts), len(text) - 1)) + 1]
    counts[-1] -= counts.sum() - (len(text) - 1)
    given = np.full(len(counts), -2.0)
    report = text_report(given, counts, np.zeros(len(counts)), text, train, tmp_path)
    assert report["metrics"]["loss"] == pytest.approx(2 * len(counts) / (len(text) - 1))
    assert "accuracy" not in report["baselines"]["unigram"]["metrics"]
    assert report["against_ngram"]["difference"] == pytest.approx(
        report["metrics"]["loss"] - report["baselines"]["ngram"]["metrics"]["loss"]
    )
    with pytest.raises(ValueError, match="the text has 3"):
        text_report(given, counts, given, "the", train, tmp_path)


def test_verdicts() -> None:
    beside = {"ngram": {"metrics": {"loss": 1.5}}}
    assert (
        verdict({"loss": 1.4}, beside)
        == "beats the n-gram (1.4000 against 1.5000 nats per character)"
    )
    assert verdict({"loss": 1.5}, beside).startswith("only equals")
    assert verdict({"loss": 1.6}, beside).startswith("does NOT beat")


def test_pictures_draw_any_character(tmp_path: Path) -> None:
    text = "中文 $x_$ e\u0301\x07\u200d\ud800\n\ttail " * 5
    generator = np.random.default_rng(0)
    text_plots.surprise(text, -9 * generator.random(len(text)), tmp_path / "surprise.png")
    text_plots.surprise("a", [-1.0], tmp_path / "one.png")
    maps = np.tril(np.ones((2, 9, 6, 6)))
    text_plots.attention(maps, ["中", "\n", "$x_$", "the", " cat", ""], tmp_path / "attention.png")
    text_plots.attention(maps[:1, :1], list("sample"), tmp_path / "small.png")
    text_plots.loss_by_position([3.0, 2.0, 1.0, 1.1], tmp_path / "position.png")
    text_plots.loss_by_position([3.0], tmp_path / "single.png")
    widths = {}
    for path in sorted(tmp_path.glob("*.png")):
        with Image.open(path) as picture:
            widths[path.stem] = picture.width
            # Something was drawn: not all of it is white.
            assert np.array(picture.convert("L")).min() < 100
    assert len(widths) == 6
    assert widths["attention"] > widths["small"]
