"""The report of a generator: how near its pictures are to real ones, between a floor and a ceiling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.checkpoint import write_atomically
from dlkit.data.spec import Data, Split, digests, taken
from dlkit.errors import DataError, counted
from dlkit.evaluation.feature_net import FeatureNet
from dlkit.evaluation.feature_training import answer_of, fit_net, recipe_for
from dlkit.evaluation.memorised import memorised
from dlkit.evaluation.synthesis_metrics import Judge, gaussian, put_share
from dlkit.evaluation.synthesis_plots import neighbours

MOST_ROWS = 10_000
# Below so many pictures it is said that FID is biased by their number.
FEW_ROWS = 5_000
SHOWN = 32
# Products of pixels that the search for copies may take: some half a minute.
MOST_PRODUCTS = 6e11


def synthesis_report(
    samples: np.ndarray,
    data: Data,
    net: FeatureNet,
    folder: Path,
    *,
    wanted: np.ndarray | None = None,
    split: str = "test",
    held_out: Split | None = None,
    about: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    more: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare generated pictures with a held-out split; write `report.json` and `neighbours.png`.

    As many are compared as there are of each: samples, held-out and training pictures, at most
    10,000.

    Args:
        samples: uint8 `(n, h, w, c)`.
        data: the source; its training pictures make the floor and are looked through for copies.
        net: measures `fid`, `kid`, `precision`, `recall`, `density` and `coverage`; one that tells
            classes also `modes`, `modes_kl` and `label_accuracy`.
        folder: where the files go.
        wanted: the classes that were asked for, int `(n,)`, of a conditional generator.
        split: name of the split compared with.
        held_out: what is compared with, where it is no split of the data.
        about: more entries of the report.
        notes: what a reader should know.
        more: more of `metrics`, `intervals` or another mapping of the report, by its key.
        seed: of what is drawn.
    Returns:
        What `report.json` holds: `metrics`, `intervals` (95 %; of KID and the four shares by the
        spread over samples, the net and the other side taken as they are), `baselines`,
        `fid_ratio` among the metrics (FID over that of real pictures), `verdict`, `notes`. The
        baselines are `real_against_real` (training pictures, the floor; its `memorised` is that of
        the held-out pictures), `noise` (uniform values, the ceiling) and `gaussian` (drawn from a
        Gaussian fitted to the values of training pictures).
    Raises:
        DataError: fewer than 3 pictures to compare with, or samples of another shape.
    """
    against: Split = getattr(data, split) if held_out is None else held_out
    train = data.train.x
    if samples.shape[1:] != tuple(train.shape[1:]):
        raise DataError(f"samples are {samples.shape[1:]}, pictures of the data {train.shape[1:]}")
    rows = min(MOST_ROWS, len(samples), len(against), len(train))
    if rows < 3:
        raise DataError(
            f"--data {data.source}: {counted(rows, 'picture')} to compare with; needs 3"
        )
    generator = np.random.default_rng(seed)
    at = np.sort(generator.permutation(len(against))[:rows])
    real = np.asarray(against.x[at])
    order = generator.permutation(len(train))
    drawn, fitted = np.sort(order[:rows]), np.sort(order[:MOST_ROWS])
    trained_on = np.asarray(train[drawn])
    asked = None if wanted is None or not net.labels else np.asarray(wanted)[:rows]
    judge = Judge(net, real, _shares(data, net, real), seed)
    notes = [*notes, *judge.notes]
    width = int(np.prod(real.shape[1:]))
    searched = int(min(rows, max(100, MOST_PRODUCTS / (len(train) * width))))
    few = min(searched, 1000)

    own = judge.measured(samples[:rows], asked)
    copies = memorised(samples[:searched], train)
    put_share(own, "memorised", copies.memorised)
    beside = {"real_against_real": judge.measured(trained_on, data.train.y[drawn])}
    put_share(beside["real_against_real"], "memorised", memorised(real[:few], train).memorised)
    trivial = {
        "noise": generator.integers(0, 256, real.shape).astype(np.uint8),
        "gaussian": gaussian(np.asarray(train[fitted]), rows, generator),
    }
    for name, pictures in trivial.items():
        beside[name] = judge.measured(pictures, asked)
        put_share(beside[name], "memorised", memorised(pictures[:few], train).memorised)
    if asked is None:
        beside["real_against_real"]["metrics"].pop("label_accuracy", None)
        beside["real_against_real"]["intervals"].pop("label_accuracy", None)
    floor = beside["real_against_real"]["metrics"]["fid"]
    for each in (own, *beside.values()) if floor else ():
        each["metrics"]["fid_ratio"] = each["metrics"]["fid"] / floor
        each["intervals"]["fid_ratio"] = [end / floor for end in each["intervals"]["fid"]]

    if rows < FEW_ROWS:
        notes.append(
            f"{counted(rows, 'picture')} a side: FID is biased upwards by so few; the floor of real "
            "pictures shares the bias, KID has none"
        )
    if searched < rows:
        notes.append(f"copies were looked for among {counted(searched, 'sample')}")
    folder.mkdir(parents=True, exist_ok=True)
    # Those that are copies, then those nearest to being.
    ratio = copies.distance[:, 0] / np.maximum(copies.distance[:, 1], 1e-9)
    shown = np.lexsort((ratio, ~copies.memorised))[: SHOWN // 2]
    others = np.setdiff1d(np.arange(searched), shown)[: SHOWN - len(shown)]
    shown = np.concatenate([shown, others])
    found = np.asarray(train[copies.nearest[shown, 0]])
    neighbours(samples[shown], found, folder / "neighbours.png", marked=copies.memorised[shown])
    report: dict[str, Any] = {
        **(about or {}),
        "split": split,
        "rows": rows,
        "rows_fingerprint": against.fingerprint(),
        "neighbours": judge.k,
        "feature_net": net.about,
        **own,
        "baselines": beside,
        "notes": notes,
    }
    for key, values in (more or {}).items():
        report[key] = {**report.get(key, {}), **values}
    report["verdict"] = verdict(report["metrics"], beside)
    text = json.dumps(report, indent=1).encode()
    write_atomically(folder / "report.json", lambda file: file.write(text))
    return report


def _shares(data: Data, net: FeatureNet, real: np.ndarray) -> np.ndarray | None:
    """Return how often each class is: by the training labels, else as the net tells real pictures."""
    classes = len(net.labels)
    if not classes:
        return None
    own = data.spec.outputs == classes
    counts = np.bincount(data.train.y if own else net.classes(real), minlength=classes)
    return counts / counts.sum()


def verdict(metrics: Mapping[str, float], beside: Mapping[str, Any]) -> str:
    """Say in words whether a generator beats a Gaussian of the pixels in FID, and how far it is."""
    own, bar = metrics["fid"], beside["gaussian"]["metrics"]["fid"]
    floor = beside["real_against_real"]["metrics"]["fid"]
    against = f"(FID {own:.3g} against {bar:.3g})"
    if own < bar:
        said = f"beats a Gaussian of the pixels {against}"
    else:
        said = f"does NOT beat a Gaussian of the pixels {against}: it has learnt less than means and covariances"
    times = f", {own / floor:.3g} times it" if floor else ""
    copied = metrics["memorised"]
    warned = f"; {copied:.1%} of the samples are copies of training pictures"
    usual = beside["real_against_real"]["metrics"]["memorised"]
    return f"{said}; real pictures score {floor:.3g}{times}" + (
        warned if copied > max(0.05, 2 * usual) else ""
    )


def classification_accuracy_score(
    samples: np.ndarray,
    labels: np.ndarray,
    data: Data,
    folder: Path,
    seed: int = 0,
    *,
    kept: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a classifier on generated pictures with the labels asked for; score it on real ones.

    The same net is trained on as many real ones beside it. A tenth of either set picks the epoch.

    Args:
        samples, labels: uint8 `(n, h, w, c)` and class numbers `(n,)`, at least 20.
        data: the real ones: as many training pictures, and the whole test split.
        folder: where an interrupted call leaves its checkpoint, and goes on from.
        seed: of the draw and of both nets.
        kept: where the answer for the real pictures, which takes as long as the other and is the
            same for every generator, is kept; None keeps none.
        quiet: show nothing.
    Returns:
        `metrics` and `intervals` with `accuracy` (the score) and `real_accuracy`, and `rows`.
    Reference:
        Ravuri & Vinyals 2019, arXiv:1905.10887. Departs from it: a small net.
    """
    n = min(len(samples), len(data.train))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(data.train))[:n])
    sides = {
        "accuracy": (samples[:n], np.asarray(labels)[:n]),
        "real_accuracy": (taken(data.train.x, drawn), data.train.y[drawn]),
    }
    column: dict[str, Any] = {"metrics": {}, "intervals": {}, "rows": n}
    for name, (x, y) in sides.items():
        digest = _digest(x, y, seed)
        path, known = folder / f"{name}-{digest}.npz", None
        if kept is not None and name == "real_accuracy":
            how = (recipe_for(x.shape[1:]), data.kind)
            tests = _digest(data.test.x, data.test.y, how)
            known = kept / f"classified-{digest}-{tests}.json"
            if known.exists():
                put_share(column, name, np.array(json.loads(known.read_text(encoding="utf-8"))))
                continue
        hits = _hits(x, y, data, path, seed, quiet)
        put_share(column, name, hits)
        if known is not None:
            known.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(hits.astype(int).tolist()).encode()
            write_atomically(known, lambda file, text=text: file.write(text))
        path.unlink()
    return column


def _hits(
    x: np.ndarray, y: np.ndarray, data: Data, path: Path, seed: int, quiet: bool
) -> np.ndarray:
    """Train a classifier on pictures; return which of the test split it is right about."""
    order = np.random.default_rng(seed).permutation(len(x))
    trained, held = order[len(x) // 10 :], order[: len(x) // 10]
    model, _ = fit_net(
        (taken(x, trained), y[trained]),
        (taken(x, held), y[held]),
        data.spec.outputs,
        path,
        kind=data.kind,
        seed=seed,
        quiet=quiet,
    )
    net = FeatureNet(answer_of(model, taken(x, trained)), {})
    return net.look(data.test.x)[1].argmax(1) == data.test.y


def _digest(x: Any, y: np.ndarray, how: object) -> str:
    """Return what tells one set of pictures, and how it is looked at, from another."""
    whole = hashlib.sha256(digests(x).tobytes())
    whole.update(np.asarray(y, np.int32).tobytes() + str(how).encode())
    return whole.hexdigest()[:16]
