"""The recipe: series, model, run, fit, calibrate, evaluate, export."""

from __future__ import annotations

import shutil
import time
from typing import Any

from pipelines import tracked
from pipelines.commands import outcome
from pipelines.forecasting.config import TASK, Config, load
from pipelines.forecasting.rebuilt import SCALE
from pipelines.forecasting.scoring import calibrated, report_on
from pipelines.forecasting.setup import checked, compiled_model, fitted


def train(
    config: Config,
    resume: str | None = None,
    quiet: bool = False,
    *,
    data: Any = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """Train a forecaster, score it on every window of the test span and export it.

    A comparison gives the `data` that it has loaded, and its own run as `parent`.
    """
    began = time.monotonic()

    params = checked(config)
    told = quiet or data is not None
    # By pandas alone: what is wrong with it is told before TensorFlow loads.
    data = load(config) if data is None else data

    from dlkit import tracking
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    say(data.describe(), told)
    for note in data.notes:
        say(f"note: {note}", told)
    tracking.client()
    load_tensorflow(keras=True)

    from dlkit import export, health, training
    from dlkit.evaluation import plots
    from dlkit.export.forecast import Forecaster, endpoint, held_out, scales

    # Model.
    model = compiled_model(config, data.spec)

    # Run.
    run, folder = tracked.begin(TASK, config, params, data.fingerprint(), resume, parent)
    say(f"run {run.id}  {config.model}, {model.count_params():,} parameters", quiet)

    with tracking.recorded(run):
        tracked.keep(run, folder, config, model)

        # Fit.
        _, position = fitted(
            config,
            data,
            folder / "checkpoint.npz",
            on_epoch=run.metrics,
            on_save=run.flush,
            model=model,
            quiet=quiet,
        )
        say(
            f"{config.keep} epoch {position.best_epoch}; training ended: {position.finished}", quiet
        )
        found, heard, tags = health.told(position, folder / "report")
        run.tags(tags)

        # Calibrate on validation, evaluate on test.
        radius, error = calibrated(model, data, config.coverage)
        report = report_on(
            endpoint(model, data, radius),
            data,
            folder / "report",
            coverage=config.coverage,
            notes=heard,
            about={"run": run.id, "task": TASK, "model": config.model, "data": config.data}
            | {"best_epoch": position.best_epoch, "training_seconds": position.seconds}
            | {"parameters": model.count_params(), "steps": position.step}
            | {"validation_mse": error}
            | found,
        )
        plots.curves(run.history(("loss", "val_loss")), folder / "report" / "curves.png")
        run.artifacts(folder / "report")
        run.metrics(position.best_epoch, {f"test_{k}": v for k, v in report["metrics"].items()})

        # Export.
        if not run.exported(position.step):
            requests, expected = held_out(model, data, radius)
            shutil.rmtree(folder / "export", ignore_errors=True)
            export.save(
                Forecaster(model, data, radius),
                folder / "export",
                task=TASK,
                requests=requests,
                expected=expected,
                about={"run": run.id, "model": config.model, "data": config.data}
                | {"lookback": data.spec.input_shape[0], "horizon": data.spec.horizon}
                | {"frequency": data.alias, "season": data.season, "coverage": config.coverage}
                | {"roles": data.roles._asdict(), "quantiles": data.spec.quantiles}
                | {"known_until": data.known_until()}
                | {name: getattr(data, name).tolist() for name in SCALE},
                scales=scales(data),
            )
            run.model(folder / "export", position.step)
        run.tags({"dlkit.weights": training.weights_hash(model)})

    result = outcome(report, run.artifact("report.json"), run.export(), began)
    tracked.end(run, folder, quiet)
    return result
