"""Forecasting: rate of training windows beside Keras's, latency of exports, a panel's memory.

python benchmarks/forecast_speed.py [--rows windows latency panel] [--pairs 5] [--again]

`windows`: batches of 64 windows of lookback 336 and horizon 96 from 8,640 rows of 7 channels, drawn
    in a new order each epoch, through dlkit's training stream and through
    `keras.utils.timeseries_dataset_from_array` (shuffled; window and horizon gathered as one and
    then split, the faster of its two usual ways), in turn, in one process.
`latency`: every builder, built for that shape, exported and loaded again: one window through
    `serving_default`, median of 300 calls; and through `dlkit serve` over HTTP.
`panel`: 2,000 made series of 1,000 points: peak memory of one epoch of `train` with its evaluation,
    and of `predict` for all of them, beside the same on 20 series.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results_file import ROOT, dlkit, peak, row

LOOKBACK, HORIZON, BATCH, SPAN, CHANNELS = 336, 96, 64, 8640, 7
ASKED_RATIO, ASKED_MS, ASKED_SERVED_MS = 20.0, 5.0, 10.0
CALLS = 300


def made_table(path: Path, rows: int, channels: int) -> None:
    """Write hourly series with a daily wave and noise."""
    import numpy as np
    import pandas as pd

    generator = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * np.arange(rows) / 24)[:, None]
    values = wave + generator.normal(size=(rows, channels))
    frame = pd.DataFrame(values, columns=[f"c{i}" for i in range(channels)])
    frame.insert(0, "time", pd.date_range("2020-01-01", periods=rows, freq="h"))
    frame.to_csv(path, index=False)


def windows(pairs: int, seconds: float = 3.0) -> dict[str, Any]:
    """Measure windows a second of both sides, in turn."""
    import keras

    from pipelines.forecasting.config import Config, load
    from pipelines.forecasting.setup import streams

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        made_table(table, SPAN + 2 * 2880, CHANNELS)
        config = Config(
            data=str(table),
            split=f"{SPAN}/2880/2880",
            lookback=LOOKBACK,
            horizon=HORIZON,
            batch_size=BATCH,
        )
        data = load(config)
    ours = iter(streams(config, data)[0](0, 0))
    rows = data.scaled[:SPAN].astype("float32")
    whole: Any = keras.utils.timeseries_dataset_from_array(
        rows, None, sequence_length=LOOKBACK + HORIZON, batch_size=BATCH, shuffle=True, seed=0
    )
    import tensorflow as tf

    split = whole.map(lambda w: (w[:, :LOOKBACK], w[:, LOOKBACK:]), tf.data.AUTOTUNE)
    theirs = iter(split.repeat().prefetch(tf.data.AUTOTUNE))

    def rate(batches: Any) -> float:
        next(batches)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            count += int(next(batches)[0].shape[0])
        return count / (time.perf_counter() - began)

    found = [(rate(ours), rate(theirs)) for _ in range(pairs)]
    ratios = sorted(a / b for a, b in found)
    return {
        "asked": ASKED_RATIO,
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "ours_per_second": round(statistics.median(a for a, _ in found)),
        "theirs_per_second": round(statistics.median(b for _, b in found)),
        "pairs": pairs,
    }


def median_ms(call: Callable[[], Any]) -> float:
    """Return the median of `CALLS` calls after 20 to warm up, in milliseconds."""
    for _ in range(20):
        call()
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return round(1000 * statistics.median(taken), 3)


def one_latency(directory: Path) -> float:
    """Measure an export in this process, which has loaded nothing else."""
    import numpy as np
    import tensorflow as tf

    answer = tf.saved_model.load(str(directory)).signatures["serving_default"]
    window = tf.constant(np.random.default_rng(0).normal(size=(1, LOOKBACK, CHANNELS)), tf.float32)
    return median_ms(lambda: answer(window=window)["forecast"].numpy())


def served_latency(directory: Path) -> float:
    """Measure `dlkit serve` over HTTP, one request after another."""
    import socket

    import numpy as np

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipelines.cli", "serve", f"model={directory}", "--port", str(port)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    window = np.random.default_rng(0).normal(size=(1, LOOKBACK, CHANNELS)).round(4).tolist()
    url = f"http://127.0.0.1:{port}/v1/models/model"
    body = json.dumps({"instances": [{"window": window[0]}]}).encode()
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(url, timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", port)

        def ask() -> None:
            connection.request("POST", "/v1/models/model:predict", body)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"serve answered {answer.status}")

        return median_ms(ask)
    finally:
        server.terminate()
        server.wait()


def latency() -> dict[str, Any]:
    """Train every builder for one step, export it, and measure what it answers in."""
    from dlkit.models import MODELS

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        made_table(folder / "table.csv", 2000, CHANNELS)
        for name in MODELS["forecasting"]:
            result = dlkit(
                *("forecasting", "train", "--data", "table.csv", "--model", name),
                *("--lookback", str(LOOKBACK), "--horizon", str(HORIZON)),
                *("--epochs", "1", "--batch-size", "512"),
                cwd=folder,
            )
            export = Path(result["export"])
            done = subprocess.run(
                [sys.executable, __file__, str(export / "1")],
                env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found[name] = {
                "signature_ms": json.loads(done.stdout.splitlines()[-1]),
                "served_ms": served_latency(export),
            }
            print(f"{name:14} {found[name]}", flush=True)
    return {"asked_ms": ASKED_MS, "asked_served_ms": ASKED_SERVED_MS, "models": found}


def panel(series: int, points: int = 1000) -> dict[str, Any]:
    """Train one epoch on a made panel and forecast all of it; peak memory and seconds of both."""
    import numpy as np
    import pandas as pd

    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        generator = np.random.default_rng(0)
        level, phase = generator.uniform(1, 100, series), generator.uniform(0, 7, series)
        day = np.arange(points)
        values = level[:, None] * (3 + np.sin(2 * np.pi * (day + phase[:, None]) / 7))
        values += generator.normal(size=values.shape)
        pd.DataFrame(
            {
                "shop": np.repeat(np.arange(series), points),
                "day": np.tile(pd.date_range("2020-01-01", periods=points), series),
                "sales": values.ravel().round(3),
            }
        ).to_csv(folder / "panel.csv", index=False)
        roles = ("--target", "sales", "--series-id", "shop")
        train = ("forecasting", "train", "--data", "panel.csv", *roles, "--model", "mlp")
        trained = peak(*train, "--epochs", "1", "--batch-size", "256", cwd=folder)
        predict = ("forecasting", "predict", "latest", "panel.csv", "--output", "f.csv")
        predicted = peak(*predict, cwd=folder)
        with (folder / "f.csv").open() as file:
            lines = sum(1 for _ in file) - 1
    return {"series": series, "points": points, "train": trained, "predict": predicted, "forecasts": lines}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=["windows", "latency", "panel"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if "windows" in given.rows:
        found = row("forecast_speed", "windows", lambda: windows(given.pairs), given.again)
        print(
            f"windows: {found['ours_per_second']:,} a second, {found['ratio']} times Keras's "
            f"{found['theirs_per_second']:,} {found['ratio_range']}, asked {ASKED_RATIO:g}"
        )
    if "latency" in given.rows:
        found = row("forecast_speed", "latency", latency, given.again)["models"]
        worst = {k: max(each[k] for each in found.values()) for k in ("signature_ms", "served_ms")}
        print(
            f"latency: at most {worst['signature_ms']} ms by the signature (asked {ASKED_MS:g}), "
            f"{worst['served_ms']} ms served (asked {ASKED_SERVED_MS:g})"
        )
    if "panel" in given.rows:
        few, many = (
            row("forecast_speed", f"panel-{n}", lambda n=n: panel(n), given.again)
            for n in (20, 2000)
        )
        for each in (few, many):
            print(
                f"panel of {each['series']:,}: train {each['train']['peak_mb']} MB, "
                f"{each['train']['seconds']} s; predict {each['predict']['peak_mb']} MB, "
                f"{each['predict']['seconds']} s, {each['forecasts']:,} forecasts"
            )


if __name__ == "__main__":
    if len(sys.argv) == 2 and Path(sys.argv[1]).is_dir():
        print(json.dumps(one_latency(Path(sys.argv[1]))))
    else:
        main()
