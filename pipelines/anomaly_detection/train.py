"""The recipe: examples, models, run, fit, calibrate, evaluate, export."""

from __future__ import annotations

import dataclasses
import shutil
import time
from typing import Any

from dlkit.errors import OptionError, one_of
from pipelines import tracked
from pipelines.anomaly_detection.config import TASK, Config, load
from pipelines.anomaly_detection.setup import centred, checked, compiled_model, fitted
from pipelines.anomaly_detection.starting import source_of, start_from
from pipelines.commands import outcome


def train(config: Config, resume: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train an anomaly detector on normal rows, score it on the others and export it."""
    began = time.monotonic()

    params = checked(config)

    from dlkit import tracking
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    tracking.client()
    if config.init_from is not None and resume is None:
        config = dataclasses.replace(config, init_from=source_of(config.init_from))
    load_tensorflow(keras=True)
    data = load(config)

    from dlkit import export, health, training
    from dlkit.detection import centre
    from dlkit.detection.components import ways
    from dlkit.detection.detector import Detector
    from dlkit.detection.parity import held_out, scales
    from dlkit.evaluation import plots
    from dlkit.evaluation.anomaly_report import anomaly_report

    say(data.describe(), quiet)
    for note in data.notes:
        say(f"note: {note}", quiet)

    # Model: what does not fit the data, or the model, is told before there is a run.
    model = compiled_model(config, data.spec, config.seed)
    if config.init_from is not None and resume is None:
        say(start_from(config.init_from, model), quiet)
    accepted = ("fusion", *ways(model, data.spec.kind))
    if config.score not in accepted:
        raise OptionError(
            f"--score: {config.model} has no '{config.score}'; accepted: {one_of(accepted)}"
        )

    # Run.
    run, folder = tracked.begin(TASK, config, params, data.fingerprint(), resume)

    with tracking.recorded(run):
        tracked.keep(run, folder, config, model)

        # Fit: one model, or an ensemble, whose later members are logged under names of their own.
        models, positions, heard, found = [], [], [], {}
        for i in range(config.ensemble):
            seed = config.seed + i
            model = model if i == 0 else compiled_model(config, data.spec, seed)
            say(
                f"run {run.id}  {config.model}, {model.count_params():,} parameters, seed {seed}",
                quiet,
            )
            label = f"member_{i + 1}_" if i else ""

            def logged(epoch: int, logs: dict[str, float], label: str = label) -> None:
                run.metrics(epoch, {label + name: value for name, value in logs.items()})

            position = fitted(
                model,
                config,
                data,
                folder / ("checkpoint.npz" if i == 0 else f"checkpoint-{i + 1}.npz"),
                seed=seed,
                time_limit=config.time_limit and config.time_limit / config.ensemble,
                on_epoch=logged,
                on_save=run.flush,
                quiet=quiet,
            )
            models.append(model)
            positions.append(position)
            say(f"best epoch {position.best_epoch}; training ended: {position.finished}", quiet)
            found, words, tags = health.told(position, folder / "report")
            heard += words
            if centred(model):
                heard += centre.told(model, data)
            run.tags(tags)
        first, steps = positions[0], sum(position.step for position in positions)

        # Calibrate on held-out rows, evaluate on the test rows.
        detector = Detector(
            models,
            data,
            score=config.score,
            rate=config.false_positive_rate,
            method=config.threshold,
        )
        report = anomaly_report(
            data,
            detector.scores(data.test.at),
            detector.held_out,
            detector.threshold,
            folder / "report",
            rate=config.false_positive_rate,
            method=config.threshold,
            notes=[*heard, *detector.notes],
            about={"run": run.id, "task": TASK, "model": config.model, "data": config.data}
            | {"best_epoch": first.best_epoch, "steps": steps}
            | {"training_seconds": sum(position.seconds for position in positions)}
            | {"parameters": sum(model.count_params() for model in models)}
            | found,
        )
        plots.curves(run.history(("loss", "val_loss")), folder / "report" / "curves.png")
        run.artifacts(folder / "report")
        run.metrics(first.best_epoch, {f"test_{k}": v for k, v in report["metrics"].items()})

        # Export.
        if not run.exported(steps):
            requests, expected = held_out(detector)
            shutil.rmtree(folder / "export", ignore_errors=True)
            export.save(
                detector,
                folder / "export",
                task=TASK,
                requests=requests,
                expected=expected,
                about={"run": run.id, "model": config.model, "data": config.data}
                | {"kind": data.spec.kind, "input_shape": data.spec.input_shape}
                | {"feature_names": data.columns, **data.about}
                | {"threshold": detector.threshold, "threshold_method": config.threshold}
                | {"score": config.score, "held_out": len(data.holdout)}
                | {"false_positive_rate": config.false_positive_rate},
                scales=scales(detector),
            )
            run.model(folder / "export", steps)
        run.tags({"dlkit.weights": "-".join(training.weights_hash(model) for model in models)})

    result = outcome(report, run.artifact("report.json"), run.export(), began)
    tracked.end(run, folder, quiet)
    return result
