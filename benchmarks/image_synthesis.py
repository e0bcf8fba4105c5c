"""Generators of pictures in equal seconds, between a floor of real pictures and a ceiling of noise.

python benchmarks/image_synthesis.py [--rows A,B] [--seconds N] [--seed 0] [--again]

Fashion-MNIST: 54,000 pictures to train on, 6,000 to choose the epoch by, 10,000 test pictures that
10,000 generated ones are held against, by the features of a net that dlkit trains (its hash and
accuracy are in each row). Rows of dlkit are `dlkit image-synthesis train` with the options shown;
`keras-dcgan` and `keras-wgan-gp` are those of Keras's own examples (`benchmarks/peers/keras_gans.py`),
in the same seconds and judged by the same net.

Beside them: `stacked-plain`, `stacked-stable` and `stacked-pac` (1,000 modes of three stacked
digits, counted among 26,000 pictures as in PacGAN's code, of the baselines among 10,000; a
discriminator a quarter of the generator's width; the relativistic loss of `stacked-stable` was chosen as
the one that collapsed least in short trials, which longer ones do not bear out), `vae-likelihood` (dynamically binarised MNIST,
1,000 test pictures, 5,000 weighted draws), `mnist-cgan`, `mnist-cyclegan` (digits against inverted
ones turned by 30 degrees; a class kept is told by a net trained on such pictures) and `sampling`
(pictures a second of exported generators of this benchmark's rows). A row takes 1,200 seconds,
those of `SECONDS` more, or all what `--seconds` says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from results_file import ROOT, dlkit, row

NAME = "image_synthesis"
PEERS = ("keras-dcgan", "keras-wgan-gp")
FASHION = ["--data", "tfds:fashion_mnist"]
MNIST = ["--data", "tfds:mnist"]
# Options of each row; what is not said is the model's default.
ROWS: dict[str, list[str]] = {
    "vae": [*FASHION, "--model", "vae"],
    "dcgan-ns": [*FASHION, "--model", "dcgan"],
    "dcgan-wgan-gp": [*FASHION, "--model", "dcgan", "--loss", "wgan-gp"],
    "dcgan-hinge": [*FASHION, "--model", "dcgan", "--loss", "hinge"],
    "cgan": [*FASHION, "--model", "cgan"],
    "progan": [*FASHION, "--model", "progan"],
    "ddpm": [*FASHION, "--model", "ddpm"],
    "stacked-plain": [
        "--data", "stacked-mnist", "--model", "dcgan", "-p", "discriminator_filters=8",
    ],
    "stacked-stable": [
        "--data", "stacked-mnist", "--model", "dcgan", "-p", "discriminator_filters=8",
        "-p", "discriminator_norm=layer", "--loss", "relativistic",
    ],
    "stacked-pac": [
        "--data", "stacked-mnist", "--model", "dcgan", "-p", "discriminator_filters=8",
        "-p", "pac=4",
    ],
    "mnist-cgan": [*MNIST, "--model", "cgan"],
}  # fmt: skip
# Rows that need longer than the others to show what they are for.
SECONDS = {"vae-likelihood": 1800}
USUAL_SECONDS = 1200
# Pictures among which modes are counted, as in the code of Lin et al. 2018, arXiv:1712.04086.
STACKED_SAMPLES = 26_000
DEGREES = 30
SHOWN = ("fid", "kid", "precision", "recall", "density", "coverage", "fid_ratio")


def generator(options: list[str], seconds: int, seed: int, data_dir: Path) -> dict[str, Any]:
    """Train a generator with dlkit and return its report's figures."""
    arguments = ["image-synthesis", "train", *options, "--no-download"]
    arguments += ["--time-limit", str(seconds), "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as home:
        here = _home(Path(home))
        result = dlkit(*arguments, "--data-dir", str(data_dir), cwd=here)
        report = json.loads(Path(result["report"]).read_text(encoding="utf-8"))
        _keep(here)
        if "stacked-mnist" in options:
            result["metrics"] |= modes(Path(result["export"]), STACKED_SAMPLES, data_dir)
            for name in ("modes", "modes_kl"):  # that of the report is of fewer pictures
                del result["intervals"][name]
    names = ("feature_net", "steps", "best_epoch", "parameters", "generator_parameters", "notes")
    return {
        "typed": f"dlkit {' '.join(arguments)}",
        **{name: report[name] for name in names},
        "training_seconds": report["training_seconds"],
        **{name: result[name] for name in ("metrics", "intervals", "baselines", "seconds")},
    }


def modes(export: Path, count: int, data_dir: Path) -> dict[str, Any]:
    """Count the modes of stacked digits among pictures of an exported generator.

    Args:
        export: its directory.
        count: pictures.
        data_dir: of tensorflow-datasets.
    Returns:
        `modes`, `modes_kl` (against the shares of training pictures) and `modes_samples`.
    """
    from dlkit.runtime import load_tensorflow

    load_tensorflow(keras=True)
    from dlkit.data.pictures import DIGITS, STACKED, load_pictures
    from dlkit.evaluation import feature_net, fidelity
    from pipelines.image_synthesis.drawn import Drawn

    given: dict[str, Any] = {"data_dir": str(data_dir), "download": False}
    net = feature_net.trained(
        load_pictures(DIGITS, image_size=28, **given), ROOT / ".feature-nets", per_channel=True
    )
    drawn = Drawn(str(export))
    drawn.load()
    told = np.concatenate([net.classes(pixels) for _, _, pixels in drawn.pictures(count, 0)])
    shares = np.bincount(load_pictures(STACKED, **given).train.y, minlength=1000)
    found, divergence = fidelity.modes(told, 1000, shares / shares.sum())
    return {"modes": found, "modes_kl": divergence, "modes_samples": count}


def _home(folder: Path) -> Path:
    """Make a store beside which the feature nets of earlier rows stand."""
    kept = ROOT / ".feature-nets"
    if kept.is_dir():
        target = folder / "mlruns" / "checkpoints" / "features"
        target.parent.mkdir(parents=True)
        subprocess.run(["cp", "-r", str(kept), str(target)], check=True)
    return folder


def _keep(folder: Path) -> None:
    """Keep the feature nets of a row for the next ones."""
    made = folder / "mlruns" / "checkpoints" / "features"
    subprocess.run(["cp", "-r", f"{made}/.", str(ROOT / ".feature-nets")], check=True)


def peer(name: str, seconds: int, seed: int, data_dir: Path) -> dict[str, Any]:
    """Train a peer for the seconds and judge its pictures as dlkit judges its own."""
    from dlkit.runtime import load_tensorflow

    load_tensorflow(keras=True)
    from dlkit.data.pictures import load_pictures
    from dlkit.evaluation import feature_net
    from dlkit.evaluation.synthesis_report import synthesis_report

    data = load_pictures("tfds:fashion_mnist", data_dir=str(data_dir), download=False)
    net = feature_net.trained(data, ROOT / ".feature-nets")
    with tempfile.TemporaryDirectory() as home:
        given, out = Path(home) / "train.npz", Path(home) / "made.npz"
        np.savez(given, x=data.train.x)
        job = {"peer": name, "data": str(given), "seconds": seconds, "seed": seed}
        job |= {"count": len(data.test), "out": str(out)}
        script = ROOT / "benchmarks" / "peers" / "keras_gans.py"
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(job)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        told = json.loads(done.stdout.strip().splitlines()[-1])
        pixels = np.load(out)["x"]
        report = synthesis_report(pixels, data, net, Path(home) / "report", seed=seed)
    return {
        "typed": f"benchmarks/peers/keras_gans.py ({name})",
        "feature_net": report["feature_net"],
        **told,
        **{key: report[key] for key in ("metrics", "intervals", "notes")},
        "baselines": {k: v["metrics"] for k, v in report["baselines"].items()},
    }


def likelihood(seconds: int, seed: int, data_dir: Path) -> dict[str, Any]:
    """Train a fully connected VAE on dynamically binarised MNIST; return its likelihood in nats.

    The net of Burda et al. 2016 (arXiv:1509.00519, section 5), for as long as there, is `dlkit
    image-synthesis train --data tfds:mnist --model vae -p layers=dense -p units=[200,200] -p
    latent_dim=50 --binarise dynamic --batch-size 20 --epochs 3280`.
    """
    from dlkit.runtime import load_tensorflow

    load_tensorflow(keras=True)
    from dlkit import training
    from dlkit.data.stream import eval_stream
    from dlkit.evaluation.likelihood import bounds, log_likelihood
    from dlkit.options import resolve
    from pipelines.image_synthesis.config import Config, learnt, load
    from pipelines.image_synthesis.setup import compiled_model, training_stream

    params = ("layers=dense", "units=[500,500]", "latent_dim=50")
    given = {
        "data": "tfds:mnist", "data_dir": str(data_dir), "download": False, "model": "vae",
        "binarise": "dynamic", "params": params, "time_limit": seconds, "seed": seed,
        "schedule": "cosine",
    }  # fmt: skip
    config = resolve(Config, given)
    data = learnt(config, load(config))
    model = compiled_model(config, data.spec)
    stream, size = training_stream(config, data)
    held = eval_stream(
        (data.validation.x, data.validation.y), lambda x, y: (data.preprocess(x), y), batch_size=250
    )
    with tempfile.TemporaryDirectory() as home:
        position = training.fit(
            model, stream, held, steps_per_epoch=len(data.train) // size, batch_size=size,
            epochs=None, time_limit=float(seconds), schedule=config.schedule,
            learning_rate=config.learning_rate, warmup=0, patience=None, monitor="loss",
            ema=config.ema, path=Path(home) / "checkpoint.npz", on_epoch=lambda e, logs: None,
        )  # fmt: skip
    x, y = data.preprocess(data.test.x[:1000]).numpy(), data.test.y[:1000]
    each = -log_likelihood(model, x, y, samples=5000, seed=seed)
    return {
        "typed": f"vae {' '.join(params)}, dynamic binarisation, 1,000 test pictures, 5,000 draws",
        "steps": position.step,
        "epochs": position.step * size / len(data.train),
        "training_seconds": position.seconds,
        "nll": float(each.mean()),
        "nll_interval": [float(each.mean() + s * 1.96 * each.std() / 1000**0.5) for s in (-1, 1)],
        "elbo": float(bounds(model, x, y, seed).mean()),
    }


def translated(seconds: int, seed: int, data_dir: Path) -> dict[str, Any]:
    """Train a cyclegan between MNIST digits and inverted ones turned by 30 degrees, unpaired."""
    from scipy.ndimage import rotate

    from dlkit.data.images import load_images

    with tempfile.TemporaryDirectory() as home:
        here = _home(Path(home))
        data = load_images("tfds:mnist", data_dir=str(data_dir), download=False)
        halves: dict[str, dict[str, Any]] = {"a": {}, "b": {}}
        for split, key in (("train", "train"), ("validation", "val"), ("test", "test")):
            part = getattr(data, split)
            for i, name in enumerate(halves):  # no digit is in both
                x = part.x[i::2]
                if name == "b":
                    x = 255 - rotate(x, DEGREES, axes=(2, 1), reshape=False, order=1)
                halves[name][f"x_{key}"] = x
                halves[name][f"y_{key}"] = part.y[i::2]
        for name, arrays in halves.items():
            np.savez(here / f"{name}.npz", **arrays)
        arguments = ["image-synthesis", "train", "--model", "cyclegan", "--data", "./a.npz"]
        arguments += ["--data-b", "./b.npz", "--time-limit", str(seconds), "--seed", str(seed)]
        arguments += ["-p", "discriminator_depth=2", "-p", "cycle=2", "-p", "identity=0"]
        result = dlkit(*arguments, cwd=here)
        _keep(here)
        report = json.loads(Path(result["report"]).read_text(encoding="utf-8"))
    return {
        "typed": f"dlkit {' '.join(arguments)}",
        **{name: report[name] for name in ("steps", "parameters", "training_seconds")},
        **{name: result[name] for name in ("metrics", "intervals", "baselines", "seconds")},
    }


def sampling(data_dir: Path) -> dict[str, Any]:
    """Train a dcgan and a ddpm for a minute each, and time their exported graphs."""
    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow()
    found = {}
    for name in ("dcgan", "ddpm"):
        with tempfile.TemporaryDirectory() as home:
            arguments = ["image-synthesis", "train", *FASHION, "--no-download", "--model", name]
            arguments += ["--time-limit", "60", "--count", "200"]
            result = dlkit(*arguments, "--data-dir", str(data_dir), cwd=_home(Path(home)))
            loaded = tf.saved_model.load(str(Path(result["export"]) / "1"))
            endpoint = loaded.signatures["serving_default"]
            size, times = 64, []
            label = {"label": tf.range(size) % 10} if result["model"] == "ddpm" else {}
            specs = endpoint.structured_input_signature[1]
            label = label if "label" in specs else {}
            for i in range(6):
                began = time.perf_counter()
                endpoint(seed=tf.range(i * size, (i + 1) * size), **label)
                times.append(time.perf_counter() - began)
            found[name] = {"pictures_a_second": size / float(np.median(times[1:])), "batch": size}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="../shared/data/tfds")
    names = [*ROWS, *PEERS, "vae-likelihood", "mnist-cyclegan", "sampling"]
    parser.add_argument("--rows", default=",".join(names))
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    folder, asked = Path(given.data_dir).resolve(), given.rows.split(",")
    for name in asked:
        if name not in names:
            parser.error(f"--rows: no row '{name}'; accepted: {', '.join(names)}")
    if not (folder / "fashion_mnist").is_dir():
        parser.error(f"--data-dir: no folder {folder / 'fashion_mnist'}")
    for name in asked:
        job: Callable[[], dict[str, Any]]
        seconds = given.seconds or SECONDS.get(name, USUAL_SECONDS)
        if name in ROWS:
            job = lambda n=name, s=seconds: generator(ROWS[n], s, given.seed, folder)  # noqa: E731
        elif name in PEERS:
            job = lambda n=name, s=seconds: peer(n, s, given.seed, folder)  # noqa: E731
        elif name == "vae-likelihood":
            job = lambda s=seconds: likelihood(s, given.seed, folder)  # noqa: E731
        elif name == "mnist-cyclegan":
            job = lambda s=seconds: translated(s, given.seed, folder)  # noqa: E731
        else:
            job = lambda: sampling(folder)  # noqa: E731
        key = name if given.seed == 0 else f"{name}-seed-{given.seed}"
        told_by = {} if name == "sampling" else {"seconds_asked": seconds}
        print(f"{key:18} {told(row(NAME, key, job, given.again, **told_by))}", flush=True)
    for name in names:
        if name not in asked:
            print(f"{name}: not run")


def told(found: dict[str, Any]) -> str:
    """Return a row's figures in one line."""
    if "nll" in found:
        low, high = found["nll_interval"]
        return f"nll {found['nll']:.2f} [{low:.2f}, {high:.2f}] nats, {found['epochs']:.0f} epochs"
    if "metrics" not in found:
        return json.dumps(found)
    own = found["metrics"]
    more = [n for n in own if n.startswith(("modes", "label", "classif", "cycle", "fid_b"))]
    figures = [f"{n} {own[n]:.4g}" for n in (*SHOWN, *more) if n in own]
    floor = found["baselines"]["real_against_real"]["fid"]
    return f"{', '.join(figures)}; floor {floor:.3g}; {found['steps']:,} steps"


if __name__ == "__main__":
    main()
