"""Text generation through its commands: train, evaluate, generate, export, serve."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorflow as tf
from made import Done, runner

from dlkit import tracking
from dlkit.models.transformer import VARIANTS
from dlkit.serving.app import create_app
from dlkit.serving.model import load_model
from dlkit.serving.servables import Servables
from dlkit.serving.service import Service
from pipelines.cli import main
from pipelines.text_generation.config import SIZES

TASK = "text-generation"
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "again")
SMALL = ["--context-length", "16", "--batch-size", "8", "--eval-every", "30"]
TINY = [*SMALL, "--steps", "60", "-p", "dim=24", "-p", "depth=1", "-p", "heads=2"]
CHILD = """
import sys
from dlkit import training
training.SAVE_EVERY_SECONDS = 0.2
from pipelines.cli import main
from pipelines.text_generation.config import SIZES
sys.exit(main(sys.argv[1:]))
"""
Runs = Callable[..., Done]


def story(words: int = 1500) -> str:
    """Sentences of ten words, each mostly followed by the next."""
    generator = np.random.default_rng(0)
    jumps = np.where(generator.random(words) < 0.8, 1, generator.integers(0, 10, words))
    chosen = [WORDS[i] for i in np.cumsum(jumps) % len(WORDS)]
    return "\n".join(" ".join(chosen[i : i + 12]) for i in range(0, words, 12))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file."""
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(story())
    return path


@pytest.fixture(scope="module")
def trained_text(
    tmp_path_factory: pytest.TempPathFactory, written: Path, empty_store: Path
) -> tuple[Path, dict[str, Any]]:
    """A folder with a finished run, and what its training printed."""
    folder, out = tmp_path_factory.mktemp("trained-text"), io.StringIO()
    shutil.copytree(empty_store, folder / "mlruns")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out):
            code = main([TASK, "train", "--data", str(written), *TINY, "--json"])
    finally:
        os.chdir(before)
    assert code == 0
    return folder, json.loads(out.getvalue())


@pytest.fixture(scope="module")
def load_once() -> Callable[..., Any]:
    """Load a SavedModel, which takes a second, once for all commands that ask for it."""
    load = tf.saved_model.load
    once = functools.cache(load)
    return lambda path, *more, **given: load(path, *more, **given) if more or given else once(path)


@pytest.fixture
def at_it(
    trained_text: tuple[Path, dict],
    load_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> tuple[Runs, dict[str, Any]]:
    """Run command lines beside the finished run; and what its training printed."""
    monkeypatch.setattr(tf.saved_model, "load", load_once)
    monkeypatch.chdir(trained_text[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return runner(capfd), trained_text[1]


def asked_over_http(
    app: Any, body: dict[str, Any], path: str = "/v1/models/text:predict"
) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, content=json.dumps(body))

    return asyncio.run(exchange())


def test_training_prints_what_the_grammar_says(at_it: tuple[Runs, dict]) -> None:
    _, result = at_it
    assert result["task"] == TASK
    assert result["split"] == "test"
    metrics = result["metrics"]
    wanted = {"loss", "loss_per_token", "bits_per_char", "perplexity", "accuracy"}
    assert set(metrics) == {*wanted, "loss_random_windows"}
    assert metrics["loss"] == pytest.approx(metrics["loss_per_token"])  # a token is a character
    assert metrics["bits_per_char"] == pytest.approx(metrics["loss"] / np.log(2))
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["loss_per_token"]))
    assert {"ngram", "bz2", "xz"} <= set(result["baselines"])
    low, high = result["intervals"]["loss"]
    assert low < metrics["loss"] < high
    report = json.loads(Path(result["report"]).read_text())
    assert [s["temperature"] for s in report["samples"]] == [0.5, 0.8, 1.0]
    assert "n-gram" in report["verdict"]
    pictures = {p.name for p in Path(result["report"]).parent.glob("*.png")}
    assert {"surprise.png", "attention.png", "curves.png", "loss_by_position.png"} <= pictures
    looked = sorted((Path(result["report"]).parent / "samples").glob("*.json"))
    assert [p.stem for p in looked] == ["00001", "00002"]
    assert len(json.loads(looked[0].read_text())[0]["text"]) == 100


