"""Image classification, from a source of images to a served model.

Read from top to bottom: the options, then train, evaluate and predict, then the commands.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dlkit.errors import DataError
from dlkit.options import option
from pipelines.commands import (
    Commands,
    add_evaluate,
    add_export,
    add_predict,
    add_train,
    as_dict,
)

TASK = "image-classification"
DEFAULT_EPOCHS = 60
DEFAULT_PATIENCE = 20


@dataclasses.dataclass(frozen=True)
class Config:
    """What a training run is made from; the resolved values are saved with it."""

    data: str = option("digits", "digits, tfds:NAME, a folder of class folders, or an .npz file.")
    data_dir: str | None = option(None, "Folder of tensorflow-datasets.", metavar="DIR")
    download: bool = option(True, "Let tensorflow-datasets download what is missing.")
    image_size: int | None = option(
        None, "Side that images are resized to.", minimum=4, maximum=1024, shown="commonest size"
    )
    split_seed: int = option(0, "Seed of the cut into splits.", minimum=0, maximum=2**31 - 1)
    strict: bool = option(False, "Refuse a source with unreadable files.")
    augment: str = option(
        "auto",
        "shift: move, turn, zoom; flip: half as far, and mirror. auto: flip, but shift for characters.",
        choices=("auto", "none", "shift", "flip"),
    )
    model: str = option("resnet", "A name from `dlkit models`, or package.module:function.")
    params: dict = option({}, "A parameter of the model; may be repeated.")
    seed: int = option(
        0, "Seed of weights, order, dropout, augmentation.", minimum=0, maximum=2**31 - 1
    )
    epochs: int | None = option(
        None, "Most epochs.", minimum=1, shown=f"{DEFAULT_EPOCHS}, or as the time limit allows"
    )
    time_limit: float | None = option(
        None, "Time to train and validate in, such as 10m.", duration=True, metavar="TIME"
    )
    batch_size: int = option(64, "Images a step.", minimum=1)
    optimizer: str = option("adam", "Optimiser.", choices=("adam", "sgd", "rmsprop"))
    learning_rate: float = option(2e-3, "Peak learning rate.", above=0)
    schedule: str = option(
        "cosine", "How the rate falls.", choices=("cosine", "linear", "constant")
    )
    warmup: int = option(50, "Steps over which the rate rises.", minimum=0)
    weight_decay: float = option(0.01, "Decoupled decay of kernels.", minimum=0)
    clip_norm: float | None = option(None, "Largest norm of the gradient.", above=0)
    label_smoothing: float = option(
        0.0, "Share of the target spread over all classes.", minimum=0, maximum=0.9
    )
    patience: int | None = option(
        None,
        "Epochs without a better validation accuracy before training ends.",
        minimum=1,
        shown=f"{DEFAULT_PATIENCE}, or never under a time limit",
    )
    deterministic: bool = option(False, "Forbid ops that are not deterministic; for GPUs.")


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

    from dlkit import export, training
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
        optimizer=training.make_optimizer(
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

        def prepare(draw_seed: Any, x: Any, y: Any) -> tuple:
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


def outcome(report: dict, path: Path, export: Path, began: float) -> dict[str, Any]:
    """Return what `--json` prints of a report."""
    names = ("run", "task", "model", "data", "split", "metrics", "intervals")
    return {
        **{name: report[name] for name in names},
        "baselines": {name: each["metrics"] for name, each in report["baselines"].items()},
        "report": path,
        "export": export,
        "seconds": round(time.monotonic() - began, 2),
    }


def load(config: Config) -> Any:
    """Load the config's source, at its `--image-size` where it has one."""
    from dlkit.data.images import load_images

    size = config.image_size
    return load_images(
        config.data,
        data_dir=config.data_dir,
        download=config.download,
        shape=(size, size, None) if size else None,
        split_seed=config.split_seed,
        strict=config.strict,
    )


