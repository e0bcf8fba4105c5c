"""The recipe: data, model, run, fit, evaluate, export."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from dlkit.errors import OptionError
from pipelines.commands import as_dict
from pipelines.image_classification.config import (
    DEFAULT_EPOCHS,
    DEFAULT_PATIENCE,
    TASK,
    Config,
    fit_to_model,
    load,
    starting_weights,
)
from pipelines.image_classification.result import outcome


def checked(config: Config, resume: bool = False) -> dict[str, Any]:
    """Return every parameter of the model.

    What a person may have mistyped is told here, before anything heavy is loaded.
    """
    from dlkit import models
    from dlkit.data.images import check_source
    from dlkit.data.policy import policy

    policy(config.augment)
    builder, implied = models.find(TASK, config.model)
    params = models.check_params(builder, {**implied, **config.params})
    starting_weights(config, resume)
    check_source(config.data, config.data_dir, config.download)
    if config.micro_batch is not None and config.micro_batch > config.batch_size:
        raise OptionError(
            f"--micro-batch: got {config.micro_batch}; accepted: 1 to the batch size, "
            f"{config.batch_size}"
        )
    return params


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

    params = checked(config, resume is not None)
    weights_from, frozen_epochs = starting_weights(config, resume is not None)

    from dlkit import models, tracking
    from dlkit.data.policy import WHY, policy, written
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    tracking.client()
    tf = load_tensorflow(keras=True)
    import keras
    import numpy as np

    from dlkit import export, health, layers, losses, optimizers, training
    from dlkit.data.augment import augment, mix
    from dlkit.data.stream import eval_stream, train_stream
    from dlkit.evaluation import plots
    from dlkit.evaluation.report import classification_report
    from dlkit.export.images import ImageClassifier, classify, held_out
    from dlkit.steps import Freeze
    from dlkit.weights import head_layers, load_weights

    # Data.
    told = quiet or data is not None
    data = fit_to_model(config, load(config) if data is None else data)
    changes = policy(config.augment, data.kind)
    say(data.describe(), told)
    named = config.augment in ("auto", "mirror", "light", "strong")
    say(f"augment {written(changes)}" + (f": {WHY[data.kind]}" if named else ""), quiet)
    for note in data.notes:
        say(f"note: {note}", told)

    # Model.
    training.seed_everything(config.seed, config.deterministic)
    model = models.build(TASK, config.model, data.spec, config.params)
    classes, weights = data.spec.outputs, None
    if config.class_weight == "balanced":
        weights = losses.balanced_weights(np.bincount(data.train.y, minlength=classes).tolist())
    rate = config.learning_rate or optimizers.LEARNING_RATES[config.optimizer]
    model.compile(
        optimizer=optimizers.make_optimizer(
            config.optimizer, rate, config.weight_decay, config.clip_norm
        ),
        loss=losses.classification_loss(
            config.loss,
            classes,
            label_smoothing=config.label_smoothing,
            class_weights=weights,
        ),
        metrics=[keras.metrics.MeanMetricWrapper(losses.accuracy, name="accuracy")],
        jit_compile=False,  # XLA makes small nets slower on CPUs
    )
    # Layers that fit themselves to the data; a resumed run takes theirs from the checkpoint.
    layers.adapt(model, data.preprocess(data.train.x[:5000].astype(np.float32)))
    if weights_from != "none" and (resume is None or not tracking.checkpoint_of(TASK, resume)):
        say(load_weights(model, weights_from, params.get("backbone")), quiet)

    # Run.
    if resume is None:
        run = tracking.start_run(
            TASK,
            {**{k: v for k, v in as_dict(config).items() if k != "params"}, **params},
            {"dlkit.model": config.model, "dlkit.data": config.data}
            | {tracking.FINGERPRINT_TAG: data.fingerprint()},
            name=f"{config.model} on {config.data}",
            parent=parent,
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
        batch_size = min(config.batch_size, len(data.train))

        def prepare(draw_seed: Any, rows: Any, x: Any, y: Any) -> tuple:
            x = data.preprocess(augment(x, draw_seed, rows, changes))
            return mix(x, y, draw_seed, changes, classes)

        def stream(epoch: int, step: int) -> Any:
            arrays = (data.train.x, data.train.y)
            at = {"epoch": epoch, "step": step}
            return train_stream(arrays, prepare, batch_size=batch_size, seed=config.seed, **at)

        epochs, patience = config.epochs, config.patience
        if config.time_limit is None:
            epochs, patience = epochs or DEFAULT_EPOCHS, patience or DEFAULT_PATIENCE
        steps_per_epoch, freeze = len(data.train) // batch_size, None
        if frozen_epochs:
            body = [layer for layer in model.layers if layer not in head_layers(model)]
            freeze = Freeze(body, frozen_epochs * steps_per_epoch, config.fine_tune_rate)
            say(f"the head alone is trained for {frozen_epochs} epochs", quiet)
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
            path=folder / "checkpoint.npz",
            on_epoch=run.metrics,
            on_save=run.flush,
            quiet=quiet,
        )
        say(f"best epoch {position.best_epoch}; training ended: {position.finished}", quiet)
        found, heard = {}, list(position.notes)
        if position.probes is not None:
            found = {"health": health.verdict(position.probes)}
            heard.append(found["health"]["words"])
            health.draw(position.probes, folder / "report")
            run.tags({"dlkit.health": found["health"]["words"]})
        if position.notes:
            run.tags({"dlkit.went_back": "; ".join(position.notes)})
        if position.step < steps_per_epoch:
            say(f"note: the time limit left room for {position.step} steps, not one epoch", quiet)

        # Evaluate.
        endpoints = ImageClassifier(model, data, tta=config.tta)
        probabilities = classify(endpoints.from_pixels, data.test.x)
        report = classification_report(
            probabilities,
            data.test,
            data.train,
            data.spec.labels,
            folder / "report",
            notes=heard,
            about={"run": run.id, "task": TASK, "model": config.model, "data": config.data}
            | {"best_epoch": position.best_epoch, "training_seconds": position.seconds}
            | {"parameters": model.count_params()}
            | {"validation_accuracy": position.best[0] if position.best else None}
            | {"splits": data.sizes(), "data_notes": data.notes, "augment": written(changes)}
            | found,
        )
        drawn = ("loss", "val_loss", "accuracy", "val_accuracy")
        plots.curves(run.history(drawn), folder / "report" / "curves.png")
        run.artifacts(folder / "report")
        run.metrics(position.best_epoch, {f"test_{k}": v for k, v in report["metrics"].items()})

        # Export.
        step = position.step
        if not run.exported(step):
            requests, expected = held_out(model, data, tta=config.tta)
            shutil.rmtree(folder / "export", ignore_errors=True)
            export.save(
                endpoints,
                folder / "export",
                task=TASK,
                requests=requests,
                expected=expected,
                about={"run": run.id, "model": config.model, "data": config.data}
                | {"input_shape": data.spec.input_shape, "labels": data.spec.labels},
            )
            run.model(folder / "export", step)
        run.tags({"dlkit.weights": training.weights_hash(model)})

    result = outcome(report, run.artifact("report.json"), run.export(), began)
    shutil.rmtree(folder / "report", ignore_errors=True)
    shutil.rmtree(folder / "export", ignore_errors=True)
    if run.spooling:
        say(f"note: the store failed ({run.spooling}); deliver with: dlkit runs sync", quiet)
    return result
