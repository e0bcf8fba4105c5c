"""The recipe: pictures, judge, model, run, fit, evaluate, export."""

from __future__ import annotations

import shutil
import time
from typing import Any

from dlkit.errors import counted
from pipelines import tracked
from pipelines.commands import outcome
from pipelines.image_synthesis.config import DEFAULT_EPOCHS, TASK, TRANSLATORS, Config, learnt, load
from pipelines.image_synthesis.setup import (
    checked,
    classless,
    compiled_model,
    judge,
    one_level,
    training_stream,
)


def train(config: Config, resume: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train a generator of pictures, judge them by a net's features and export it."""
    began = time.monotonic()

    params = checked(config, resumed=resume is not None)
    if config.model in TRANSLATORS:
        from pipelines.image_synthesis.train_translator import train_translator

        return train_translator(config, params, resume, quiet)

    from dlkit import tracking
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    tracking.client()
    load_tensorflow(keras=True)

    from dlkit import export, training
    from dlkit.collapse import Watch
    from dlkit.data.stream import eval_stream
    from dlkit.evaluation import plots, synthesis_plots
    from dlkit.evaluation.synthesis_report import synthesis_report
    from dlkit.export.pictures import PictureGenerator
    from dlkit.sampling import Sampler, labels_like
    from pipelines.image_synthesis.growing import growth
    from pipelines.image_synthesis.judged import more_of

    # Pictures.
    data = load(config, fresh=resume is None)
    if resume is None:
        classless(config, params, data.spec)
    own = learnt(config, data)
    say(data.describe(), quiet)
    for note in data.notes:
        say(f"note: {note}", quiet)

    # Model: what does not fit the pictures is told before there is a run, or a judge.
    model = compiled_model(config, data.spec)

    # Judge.
    net = judge(config, data, quiet)
    say(f"judged by {net.describe()}", quiet)

    # Run.
    run, folder = tracked.begin(TASK, config, params, own.fingerprint(), resume)
    say(f"run {run.id}  {config.model}, {model.count_params():,} parameters", quiet)

    with tracking.recorded(run):
        tracked.keep(run, folder, config, model)

        # Fit.
        stream, batch_size = training_stream(config, own)
        steps_per_epoch = len(data.train) // batch_size
        epochs = config.epochs or (None if config.time_limit else DEFAULT_EPOCHS)
        grows = growth(model, config, stream, steps_per_epoch, epochs, folder, quiet)
        rivals = getattr(model, "discriminator_optimizer", None)
        held = eval_stream(
            (own.validation.x, own.validation.y),
            lambda x, y: (own.preprocess(x), y),
            batch_size=250,
        )
        watch = Watch(
            model,
            data,
            net,
            validation=None if rivals else held,
            on_collapse=config.on_collapse,
        )
        grids = folder / "grids"

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            run.metrics(epoch, logs)
            synthesis_plots.grid(watch.shown, grids / f"epoch-{epoch:04}.png", 8)
            if watch.words is not None:
                say(f"note: {watch.words}", quiet)

        position = training.fit(
            model,
            stream,
            watch,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            epochs=epochs,
            time_limit=config.time_limit,
            schedule=config.schedule,
            learning_rate=config.learning_rate,
            warmup=config.warmup,
            patience=config.patience,
            monitor="loss",
            ema=config.ema,
            freeze=grows,
            precision=config.precision,
            descends=rivals is None,
            carried=rivals.variables if rivals else (),
            remedy="a smaller --learning-rate" + (", or another --loss" if rivals else ""),
            path=folder / "checkpoint.npz",
            on_epoch=on_epoch,
            on_save=run.flush,
            quiet=quiet,
        )
        say(f"best epoch {position.best_epoch}; training ended: {position.finished}", quiet)
        heard = list(position.notes)
        if position.step < steps_per_epoch:
            steps = counted(position.step, "step")
            heard.append(f"the time limit left room for {steps}, not one epoch")
        if grows is not None and position.step < grows.steps:
            heard.append("the time limit ended training before the pictures had grown to full size")
        collapsed = run.history(("val_collapsed",)).get("val_collapsed", [])
        epochs_of = [epoch for epoch, value in collapsed if value]
        if epochs_of:
            words = f"the pictures had collapsed after {counted(len(epochs_of), 'epoch')}"
            heard.append(f"{words}, the last of them {epochs_of[-1]} of {len(collapsed)}")
            run.tags({"dlkit.collapsed": heard[-1]})

        # Evaluate: as many pictures as there are real ones to hold them against, or to learn from.
        report_folder = folder / "report"
        among = data.train if model.conditional else data.test
        labels = labels_like(data.train.y, min(config.count, len(among)), config.seed)
        pixels = Sampler(model)(0, labels)
        more, said = more_of(model, config, data, own, pixels, labels, folder, quiet)
        report = synthesis_report(
            pixels,
            data,
            net,
            report_folder,
            wanted=labels if model.conditional else None,
            notes=[*heard, *said],
            more=more,
            about={"run": run.id, "task": TASK, "model": config.model, "data": config.data}
            | {"best_epoch": position.best_epoch, "training_seconds": position.seconds}
            | {"steps": position.step, "parameters": model.count_params()}
            | {"generator_parameters": generator_size(model)}
            | {"splits": data.sizes(), "data_notes": data.notes, "judge": net.describe()},
            seed=config.seed,
        )
        plots.curves(run.history(("loss", "val_loss")), report_folder / "curves.png")
        synthesis_plots.animated(sorted(grids.glob("epoch-*.png")), report_folder / "training.gif")
        run.artifacts(grids, "grids")
        run.artifacts(report_folder)
        run.metrics(position.best_epoch, {f"test_{k}": v for k, v in report["metrics"].items()})

        # Export.
        if not run.exported(position.step):
            endpoints = PictureGenerator(model, data.spec.outputs)
            requests, expected = endpoints.held_out(data.test.x[:32], data.test.y[:32])
            shutil.rmtree(folder / "export", ignore_errors=True)
            export.save(
                endpoints,
                folder / "export",
                task=TASK,
                requests=requests,
                expected=expected,
                about={"run": run.id, "model": config.model, "data": config.data}
                | {"picture_shape": data.spec.input_shape, "noise_shape": model.noise_shape}
                | {"labels": data.spec.labels if model.conditional else []},
                scales={"pixels": one_level()},
            )
            run.model(folder / "export", position.step)
        run.tags({"dlkit.weights": training.weights_hash(model)})

    result = outcome(report, run.artifact("report.json"), run.export(), began)
    tracked.end(run, folder, quiet)
    return result


def generator_size(model: Any) -> int:
    """Return the number of weights that make a picture."""
    part = getattr(model, "generator", None) or getattr(model, "decoder", None) or model
    return int(part.count_params())
