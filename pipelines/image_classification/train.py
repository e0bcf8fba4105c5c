"""The recipe: data, model, run, fit, evaluate, export."""

from __future__ import annotations

import dataclasses
import shutil
import time
from typing import Any

from dlkit.errors import counted
from pipelines import tracked
from pipelines.commands import outcome
from pipelines.image_classification.config import (
    DEFAULT_EPOCHS,
    DEFAULT_PATIENCE,
    TASK,
    Config,
    fit_to_model,
    load,
    starting_weights,
)
from pipelines.image_classification.other_run import (
    accuracy_of,
    beside,
    same_data,
    start_from,
    teacher_of,
)
from pipelines.image_classification.setup import (
    checked,
    compiled_model,
    linked,
    training_stream,
)


def train(
    config: Config,
    resume: str | None = None,
    quiet: bool = False,
    *,
    data: Any = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """Train a classifier, score it on the test split and export it.

    A comparison gives the `data` that it has loaded, and its own run as `parent`.
    """
    began = time.monotonic()

    from dlkit import tracking

    params = checked(config, resume is not None)
    weights_from, frozen_epochs = starting_weights(config, resume is not None)
    begun = resume is not None and tracking.checkpoint_of(TASK, resume) is not None
    config, start, teacher = linked(config, begun)

    from dlkit.data.policy import WHY, policy, written
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    tracking.client()
    tf = load_tensorflow(keras=True)
    import keras

    from dlkit import export, health, pruning, training
    from dlkit.data.stream import eval_stream
    from dlkit.distillation import taught_by
    from dlkit.evaluation import plots
    from dlkit.evaluation.calibration import calibrate
    from dlkit.evaluation.report import classification_report
    from dlkit.export.images import ImageClassifier, classify, held_out, logits, views_of
    from dlkit.steps import Freeze
    from dlkit.weights import head_layers, load_weights

    # Data.
    told = quiet or data is not None
    data = fit_to_model(config, load(config) if data is None else data)
    changes = policy(config.augment, data.kind)
    views = views_of(changes) if config.tta else ()
    say(data.describe(), told)
    named = config.augment in ("auto", "mirror", "light", "strong")
    say(f"augment {written(changes)}" + (f": {WHY[data.kind]}" if named else ""), quiet)
    for note in data.notes:
        say(f"note: {note}", told)
    for other in (start, teacher):
        if other is not None:
            same_data(other, data)

    # Model.
    model, rate = compiled_model(config, data)
    if weights_from != "none" and not begun:
        say(load_weights(model, weights_from, params.get("backbone")), quiet)
    if start is not None:
        say(start_from(start, model), quiet)
    masks = []
    if config.prune is not None:
        masks = pruning.hold(model)
        if not begun:
            pruning.prune(model, masks, config.prune)
            say(pruning.said(pruning.summary(model)), quiet)

    # Teacher.
    theirs, taught = None, None
    if teacher is not None:
        net, theirs = teacher_of(teacher)
        taught = taught_by(net, data.spec.outputs)

    # Run.
    run, folder = tracked.begin(TASK, config, params, data.fingerprint(), resume, parent)
    say(f"run {run.id}  {config.model}, {model.count_params():,} parameters", quiet)

    with tracking.recorded(run):
        tracked.keep(
            run,
            folder,
            config,
            model,
            preprocess=keras.saving.serialize_keras_object(data.preprocess),
        )

        # Fit.
        stream, batch_size = training_stream(config, data, theirs)
        epochs, patience = config.epochs, config.patience
        if config.time_limit is None:
            epochs, patience = epochs or DEFAULT_EPOCHS, patience or DEFAULT_PATIENCE
        steps_per_epoch, freeze = len(data.train) // batch_size, None
        if frozen_epochs:
            body = [layer for layer in model.layers if layer not in head_layers(model)]
            freeze = Freeze(body, frozen_epochs * steps_per_epoch, config.fine_tune_rate)
            say(f"the head alone is trained for {counted(frozen_epochs, 'epoch')}", quiet)
        position = training.fit(
            model,
            stream,
            eval_stream(
                (data.validation.x, data.validation.y),
                lambda x, y: (data.preprocess(tf.cast(x, tf.float32)), y),
                batch_size=256,
            ),
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            epochs=epochs,
            time_limit=config.time_limit,
            schedule=config.schedule,
            learning_rate=rate,
            warmup=config.warmup,
            patience=patience,
            monitor="accuracy",
            ema=config.ema,
            micro_batch=config.micro_batch,
            monitor_gradients=config.monitor_gradients,
            freeze=freeze,
            precision=config.precision,
            carried=masks,
            taught=taught,
            path=folder / "checkpoint.npz",
            on_epoch=run.metrics,
            on_save=run.flush,
            quiet=quiet,
        )
        say(f"best epoch {position.best_epoch}; training ended: {position.finished}", quiet)
        found, heard, tags = health.told(position, folder / "report")
        run.tags(tags)
        if position.step < steps_per_epoch:
            steps = counted(position.step, "step")
            say(f"note: the time limit left room for {steps}, not one epoch", quiet)

        # Views.
        if views:
            x, y = data.validation.x, data.validation.y
            answers = (logits(model, data, x, v).argmax(1) for v in (views, ()))
            seen, alone = (float((answer == y).mean()) for answer in answers)
            say(f"validation accuracy {seen:.4f} over views, {alone:.4f} without", quiet)
            if seen < alone:
                heard = [*heard, f"--tta lowers validation accuracy from {alone:.4f} to {seen:.4f}"]

        # Calibrate.
        temperature, calibration = 1.0, None
        if config.calibrate:
            held = logits(model, data, data.validation.x, views)
            calibration = dataclasses.asdict(calibrate(held, data.validation.y))
            temperature = calibration["temperature"]
        scaled = {"temperature": temperature} | (
            {"calibration": calibration} if calibration else {}
        )

        # Other runs.
        kin = {}
        if masks:
            kin["pruned"] = pruning.summary(model)
            heard = [*heard, pruning.said(kin["pruned"])]
            run.tags({"dlkit.sparsity": f"{kin['pruned']['sparsity']:.4f}"})
        for name, other in (("started_from", start), ("teacher", teacher)):
            if other is not None:
                kin[name] = accuracy_of(other, data.test)
                heard = [*heard, beside(name, kin[name])]

        # Evaluate.
        endpoints = ImageClassifier(model, data, views=views, temperature=temperature)
        probabilities = classify(endpoints.from_pixels, data.test.x)
        report = classification_report(
            probabilities,
            data.test,
            data.train,
            data.spec.labels,
            folder / "report",
            notes=heard,
            calibration=calibration,
            about={"run": run.id, "task": TASK, "model": config.model, "data": config.data}
            | {"best_epoch": position.best_epoch, "training_seconds": position.seconds}
            | {"parameters": model.count_params()}
            | {"validation_accuracy": position.best[0] if position.best else None}
            | {"splits": data.sizes(), "data_notes": data.notes, "augment": written(changes)}
            | found
            | kin,
        )
        drawn = ("loss", "val_loss", "accuracy", "val_accuracy")
        plots.curves(run.history(drawn), folder / "report" / "curves.png")
        run.artifacts(folder / "report")
        run.metrics(position.best_epoch, {f"test_{k}": v for k, v in report["metrics"].items()})

        # Export.
        step = position.step
        if not run.exported(step):
            requests, expected = held_out(model, data, views=views, temperature=temperature)
            shutil.rmtree(folder / "export", ignore_errors=True)
            export.save(
                endpoints,
                folder / "export",
                task=TASK,
                requests=requests,
                expected=expected,
                about={"run": run.id, "model": config.model, "data": config.data}
                | {"input_shape": data.spec.input_shape, "labels": data.spec.labels}
                | scaled
                | ({"pruned": kin["pruned"]} if masks else {}),
            )
            run.model(folder / "export", step)
        run.tags({"dlkit.weights": training.weights_hash(model)})

    result = outcome(report, run.artifact("report.json"), run.export(), began)
    tracked.end(run, folder, quiet)
    return result
