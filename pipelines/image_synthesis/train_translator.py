"""The recipe for two domains: pictures of both, judges, model, run, fit, evaluate, export."""

from __future__ import annotations

import shutil
import time
from typing import Any

from pipelines import tracked
from pipelines.commands import outcome
from pipelines.image_synthesis.config import DEFAULT_EPOCHS, TASK, Config, load
from pipelines.image_synthesis.setup import compiled_model, domain_judges, one_level, paired_stream


def train_translator(
    config: Config, params: dict[str, Any], resume: str | None, quiet: bool
) -> dict[str, Any]:
    """Train a translator between two domains of pictures, without pairs, and export it."""
    began = time.monotonic()
    from dlkit import tracking
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    tracking.client()
    tf = load_tensorflow(keras=True)
    import numpy as np

    from dlkit import export, training
    from dlkit.evaluation import plots, synthesis_plots
    from dlkit.evaluation.fidelity import fid
    from dlkit.evaluation.translation_report import DIRECTIONS, translation_report
    from dlkit.export.pictures import Translator
    from dlkit.plan import Validated
    from dlkit.sampling import to_pixels

    # Pictures of both domains.
    domains = load(config, fresh=resume is None)
    for name, data in zip("ab", domains, strict=True):
        say(f"domain {name}: {data.describe()}", quiet)
        for note in data.notes:
            say(f"note: {note}", quiet)
    a, b = domains

    # Model, and judges of what it makes.
    model = compiled_model(config, a.spec)
    nets = domain_judges(config, domains, quiet)
    say(f"judged by {nets[1].describe()}", quiet)

    # Run.
    fingerprint = f"{a.fingerprint()}-{b.fingerprint()}"
    run, folder = tracked.begin(TASK, config, params, fingerprint, resume)
    say(f"run {run.id}  {config.model}, {model.count_params():,} parameters", quiet)

    with tracking.recorded(run):
        tracked.keep(run, folder, config, model)

        # Fit: the kept weights are those of the lowest mean distance to the other domain.
        stream, batch_size, steps_per_epoch = paired_stream(config, a, b)
        traced = {
            way: tf.function(
                lambda x, way=way: to_pixels(model.translate(x / 127.5 - 1.0, way)),
                reduce_retracing=True,
            )
            for way in DIRECTIONS
        }

        def translate(pixels: Any, direction: str) -> Any:
            parts = [
                traced[direction](tf.constant(pixels[i : i + 250], tf.float32)).numpy()
                for i in range(0, len(pixels), 250)
            ]
            return np.concatenate(parts)

        draw = np.random.default_rng(0)  # a source may come class by class
        held = [
            np.asarray(data.validation.x[draw.permutation(len(data.validation))[:1000]])
            for data in domains
        ]
        known = [net.features(x) for net, x in zip(nets, held, strict=True)]
        shown: list[Any] = []

        def validate(logs: dict[str, float]) -> Validated:
            made = [translate(x, way) for x, way in zip(held, DIRECTIONS, strict=True)]
            shown[:] = [np.concatenate([m[:32] for m in made])]
            far = [fid(known[1 - i], nets[1 - i].features(made[i])) for i in (0, 1)]
            return Validated({"loss": float(np.mean(far)), "fid": far[0], "fid_b_to_a": far[1]})

        grids = folder / "grids"

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            run.metrics(epoch, logs)
            synthesis_plots.grid(shown[0], grids / f"epoch-{epoch:04}.png", 8)

        position = training.fit(
            model,
            stream,
            validate,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            epochs=config.epochs or (None if config.time_limit else DEFAULT_EPOCHS),
            time_limit=config.time_limit,
            schedule=config.schedule,
            learning_rate=config.learning_rate,
            warmup=config.warmup,
            patience=config.patience,
            monitor="loss",
            ema=config.ema,
            precision=config.precision,
            descends=False,
            carried=model.discriminator_optimizer.variables,
            remedy="a smaller --learning-rate",
            path=folder / "checkpoint.npz",
            on_epoch=on_epoch,
            on_save=run.flush,
            quiet=quiet,
        )
        say(f"best epoch {position.best_epoch}; training ended: {position.finished}", quiet)

        # Evaluate.
        report = translation_report(
            translate,
            domains,
            nets,
            folder / "report",
            notes=position.notes,
            about={"run": run.id, "task": TASK, "model": config.model, "data": config.data}
            | {"best_epoch": position.best_epoch, "training_seconds": position.seconds}
            | {"steps": position.step, "parameters": model.count_params()}
            | {"splits": [data.sizes() for data in domains], "judge": nets[1].describe()},
            seed=config.seed,
        )
        plots.curves(run.history(("loss", "val_loss")), folder / "report" / "curves.png")
        synthesis_plots.animated(sorted(grids.glob("*.png")), folder / "report" / "training.gif")
        run.artifacts(grids, "grids")
        run.artifacts(folder / "report")
        run.metrics(position.best_epoch, {f"test_{k}": v for k, v in report["metrics"].items()})

        # Export.
        if not run.exported(position.step):
            endpoints = Translator(model, a.spec.input_shape)
            requests, expected = endpoints.held_out(a.test, b.test)
            shutil.rmtree(folder / "export", ignore_errors=True)
            export.save(
                endpoints,
                folder / "export",
                task=TASK,
                requests=requests,
                expected=expected,
                about={"run": run.id, "model": config.model, "data": config.data}
                | {"picture_shape": a.spec.input_shape, "directions": DIRECTIONS},
                scales={"pixels": one_level()},
            )
            run.model(folder / "export", position.step)
        run.tags({"dlkit.weights": training.weights_hash(model)})

    result = outcome(report, run.artifact("report.json"), run.export(), began)
    tracked.end(run, folder, quiet)
    return result
