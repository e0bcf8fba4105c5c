"""Score a trained detector again, on its own test split or on other examples."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from dlkit.errors import DataError, OptionError, RunError
from pipelines.anomaly_detection.answers import BATCH, opened_model
from pipelines.anomaly_detection.config import TASK, Config, listed, load
from pipelines.anomaly_detection.result import show
from pipelines.commands import outcome, plain


def evaluate(
    ref: str,
    data: str | None = None,
    label: str | None = None,
    normal: str | None = None,
    quiet: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score RUN's exported model on its test split, or on other examples.

    All rows of another table are scored, beside baselines that the run's own training rows fit, where
    these are what they were; a series, or a source of images, is cut as the run's was. An exported
    folder has no split of its own and no baselines.

    Args:
        ref: the run, or an exported folder.
        data: another source; None: the run's own.
        label, normal: its column of labels and their normal values; None: the run's.
        quiet: print nothing.
    Returns:
        What `--json` prints, and the report; of a run, the report is logged with it as well.
    Raises:
        DataError: see the loaders, or a source that lacks columns.
        RunError: no such run; or its own data, which are asked for, have changed since.
    """
    began = time.monotonic()
    from dlkit import export, tracking
    from dlkit.progress import say

    folder = Path(ref).expanduser()
    found = None
    if ref.startswith("models:/") or not folder.is_dir():
        found = tracking.find_run(ref, TASK)
    directory = tracking.run_export(found) if found else tracking.export_directory(ref, TASK)[0]
    about = export.read_manifest(directory / "1")
    run = tracking.Run(found.info.run_id, TASK, tracking.client()) if found else None
    config = Config(**tracking.config_of(run.id)) if run else None
    if data is None and (label or normal):
        raise OptionError(f"--{'label' if label else 'normal'}: is for another source; give --data")
    if config is None and data is None:
        raise RunError(f"RUN: {ref} is an exported folder, without a test split; give --data")
    if config is None and about["kind"] != "table":
        raise RunError(f"RUN: {ref} is an exported folder; accepted for {about['kind']}: a run")
    if about["kind"] == "table" and data is not None:
        examples = of_table(data, label, normal, about, config, run)
    else:
        assert config is not None and run is not None
        given = {"data": data, "label": label, "normal": normal}
        changed = {k: v for k, v in given.items() if v is not None}
        examples = load(dataclasses.replace(config, **changed), about if data else None)
        if examples.spec.input_shape != tuple(about["input_shape"]):
            raise DataError(
                f"--data {data or config.data}: examples of {examples.spec.input_shape}; the run "
                f"has {tuple(about['input_shape'])}"
            )
        if data is None:  # the split of changed data is another: rows that trained would test
            tracking.same_data(run, examples.fingerprint())
    say(examples.describe(), quiet)
    for note in examples.notes:
        say(f"note: {note}", quiet)

    import numpy as np

    ask = opened_model(directory / "1")("serving_default")
    parts: dict[str, list[Any]] = {"score": [], "p_value": []}
    for i in range(0, len(examples.test), BATCH):
        answers = ask(examples.inputs(examples.test.at[i : i + BATCH]))
        for name, each in parts.items():
            each.append(answers[name])
    answers = {name: np.concatenate(each) for name, each in parts.items()}

    from dlkit.evaluation.anomaly_report import anomaly_report

    shift = drift(answers["p_value"], examples.test.y, about)
    source = data or about["data"]
    with tempfile.TemporaryDirectory() as scratch:
        report = anomaly_report(
            examples,
            {"score": answers["score"]},
            np.empty(0),
            float(about["threshold"]),
            Path(scratch),
            rate=about["false_positive_rate"],
            method=about["threshold_method"],
            notes=[shift["note"]] if shift["note"] else [],
            about={"run": about["run"], "task": TASK, "model": about["model"], "data": source}
            | {"drift": {k: v for k, v in shift.items() if k != "note"}},
        )
        if run is None:
            result = outcome(report, Path(), directory, began)
            return {k: v for k, v in result.items() if k != "report"}, report
        under = "evaluations/" + "".join(c if c.isalnum() else "-" for c in source).strip("-")
        kept = tracking.checkpoint_folder(run.id) / "evaluation"
        shutil.copytree(scratch, kept, dirs_exist_ok=True)
    run.artifacts(kept, under)
    shutil.rmtree(kept)
    return outcome(report, run.artifact(f"{under}/report.json"), directory, began), report


