"""`dlkit runs compare`: what differs between runs, and whether their scores do."""

from __future__ import annotations

import json
from typing import Any

import click

from dlkit.errors import OptionError, RunError

OWN = ("run", "model", "data", "split", "rows")


def compare_runs(refs: tuple[str, ...]) -> dict[str, Any]:
    """Lay two or more runs of one task side by side.

    Returns:
        `runs` (id, model, data, split, rows of each), `differs` (a list of values, one a run, by
        name of a parameter or a version; None where a run has none), `metrics`, `intervals` and
        `baselines` (lists likewise), and `against`: for each run but the first `same_rows`,
        `overlaps` (by score) and, where both were scored on the same rows, `paired` (see
        `dlkit.evaluation.paired`; the run less the first).
    Raises:
        OptionError: fewer than two runs, or one of them twice.
        RunError: no such run, one without a report, or runs of several tasks.
    """
    if len(refs) < 2:
        raise OptionError("RUN: one run was given; accepted: two or more")
    from dlkit import tracking

    found = [tracking.find_run(ref) for ref in refs]
    ids = [run.info.run_id for run in found]
    for ref, each in zip(refs, ids, strict=True):
        if ids.count(each) > 1:
            raise OptionError(f"RUN: {ref} is {each}, which is there twice")
    tasks = sorted({run.data.tags[tracking.TASK_TAG] for run in found})
    if len(tasks) > 1:
        raise RunError(f"RUN: the runs are of {' and '.join(tasks)}; accepted: runs of one task")
    store = tracking.client()
    records = [tracking.Run(each, tasks[0], store) for each in ids]
    reports = [_read(run, "report.json") for run in records]
    params = [run.data.params for run in found]
    versions = [_read(run, "environment.json") for run in records]
    names = list(dict.fromkeys(name for report in reports for name in report["metrics"]))
    return {
        "task": tasks[0],
        "runs": [{k: report.get(k) for k in OWN} for report in reports],
        "differs": _differing(params) | _differing(versions),
        "metrics": {n: [r["metrics"].get(n) for r in reports] for n in names},
        "intervals": {n: [r["intervals"].get(n) for r in reports] for n in names},
        "baselines": [
            {name: each["metrics"] for name, each in r.get("baselines", {}).items()}
            for r in reports
        ],
        "against": [
            _against(records[0], reports[0], run, report)
            for run, report in zip(records[1:], reports[1:], strict=True)
        ],
    }


def _read(run: Any, name: str) -> dict[str, Any]:
    try:
        return json.loads(run.artifact(name).read_text(encoding="utf-8"))
    except (RunError, OSError, ValueError) as error:
        status = run.store.get_run(run.id).info.status
        raise RunError(f"RUN: {run.id} ({status}) has no readable {name}: {error}") from None


def _differing(each: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the values by name of what is not the same in every dict."""
    names = sorted({name for values in each for name in values})
    rows = {name: [values.get(name) for values in each] for name in names}
    return {name: row for name, row in rows.items() if any(v != row[0] for v in row)}


def _against(first: Any, reference: dict[str, Any], run: Any, report: dict[str, Any]) -> dict:
    """Compare a run's scores with the first run's."""
    overlaps = {}
    for name, (low, high) in report["intervals"].items():
        if name in reference["intervals"]:
            other_low, other_high = reference["intervals"][name]
            overlaps[name] = low <= other_high and other_low <= high
    rows = report.get("rows_fingerprint")
    same = rows is not None and rows == reference.get("rows_fingerprint")
    result = {"run": run.id, "same_rows": same, "overlaps": overlaps}
    if same:
        import numpy as np

        from dlkit.evaluation.paired import differences

        with (
            np.load(first.artifact("answers.npz")) as a,
            np.load(run.artifact("answers.npz")) as b,
        ):
            result["paired"] = differences(a, b)
    return result


def show(result: dict[str, Any]) -> str:
    """Lay a comparison of runs out for a terminal: one column a run."""
    runs = result["runs"]
    head = ["", *(run["run"][:8] for run in runs)]
    lines = [head]
    lines += [[key, *(str(run[key]) for run in runs)] for key in OWN[1:]]
    lines += [[""], ["differs"] if result["differs"] else ["nothing differs in the settings"]]
    for name, values in result["differs"].items():
        lines.append([f"  {name}", *("-" if v is None else _cut(v) for v in values)])
    lines += [[""], ["scores, 95 % intervals"]]
    for name, values in result["metrics"].items():
        spans = result["intervals"][name]
        cells = [_scored(value, span) for value, span in zip(values, spans, strict=True)]
        lines.append([f"  {name.replace('_', ' ')}", *cells])
    for name in dict.fromkeys(n for each in result["baselines"] for n in each):
        values = [each.get(name, {}).get("accuracy") for each in result["baselines"]]
        if any(v is not None for v in values):
            words = f"  {name.replace('_', ' ')} accuracy"
            lines.append([words, *("-" if v is None else f"{v:.4f}" for v in values)])
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(head))]
    # A line of one cell is a heading: it does not widen the first column.
    widths[0] = max(len(line[0]) for line in lines if len(line) > 1)
    drawn = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=False)).rstrip() for line in lines
    ]
    return "\n".join([*drawn, "", *(_words(runs[0], each) for each in result["against"])])


def _words(first: dict[str, Any], against: dict[str, Any]) -> str:
    """Say whether a run's scores differ from the first's by more than chance."""
    start = f"{against['run'][:8]} against {first['run'][:8]}: "
    if not against["same_rows"]:
        apart = [n.replace("_", " ") for n, overlap in against["overlaps"].items() if not overlap]
        said = f"apart in {', '.join(apart)}" if apart else "all overlap"
        return f"{start}no answers to the same rows, so by intervals alone: {said}"
    parts = []
    for name in ("accuracy", "log_loss"):
        low, high = against["paired"][name]["interval"]
        difference = against["paired"][name]["difference"]
        chance = "may be chance" if low <= 0 <= high else "more than chance"
        words = name.replace("_", " ")
        parts.append(f"{words} {difference:+.4f} [{low:+.4f}, {high:+.4f}], {chance}")
    only, lost = (against["paired"][f"only_{which}_right"] for which in ("second", "first"))
    return (
        f"{start}{'; '.join(parts)} (the same rows, paired; {only:,} right here alone, {lost:,} "
        "there alone)"
    )


def _scored(value: float | None, span: list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" [{span[0]:.4f}, {span[1]:.4f}]" if span else "")


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 32 else text[:29] + "..."


@click.command("compare")
@click.argument("refs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def compare_command(refs: tuple[str, ...], as_json: bool) -> None:
    """Lay runs side by side: what differs in them, and whether their scores do.

    The first RUN is what the others are held against. Where two were scored on the same images,
    their difference is taken image by image.
    """
    result = compare_runs(refs)
    click.echo(json.dumps(result) if as_json else show(result))
