"""The recipe: series, model, run, fit, calibrate, evaluate, export."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from pipelines.commands import as_dict, outcome
from pipelines.forecasting.config import (
    DEFAULT_EPOCHS,
    DEFAULT_PATIENCE,
    DEFAULT_STEPS,
    TASK,
    Config,
    load,
)
from pipelines.forecasting.setup import checked, compiled_model, streams


def train(config: Config, resume: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train a forecaster, score it on every window of the test span and export it."""
    began = time.monotonic()

    params = checked(config)
    data = load(config)  # pandas alone: what is wrong with it is told before TensorFlow loads

    from dlkit import tracking
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    say(data.describe(), quiet)
    for note in data.notes:
        say(f"note: {note}", quiet)
    tracking.client()
    load_tensorflow(keras=True)

    from dlkit import export, health, training
    from dlkit.evaluation import plots
    from dlkit.evaluation.calibration import conformal
    from dlkit.evaluation.forecast import forecast_report
    from dlkit.export.forecast import Forecaster, forecasts, held_out

    # Model.
    model, rate = compiled_model(config, data.spec)
    stream, validation, batch_size = streams(config, data)
    steps_per_epoch = len(data.starts("train")[0]) // batch_size

    # Run.
    if resume is None:
        run = tracking.start_run(
            TASK,
            {**{k: v for k, v in as_dict(config).items() if k != "params"}, **params},
            {"dlkit.model": config.model, "dlkit.data": config.data}
            | {tracking.FINGERPRINT_TAG: data.fingerprint()},
            name=f"{config.model} on {config.data}",
        )
    else:
        run = tracking.resume_run(TASK, resume)
        tracking.same_data(run, data.fingerprint())
    folder = tracking.checkpoint_folder(run.id)
    say(f"run {run.id}  {config.model}, {model.count_params():,} parameters", quiet)

    with tracking.recorded(run):
        notes = folder / "log"
        notes.mkdir(exist_ok=True)
        (notes / "environment.json").write_text(json.dumps(tracking.environment(), indent=1))
        (notes / "model.json").write_text(model.to_json(indent=1))
        (notes / "config.json").write_text(json.dumps(as_dict(config), indent=1))
        shutil.copyfile(notes / "config.json", folder / "config.json")
        run.artifacts(notes)

        # Fit.
        limited = config.time_limit is not None
        usual = max(DEFAULT_EPOCHS, -(-DEFAULT_STEPS // steps_per_epoch))
        position = training.fit(
            model,
            stream,
            validation,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            epochs=config.epochs or (None if limited else usual),
            time_limit=config.time_limit,
            schedule=config.schedule,
            learning_rate=rate,
            warmup=config.warmup,
            patience=config.patience or (None if limited else DEFAULT_PATIENCE),
            monitor="loss",
            ema=config.ema,
            monitor_gradients=config.monitor_gradients,
            precision=config.precision,
            path=folder / "checkpoint.npz",
            on_epoch=run.metrics,
            on_save=run.flush,
            quiet=quiet,
        )
        say(f"best epoch {position.best_epoch}; training ended: {position.finished}", quiet)
        found, heard, tags = health.told(position, folder / "report")
        run.tags(tags)

        # Calibrate: how far off the forecasts of the validation span are, step by step.
        scaled = (data.rows - data.mean) / data.deviation
        seen = forecasts(model, data, "validation")
        truth = data.windows_of(scaled, "validation")
        radius = conformal(truth, seen["lower"], seen["upper"], config.coverage)

        # Evaluate.
        split = "test" if data.sizes()["test"] else "validation"
        answers = forecasts(model, data, split, radius)
        report = forecast_report(
            data,
            scaled,
            split,
            answers["forecast"],
            answers["lower"],
            answers["upper"],
            folder / "report",
            coverage=config.coverage,
            quantiles=answers.get("quantiles"),
            notes=heard,
            about={"run": run.id, "task": TASK, "model": config.model, "data": config.data}
            | {"best_epoch": position.best_epoch, "training_seconds": position.seconds}
            | {"parameters": model.count_params()}
            | {"validation_loss": position.best[1] if position.best else None}
            | {"splits": data.sizes(), "data_notes": data.notes}
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
                | {"roles": data.roles._asdict(), "quantiles": data.spec.quantiles},
            )
            run.model(folder / "export", position.step)
        run.tags({"dlkit.weights": training.weights_hash(model)})

    result = outcome(report, run.artifact("report.json"), run.export(), began)
    shutil.rmtree(folder / "report", ignore_errors=True)
    shutil.rmtree(folder / "export", ignore_errors=True)
    if run.spooling:
        say(f"note: the store failed ({run.spooling}); deliver with: dlkit runs sync", quiet)
    return result