def test_the_same_seed_gives_the_same_text_everywhere(at_it: tuple[Runs, dict]) -> None:
    run, result = at_it
    asked = ["--prompt", "the qu", "--max-tokens", "40", "--seed", "3", "--temperature", "0.7"]
    first, again = (run(TASK, "generate", "latest", *asked, "--json").json for _ in range(2))
    assert len(first["tokens"]) == 40
    assert first["text"] == again["text"]
    shown = run(TASK, "generate", "latest", *asked)
    assert shown.out.rstrip("\n") == first["text"].rstrip("\n")
    other = run(TASK, "generate", "latest", *asked[:-3], "4", *asked[-2:], "--json").json
    assert other["text"] != first["text"]

    app = create_app(Service(Servables([load_model("text", Path(result["export"]))])))
    body = {"prompt": "the qu", "max_tokens": 40, "top_k": 0, "seed": 3}
    body |= {"temperature": 0.7, "top_p": 1.0}
    short = {**body, "prompt": "a", "max_tokens": 5}

    answer = asked_over_http(app, {"instances": [body, short]})
    assert answer.status_code == 200, answer.text
    served, brief = answer.json()["predictions"]
    assert served["text"] == first["text"]
    assert served["log_probability"] == pytest.approx(first["log_probability"], rel=1e-4)
    assert [t for t in brief["tokens"] if t >= 0] == brief["tokens"][:5]
    assert len(brief["text"]) == 5
    nothing = asked_over_http(app, {"instances": [{**body, "max_tokens": 0}]}).json()
    assert nothing["predictions"] == [{"text": "", "tokens": [-1], "log_probability": 0.0}]

    wish = {k: v for k, v in body.items() if k != "top_k"} | {"model": "text", "n": 2}
    texts = [first["text"], other["text"]]
    answer = asked_over_http(app, wish, "/v1/completions")
    assert [choice["text"] for choice in answer.json()["choices"]] == texts
    streamed = ["", ""]
    for line in asked_over_http(app, wish | {"stream": True}, "/v1/completions").iter_lines():
        for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
            streamed[choice["index"]] += choice["text"]
    assert streamed == texts


def asking(run: Runs) -> Callable[..., dict[str, Any]]:
    """Generate 30 tokens, or as many as is said."""

    def text(*more: str) -> dict[str, Any]:
        done = run(TASK, "generate", "latest", "--max-tokens", "30", *more, "--json")
        assert done.code == 0, done.err
        return done.json

    return text


def test_ways_to_generate(at_it: tuple[Runs, dict]) -> None:
    text = asking(at_it[0])
    greedy = text("--prompt", "the ", "--greedy")
    assert greedy["text"] == text("--prompt", "the ", "--top-k", "1", "--temperature", "3")["text"]
    assert text("--prompt", "the ", "--top-p", "1e-6")["text"] == greedy["text"]
    assert text("--prompt", "the ", "--min-p", "0.999999")["text"] == greedy["text"]
    best = text("--prompt", "the ", "--beam", "5")
    assert best["log_probability"] >= greedy["log_probability"]
    stopped = text("--prompt", "the ", "--greedy", "--stop", greedy["text"][4:7])
    assert stopped["text"] == greedy["text"][:4]
    free = text("--prompt", "the ", "--no-repeat-ngram", "2", "--greedy")
    pairs = list(zip(free["tokens"], free["tokens"][1:], strict=False))
    assert len(set(pairs)) == len(pairs)
    assert (
        text("--prompt", "the ", "--greedy", "--repetition-penalty", "50")["text"] != greedy["text"]
    )
    assert text("--greedy")["tokens"]  # no prompt at all
    unknown = text("--prompt", "th\u00fce ", "--greedy")
    assert unknown["dropped"] == "\u00fc"
    assert unknown["text"] == greedy["text"]