def of_table(
    source: str,
    label: str | None,
    normal: str | None,
    about: Mapping[str, Any],
    config: Config | None,
    run: Any,
) -> Any:
    """Return all rows of a table as a test split, with the run's own training rows if they still load.

    Raises:
        DataError: see `dlkit.data.tables`.
    """
    import numpy as np

    from dlkit import tracking
    from dlkit.data import tables
    from dlkit.data.anomalies import AnomalyData, Examples
    from dlkit.data.anomaly_tables import said_of_labels, tensor
    from dlkit.data.piece_notes import Lacking
    from dlkit.data.pieces import columns_of, numbers
    from dlkit.data.spec import DetectorSpec

    where, columns, notes = f"--data {source}", columns_of(about), []
    frame, own_label = tables.read(source)
    label = label or own_label or (about["label"] if about["label"] in frame else None)
    chosen = listed(normal)
    if not chosen and label is not None and label == about["label"]:
        # Of the run's normal values those that this table has.
        here = set(frame[label].map(tables.as_text))
        chosen = tuple(v for v in about["normal"] if v in here) or tuple(about["normal"])
    y = tables.labels(frame, label, chosen, where)
    notes += said_of_labels(y, False, label)
    raw = tables.inputs(numbers(frame, columns), columns, where)
    lacking = Lacking(about, columns)
    lacking.look(raw)
    notes += lacking.told()
    known = np.full(len(frame), -1, np.int32) if y is None else y
    none = Examples(np.empty(0, int), np.empty(0, np.int32))
    try:
        own = load(config) if config is not None else None
        if own is not None:
            tracking.same_data(run, own.fingerprint())
    except DataError as error:
        own = None
        notes.append(f"no baselines: the run's own data cannot be loaded: {error}")
    except RunError as error:
        own = None
        notes.append(f"no baselines: {error}")
    if own is None:
        width = int(about["input_shape"][0])
        return AnomalyData(
            source=source,
            train=none,
            holdout=none,
            test=Examples(np.arange(len(frame)), known),
            spec=DetectorSpec(input_shape=(width,), outputs=width, kind="table"),
            inputs=lambda at: {k: v[at] for k, v in raw.items()},
            arrays=lambda at: (),
            prepare=lambda x: x,
            preprocess=lambda x: x,
            notes=notes,
        )
    base = 1 + max(
        int(split.at.max()) for split in (own.train, own.holdout, own.test) if len(split)
    )

    def inputs(at: Any) -> dict[str, Any]:
        if len(at) and at[0] >= base:
            return {k: v[at - base] for k, v in raw.items()}
        return own.inputs(at)

    def arrays(at: Any) -> tuple[Any, ...]:
        return (np.asarray(own.preprocess({k: tensor(v) for k, v in inputs(at).items()})),)

    test = base + np.arange(len(frame))
    seen = {row.tobytes() for split in (own.train, own.holdout) for row in arrays(split.at)[0]}
    known_before = sum(row.tobytes() in seen for row in arrays(test)[0])
    if known_before:
        notes.append(
            f"{known_before:,} of the {len(frame):,} rows stand among those that the run was trained "
            "or calibrated on as well"
        )
    return dataclasses.replace(
        own,
        source=source,
        test=Examples(test, known),
        inputs=inputs,
        arrays=arrays,
        prepare=lambda x: x,
        notes=notes,
    )


def drift(chance: Any, y: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the share of normal examples whose p-value is below 0.05, and what it tells.

    Of examples like those that the detector was calibrated on it is 0.05; it is told where it is
    three standard errors away, of both these examples and the held-out ones. Overlapping windows
    count as few as fit beside each other.

    Returns:
        `p_below_0.05`, `rows`, and `note`, None where nothing has shifted.
    """
    normal = y == 0 if (y == 0).any() else y < 0
    if not normal.any():
        return {"p_below_0.05": None, "rows": 0, "note": None}
    share, rows = float((chance[normal] < 0.05).mean()), int(normal.sum())
    apart = int(about.get("window", 1))
    held = max(about["held_out"] / apart, 1.0)
    error = (0.05 * 0.95 * (apart / rows + 1.0 / held)) ** 0.5
    note = None
    if abs(share - 0.05) > 3 * error + 1.0 / (held + 1.0):
        which = "normal examples" if (y == 0).any() else "all examples, whose labels are not known,"
        more = "stranger" if share > 0.05 else "more alike"
        note = (
            f"drift: p < 0.05 for {share:.3f} of {which} where 0.05 were to be expected: they are "
            f"{more} than those that the thresholds are from"
        )
    return {"p_below_0.05": share, "rows": rows, "note": note}


@click.command("evaluate", help=(evaluate.__doc__ or "").split("\n\n")[0])
@click.argument("run")
@click.option("--data", metavar="SOURCE", help="Another source with the run's columns.")
@click.option("--label", metavar="COLUMN", help="Its labels.  [default: the run's column]")
@click.option("--normal", metavar="VALUES", help="The normal ones.  [default: the run's]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(run: str, as_json: bool, **given: Any) -> None:
    """Score a run again."""
    result, report = evaluate(run, quiet=as_json, **given)
    click.echo(json.dumps(plain(result)) if as_json else show(result, report))
