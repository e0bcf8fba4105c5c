"""The recipe: text, model, run, fit, evaluate, export."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from pipelines import tracked
from pipelines.commands import outcome
from pipelines.text_generation.config import TASK, Config, load
from pipelines.text_generation.setup import (
    checked,
    compiled_model,
    planned,
    training_stream,
    validation_stream,
)


def train(config: Config, resume: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train a language model, score it on the held-out text and export it."""
    began = time.monotonic()

    params = checked(config)

    from dlkit import tracking
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    tracking.client()
    load_tensorflow(keras=True)

    from dlkit import export, health, training
    from dlkit.evaluation import plots
    from dlkit.export.text import TextGenerator, context_of, requests_and_answers
    from dlkit.generation import context_limit
    from pipelines.text_generation.scoring import (
        GLIMPSE_TOKENS,
        held_out_pieces,
        report_on,
        start_token,
        writer,
    )

    # Text.
    text = load(config)
    say(text.describe(), quiet)
    for note in text.notes:
        say(f"note: {note}", quiet)

    # Model.
    model, rate = compiled_model(config, text.spec)
    context, parameters = context_of(model), model.count_params()
    plan = planned(config, len(text.train))

    # Run.
    run, folder = tracked.begin(TASK, config, params, text.fingerprint(), resume)
    say(f"run {run.id}  {config.model}, {parameters:,} parameters", quiet)

    with tracking.recorded(run):
        tracked.keep(run, folder, config, model, tokenizer=text.tokenizer.to_json())

        # Fit.
        stream, carried = training_stream(config, text, model, plan)
        glimpse = writer(model, text.tokenizer, config.sample_prompt, config.seed, GLIMPSE_TOKENS)
        samples = folder / "samples"
        samples.mkdir(exist_ok=True)

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            run.metrics(epoch, logs)
            found = json.dumps(glimpse(), indent=1, ensure_ascii=False)
            (samples / f"{epoch:05}.json").write_text(found, encoding="utf-8")

        position = training.fit(
            model,
            stream,
            validation_stream(text, context),
            steps_per_epoch=plan.steps_per_epoch,
            batch_size=config.batch_size,
            epochs=plan.epochs,
            time_limit=config.time_limit,
            schedule=config.schedule,
            learning_rate=rate,
            warmup=config.warmup,
            patience=config.patience,
            monitor="loss",
            ema=config.ema,
            micro_batch=config.micro_batch,
            monitor_gradients=config.monitor_gradients,
            precision=config.precision,
            compiled=not carried,  # recurrent layers compile their own scans
            carried=carried,
            path=folder / "checkpoint.npz",
            on_epoch=on_epoch,
            on_save=run.flush,
            quiet=quiet,
        )
        say(f"best epoch {position.best_epoch}; training ended: {position.finished}", quiet)
        found, heard, tags = health.told(position, folder / "report")
        run.tags(tags)

        # Evaluate.
        report = report_on(
            model,
            text,
            "test" if len(text.test) else "validation",
            folder / "report",
            prompt=config.sample_prompt,
            seed=config.seed,
            notes=heard,
            about={"run": run.id, "task": TASK, "model": config.model, "data": config.data}
            | {"best_epoch": position.best_epoch, "training_seconds": position.seconds}
            | {"steps": position.step, "steps_per_epoch": plan.steps_per_epoch}
            | {"tokens_seen": position.step * config.batch_size * config.context_length}
            | {"parameters": parameters, "context": context, "tokenizer": config.tokenizer}
            | {"splits": text.sizes(), "data_notes": text.notes}
            | found,
        )
        drawn = ("loss", "val_loss", "accuracy", "val_accuracy")
        plots.curves(run.history(drawn), folder / "report" / "curves.png")
        run.artifacts(folder / "report")
        run.artifacts(samples, "samples")
        run.metrics(position.best_epoch, {f"test_{k}": v for k, v in report["metrics"].items()})

        # Export.
        if not run.exported(position.step):
            start = start_token(text.tokenizer)
            pieces = held_out_pieces(text)
            requests, expected = requests_and_answers(model, text.tokenizer, start, pieces)
            shutil.rmtree(folder / "export", ignore_errors=True)
            export.save(
                TextGenerator(model, text.tokenizer, start),
                folder / "export",
                task=TASK,
                requests=requests,
                expected=expected,
                about={"run": run.id, "model": config.model, "data": config.data}
                | {"context": context, "limit": context_limit(model), "start": start}
                | {"tokenizer": config.tokenizer}
                | {"vocabulary": text.tokenizer.size},
                assets={"tokenizer.json": json.dumps(text.tokenizer.to_json())},
            )
            run.model(folder / "export", position.step)
        run.tags({"dlkit.weights": training.weights_hash(model)})

    result = outcome(report, run.artifact("report.json"), run.export(), began)
    tracked.end(run, folder, quiet)
    return result