def evaluate(
    ref: str,
    data: str | None = None,
    data_dir: str | None = None,
    download: bool = True,
    strict: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score RUN's exported model on its test split, or on other data with the same labels."""
    began = time.monotonic()
    from dlkit import tracking
    from dlkit.data.images import check_source, load_rows
    from dlkit.progress import say

    if data is not None:
        check_source(data, data_dir, download)
    found = tracking.find_run(ref, TASK)
    run = tracking.Run(found.info.run_id, TASK, tracking.client())
    directory = tracking.run_export(found)
    config = Config(**tracking.config_of(run.id))

    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow(keras=True)
    from dlkit import export
    from dlkit.evaluation.report import classification_report
    from dlkit.export.images import classify

    manifest = export.read_manifest(directory / "1")
    labels, shape = tuple(manifest["labels"]), tuple(manifest["input_shape"])
    own = load(dataclasses.replace(config, data_dir=data_dir or config.data_dir, strict=strict))
    rows, split, notes = own.test, "test", own.notes
    if data is not None:
        rows, split, notes = load_rows(data, labels, shape, data_dir, download, strict)
    for note in notes:
        say(f"note: {note}", quiet)
    endpoint = tf.saved_model.load(str(directory / "1")).signatures["from_pixels"]
    probabilities = classify(endpoint, rows.x)
    about = {"run": run.id, "task": TASK, "model": config.model, "data": data or config.data}
    folder = tracking.checkpoint_folder(run.id) / "evaluation"
    report = classification_report(
        probabilities, rows, own.train, labels, folder, split=split, about=about
    )
    under = "evaluations/" + "".join(c if c.isalnum() else "-" for c in about["data"]).strip("-")
    run.artifacts(folder, under)
    shutil.rmtree(folder)
    return outcome(report, run.artifact(f"{under}/report.json"), directory, began)


def predict(ref: str, inputs: tuple[str, ...], strict: bool = False) -> Iterator[dict[str, Any]]:
    """Label image files with RUN's exported model, the same graph that the server runs.

    Yields:
        `file`, `label`, `probability` and `probabilities` (by label) for each image, in order.
    Raises:
        DataError: no image among the inputs; an unreadable one if `strict`, or none readable.
    """
    from dlkit import tracking
    from dlkit.data.folder import images_under
    from dlkit.progress import say

    files = [file for path in inputs for file in images_under(Path(path).expanduser())]
    if not files:
        raise DataError(f"INPUT: no images in {', '.join(inputs)}")
    directory, _ = tracking.export_directory(ref, TASK)

    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow()
    from dlkit import export

    labels = export.read_manifest(directory / "1")["labels"]
    classify = tf.saved_model.load(str(directory / "1")).signatures["serving_default"]

    def rows(batch: list[Path]) -> list[tuple[Path, dict]]:
        """Classify a batch; where one image fails, each alone, so that the others are answered."""
        try:
            answers = classify(image=tf.constant([file.read_bytes() for file in batch]))
        except (tf.errors.OpError, OSError):
            if len(batch) == 1:
                unreadable.append(batch[0])
                return []
            return [row for file in batch for row in rows([file])]
        values = {name: tensor.numpy() for name, tensor in answers.items()}
        return [(f, {k: v[i] for k, v in values.items()}) for i, f in enumerate(batch)]

    unreadable: list[Path] = []
    for start in range(0, len(files), 64):
        for file, answer in rows(files[start : start + 64]):
            shares = dict(zip(labels, map(float, answer["probabilities"]), strict=True))
            label = answer["label"].decode()
            yield {
                "file": str(file),
                "label": label,
                "probability": shares[label],
                "probabilities": shares,
            }
        if strict and unreadable:
            raise DataError(f"--strict: unreadable image {unreadable[0]}")
    if len(unreadable) == len(files):
        raise DataError(f"INPUT: none of the {len(files)} images can be read: {unreadable[0]}, ...")
    if unreadable:
        shown = ", ".join(map(str, unreadable[:5])) + (", ..." if len(unreadable) > 5 else "")
        say(f"note: {len(unreadable)} unreadable images left out: {shown}")


def show(result: dict[str, Any]) -> str:
    """Lay a result out for a terminal, with what to type next."""
    from dlkit.evaluation.report import table

    report = json.loads(Path(result["report"]).read_text(encoding="utf-8"))
    short = result["run"][:8]
    return "\n".join(
        [
            f"{result['model']} on {result['data']}, {report['rows']:,} {report['split']} images, "
            "95 % intervals",
            table(report),
            f"the model {report['verdict']}",
            *report["notes"],
            "",
            f"run     {result['run']}",
            f"report  {result['report']}",
            f"export  {result['export']}",
            f"took    {result['seconds']:.1f} s",
            "",
            f"next    dlkit {TASK} predict {short} FILE_OR_FOLDER",
            f"        dlkit serve {short}",
            "        dlkit ui",
        ]
    )


@click.group(cls=Commands, name=TASK)
def commands() -> None:
    """Classify images: digits, tensorflow-datasets, folders of class folders, .npz arrays."""


add_train(commands, Config, train, show)
add_export(commands, TASK)
add_evaluate(commands, evaluate, show)
add_predict(commands, predict, "FILE_OR_FOLDER", ("file", "label", "probability"))