@pytest.mark.slow
def test_generating_where_there_is_no_room(at_it: tuple[Runs, dict]) -> None:
    text = asking(at_it[0])
    assert text("--prompt", "the ", "--beam", "1")["seed"] == 0
    # More tokens than the vocabulary has cannot all differ: then they may repeat.
    every = text("--prompt", "the ", "--no-repeat-ngram", "1", "--max-tokens", "60")
    assert len(every["tokens"]) == 60
    assert np.isfinite(every["log_probability"])
    wide = text("--prompt", "the ", "--no-repeat-ngram", "1", "--max-tokens", "60", "--beam", "2")
    assert np.isfinite(wide["log_probability"])
    # Longer than the context: the last part counts.
    long = "again " * 20 + "the quick brown f"
    assert (
        text("--prompt", long, "--greedy")["text"]
        == text("--prompt", long[-16:], "--greedy")["text"]
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--temperature", "0"], "--temperature: got 0; accepted: at least 0.001"),
        (["--temperature", "1e-40"], "--temperature: got 1e-40"),
        (["--temperature", "-1"], "--temperature: got -1"),
        (["--temperature", "nan"], "--temperature: got nan"),
        (["--top-p", "0"], "--top-p: got 0; accepted: at least 0.000001, at most 1"),
        (["--top-p", "1.5"], "--top-p: got 1.5"),
        (["--min-p", "1"], "--min-p: got 1"),
        (["--stop", ""], "--stop: got an empty string"),
        (["--prompt", "a", "--prompt-file", "b"], "exclude each other"),
        (["--prompt-file", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--greedy", "--beam", "2"], "exclude each other"),
        (["--prompt", "\u00fc", "--strict"], "not in the vocabulary"),
    ],
)
def test_wishes_that_are_not_accepted(
    at_it: tuple[Runs, dict], more: list[str], words: str
) -> None:
    done = at_it[0](TASK, "generate", "latest", *more)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not done.out


def test_another_text_is_scored(at_it: tuple[Runs, dict], tmp_path: Path) -> None:
    run, result = at_it
    own = run(TASK, "evaluate", "latest", "--json").json
    assert own["metrics"]["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-5)
    other = tmp_path / "other.txt"
    other.write_text("ZEBRAS " * 50 + story(100))
    found = run(TASK, "evaluate", "latest", "--data", str(other), "--json")
    assert found.code == 0, found.err
    assert found.json["metrics"]["loss"] > own["metrics"]["loss"]
    report = json.loads(Path(found.json["report"]).read_text())
    assert any("left out" in note for note in report["data_notes"])


@pytest.mark.slow
def test_recurrent_models_and_bpe(dlkit: Runs, written: Path) -> None:
    more = ["--model", "lstm", "-p", "units=16", "-p", "depth=1", "--split", "90/10"]
    tokens = ["--tokenizer", "bpe", "--vocabulary", "260", "--steps", "30"]
    done = dlkit(TASK, "train", "--data", written, *SMALL, *more, *tokens, "--json")
    assert done.code == 0, done.err
    assert done.json["split"] == "validation"
    metrics = done.json["metrics"]
    assert metrics["loss"] < metrics["loss_per_token"]
    made = dlkit(
        TASK, "generate", "latest", "--prompt", "the quick \u00fc", "--max-tokens", "9", "--json"
    )
    assert len(made.json["tokens"]) == 9
    assert made.json["dropped"] == ""
    app = create_app(Service(Servables([load_model("text", Path(done.json["export"]))])))
    body = {"prompt": "the quick \u00fc", "max_tokens": 9, "top_k": 0, "seed": 0}
    body |= {"temperature": 0.8, "top_p": 1.0}
    answer = asked_over_http(app, {"instances": [body]})
    assert answer.json()["predictions"][0]["text"] == made.json["text"]
    scored = {"signature_name": "score", "instances": ["the quick", "a"]}
    rows = asked_over_http(app, scored).json()["predictions"]
    assert all(value < 0 for value in rows[0])
    assert rows[1][1:] == [0.0] * (len(rows[1]) - 1)
    out = dlkit(TASK, "export", "latest", "--out", "out")
    assert out.code == 0
    assert Path("out/1/assets.extra/tokenizer.json").exists()
    again = dlkit(
        TASK, "generate", "out", "--prompt", "the quick \u00fc", "--max-tokens", "9", "--json"
    )
    assert again.json["text"] == made.json["text"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.slow
@pytest.mark.parametrize("model", ["transformer", "lstm"])
def test_a_killed_run_ends_as_the_whole_one(
    dlkit: Runs, here: Path, written: Path, model: str
) -> None:
    small = {"transformer": ["-p", "dim=16", "-p", "depth=1"], "lstm": ["-p", "units=16"]}[model]
    arguments = [TASK, "train", "--data", str(written), "--model", model, *SMALL, *small]
    arguments += ["-p", "dropout=0.1", "--steps", "900"]
    whole = dlkit(*arguments, "--json")
    assert whole.code == 0, whole.err
    command = [sys.executable, "-c", CHILD, *arguments]
    with subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while not (line := process.stderr.readline()).startswith("epoch 11/"):
            assert line, "training ended"
        process.send_signal(signal.SIGKILL)
    run = re.findall(
        r"[0-9a-f]{32}", "".join(p.name for p in (here / "mlruns/checkpoints").iterdir())
    )
    killed = next(r for r in run if r != whole.json["run"])
    resumed = dlkit(TASK, "train", "--resume", killed, "--json")
    assert resumed.code == 0, resumed.err
    client = tracking.client()
    weights = [client.get_run(r).data.tags["dlkit.weights"] for r in (whole.json["run"], killed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("made", "more", "words"),
    [
        (b"", [], "empty"),
        (b"too short", [], "a context of 16 needs 17"),
        (b"a" * 5000, [], "'a' alone"),
        (b"\x00\x01\x02" * 900, [], "binary"),
        (b"caf\xe9 " * 900, [], "offset 3"),
        (b"abc " * 900, ["--split", "90/20"], "--split: got '90/20'"),
        (b"abc " * 900, ["--vocabulary", "300"], "--vocabulary: goes with --tokenizer bpe"),
        (b"abc " * 900, ["--model", "lstmm"], "did you mean 'lstm'?"),
        (b"abc " * 900, ["-p", "bidirectional=true"], "must not see what comes after"),
        (b"abc " * 900, ["-p", "heads=5"], "5, which does not divide"),
        (b"abc " * 900, ["--field", "text"], "--field: got 'text'"),
        (b"abc " * 900, ["--batch-size", "4", "--micro-batch", "8"], "--micro-batch: got 8"),
        (b"abc " * 900, ["--model", "gru", "--micro-batch", "8"], "carries a state for each row"),
    ],
)
def test_what_cannot_be_trained_on_is_told(
    dlkit: Runs, here: Path, made: bytes, more: list[str], words: str
) -> None:
    (here / "text.txt").write_bytes(made)
    done = dlkit(TASK, "train", "--data", "./text.txt", "--context-length", "16", *more)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert not done.out


@pytest.mark.slow
def test_tiny_shakespeare_is_found(real_data: Path, dlkit: Runs) -> None:
    file = real_data / "tinyshakespeare.txt"
    quick = [
        "--steps",
        "20",
        "--eval-every",
        "20",
        "--split",
        "90/10",
        "-p",
        "dim=16",
        "-p",
        "depth=1",
    ]
    done = dlkit(TASK, "train", "--data", file, *SMALL[:4], *quick, "--json")
    assert done.code == 0, done.err
    assert done.json["baselines"]["ngram"]["loss"] == pytest.approx(1.669, abs=0.005)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["heads=5", "dim=64"], "-p heads: got 5, which does not divide the width 64; accepted: 1,"),
        (["heads=5"], "-p heads: got 5, which does not divide the width 128"),
        (["variant=nanogpt-gpu", "dim=100"], "-p heads: got 6, which does not divide the width 100"),
        (['transformer_layers=[{"heads": 4}, {"heads": 3}]'], "-p transformer_layers[1].heads: got 3"),
    ],
)  # fmt: skip
def test_heads_that_do_not_divide_the_width(dlkit: Runs, more: list[str], words: str) -> None:
    # Told before the data are looked for.
    done = dlkit(TASK, "train", "--data", "no.txt", *(part for p in more for part in ("-p", p)))
    assert done.code == 2
    assert words in done.err


def test_sizes_are_those_of_the_variants() -> None:
    assert {name: (v["dim"], v["heads"]) for name, v in VARIANTS.items()} == SIZES
