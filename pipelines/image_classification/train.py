"""The recipe: data, model, run, fit, evaluate, export."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from pipelines.commands import as_dict
from pipelines.image_classification.config import (
    DEFAULT_EPOCHS,
    DEFAULT_PATIENCE,
    TASK,
    Config,
    load,
)
from pipelines.image_classification.result import outcome


def train(config: Config, resume: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train a classifier, score it on the test split and export it."""
    began = time.monotonic()

    # What a person may have mistyped is told before anything heavy is loaded.
    from dlkit import models
    from dlkit.data.images import check_source

    builder, implied = models.find(TASK, config.model)
    params = models.check_params(builder, {**implied, **config.params})
    check_source(config.data, config.data_dir, config.download)

    from dlkit import tracking
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    tracking.client()
    tf = load_tensorflow(keras=True)
    import keras

    from dlkit import export, optimizers, training
    from dlkit.data.pixels import augment
    from dlkit.data.stream import eval_stream, train_stream
    from dlkit.evaluation import plots
    from dlkit.evaluation.report import classification_report
    from dlkit.export.images import ImageClassifier, classify, held_out

    # Data.
    data = load(config)
    policy = config.augment
    if policy == "auto":
        policy = "shift" if data.kind == "characters" else "flip"
    say(f"{data.describe()}; augment {policy}", quiet)
    for note in data.notes:
        say(f"note: {note}", quiet)

    # Model.
    training.seed_everything(config.seed, config.deterministic)
    model = models.build(TASK, config.model, data.spec, config.params)
    smoothing, classes = config.label_smoothing, data.spec.outputs

    def cross_entropy(y: Any, logits: Any) -> Any:
        if not smoothing:
            return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        y = keras.ops.one_hot(y, classes)
        return keras.losses.categorical_crossentropy(
            y, logits, from_logits=True, label_smoothing=smoothing
        )

    model.compile(
        optimizer=optimizers.make_optimizer(
            config.optimizer, config.learning_rate, config.weight_decay, config.clip_norm
        ),
        loss=cross_entropy,
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # XLA makes small nets slower on CPUs
    )

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
        batch_size = min(config.batch_size, len(data.train))

        def prepare(draw_seed: Any, rows: Any, x: Any, y: Any) -> tuple:
            return data.preprocess(tf.cast(augment(x, draw_seed, policy), tf.float32)), y

        def stream(epoch: int, step: int) -> Any:
            arrays = (data.train.x, data.train.y)
            at = {"epoch": epoch, "step": step}
            return train_stream(arrays, prepare, batch_size=batch_size, seed=config.seed, **at)

        epochs, patience = config.epochs, config.patience
        if config.time_limit is None:
            epochs, patience = epochs or DEFAULT_EPOCHS, patience or DEFAULT_PATIENCE
        position = training.fit(
            model,
            stream,
            eval_stream(
                (data.validation.x, data.validation.y),
                lambda x, y: (data.preprocess(tf.cast(x, tf.float32)), y),
                batch_size=256,
            ),
            steps_per_epoch=len(data.train) // batch_size,
            batch_size=batch_size,
            epochs=epochs,
            time_limit=config.time_limit,
            schedule=config.schedule,
            learning_rate=config.learning_rate,
            warmup=config.warmup,
            patience=patience,
            monitor="accuracy",
            path=folder / "checkpoint.npz",
            on_epoch=run.metrics,
            on_save=run.flush,
            quiet=quiet,
        )
        say(f"best epoch {position.best_epoch}; training ended: {position.finished}", quiet)
        if position.step < len(data.train) // batch_size:
            say(f"note: the time limit left room for {position.step} steps, not one epoch", quiet)

        # Evaluate.
        endpoints = ImageClassifier(model, data)
        probabilities = classify(endpoints.from_pixels, data.test.x)
        report = classification_report(
            probabilities,
            data.test,
            data.train,
            data.spec.labels,
            folder / "report",
            about={"run": run.id, "task": TASK, "model": config.model, "data": config.data}
            | {"best_epoch": position.best_epoch, "training_seconds": position.seconds}
            | {"splits": data.sizes(), "data_notes": data.notes, "augment": policy},
        )
        drawn = ("loss", "val_loss", "accuracy", "val_accuracy")
        plots.curves(run.history(drawn), folder / "report" / "curves.png")
        run.artifacts(folder / "report")
        run.metrics(position.best_epoch, {f"test_{k}": v for k, v in report["metrics"].items()})

        # Export.
        step = position.step
        if not run.exported(step):
            requests, expected = held_out(model, data)
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
