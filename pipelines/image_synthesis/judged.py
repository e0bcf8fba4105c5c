"""What is measured beside the pictures' features: likelihood, and what a classifier learns of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Test pictures, and draws of the code for each, that a likelihood is estimated from. The benchmark
# takes more draws.
PICTURES, DRAWS = 200, 500
# Pictures that a classifier can be trained on.
FEWEST = 100


def more_of(
    model: Any,
    config: Any,
    data: Any,
    own: Any,
    pixels: Any,
    labels: Any,
    folder: Path,
    quiet: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Return more figures of a trained generator, and notes on them.

    Args:
        model, config: trained, and how.
        data: pictures as they come, which a classifier is scored on.
        own: the same as the model learnt them, whose likelihood is measured.
        pixels, labels: what it made, uint8 `(n, h, w, c)`, and of what class, int32 `(n,)`.
        folder, quiet: see `classification_accuracy_score`.
    Returns:
        `metrics` and `intervals`: of a variational autoencoder `elbo` and `nll`, in nats of a test
        picture; of a conditional model `classification_accuracy_score`. And notes.
    """
    import numpy as np

    from dlkit.evaluation.synthesis_report import classification_accuracy_score
    from dlkit.tracking import checkpoint_folder

    found: dict[str, dict[str, Any]] = {"metrics": {}, "intervals": {}}
    notes: list[str] = []
    if hasattr(model, "log_weights"):
        from dlkit.evaluation.likelihood import bounds, log_likelihood

        # Drawn, since a source may come class by class.
        at = np.sort(np.random.default_rng(config.seed).permutation(len(own.test))[:PICTURES])
        x, y = own.preprocess(np.asarray(own.test.x[at])).numpy(), own.test.y[at]
        for name, each in (
            ("elbo", bounds(model, x, y, config.seed)),
            ("nll", -log_likelihood(model, x, y, samples=DRAWS, seed=config.seed)),
        ):
            mean, half = float(each.mean()), 1.96 * float(each.std() / len(each) ** 0.5)
            found["metrics"][name] = mean
            found["intervals"][name] = [mean - half, mean + half]
        what = {
            "none": "grey levels taken as chances, a pseudo-likelihood",
            "dynamic": "pixels drawn black or white, anew at each training step",
            "fixed": "pixels drawn black or white once",
        }[config.binarise]
        notes.append(
            f"elbo and nll in nats of {len(y)} test pictures, nll by {DRAWS} weighted draws; {what}"
        )
    if model.conditional and len(pixels) >= FEWEST:
        scored = classification_accuracy_score(
            pixels, labels, data, folder / "classified", config.seed,
            kept=checkpoint_folder("features"), quiet=quiet,
        )  # fmt: skip
        name = "classification_accuracy_score"
        for key in ("metrics", "intervals"):
            found[key][name] = scored[key]["accuracy"]
        notes.append(
            f"a classifier trained on {scored['rows']:,} generated pictures is right on "
            f"{scored['metrics']['accuracy']:.1%} of the test split, on as many real ones on "
            f"{scored['metrics']['real_accuracy']:.1%}"
        )
    return found, notes
