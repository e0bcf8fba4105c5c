"""Look at series before training on them."""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlkit.errors import DataError, DlkitError, counted
from pipelines.explained import copy_all
from pipelines.forecasting.config import TASK, listed
from pipelines.forecasting.inspect_words import notes, problems, show

if TYPE_CHECKING:
    from dlkit.data.series_inspect import Inspected, Inspection

# Series that are told in detail and drawn, and pairs of a series and a target that are tested.
DETAILED, TESTED = 20, 40
FLAGS = ("time", "target", "series_id", "past_covariates", "future_covariates", "static")


@click.command("inspect")
@click.argument("source")
@click.option("--time", metavar="TEXT", help="Column of the stamps.  [default: found]")
@click.option("--target", metavar="TEXT", help="Columns to forecast, with commas.  [default: all columns of numbers left]")  # fmt: skip
@click.option("--series-id", help="Column that tells the series of a panel apart.")
@click.option("--past-covariates", help="Columns known up to now alone, with commas.")
@click.option("--future-covariates", help="Columns known for the horizon too, with commas.")
@click.option("--static", help="Columns that hold one number a series, with commas.")
@click.option("--data-dir", metavar="DIR", help="Folder of tensorflow-datasets.")
@click.option("--download/--no-download", default=True, help="Let tensorflow-datasets download.")
@click.option("--out", metavar="DIR", help="Folder for the pictures and report.json.  [default: inspect-SOURCE]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(source: str, as_json: bool, **given: Any) -> None:
    """Look at SOURCE before training: stamps, gaps, doubles, trend, seasons, stationarity.

    What training refuses is reported here. Gaps are filled with a straight line for the trend, the
    autocorrelation and the tests.
    """
    result = inspect(source, quiet=as_json, **given)
    click.echo(json.dumps(result) if as_json else show(result))


def inspect(
    source: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    out: str | None = None,
    quiet: bool = False,
    **given: str | None,
) -> dict[str, Any]:
    """Inspect a source, draw its pictures and return what `--json` prints.

    Args:
        source: as for training.
        data_dir, download: of tensorflow-datasets.
        out: folder of the pictures and `report.json`; `inspect-SOURCE` if None.
        quiet: show no progress.
        **given: the roles of columns, by the names of `FLAGS`.
    Raises:
        DataError: a source that cannot be read, or without stamps or targets; `out` is a file.
    """
    began = time.monotonic()
    from dlkit.data.series_sources import Roles, kind_of
    from dlkit.progress import say

    kind_of(source)
    folder = Path(out).expanduser() if out else Path(f"inspect-{plain_name(source)}")
    if any(each.exists() and not each.is_dir() for each in (folder, *folder.parents)):
        raise DataError(f"--out: {folder} is a file; accepted: a folder, perhaps a new one")

    from dlkit.data.series_inspect import inspect_series
    from dlkit.evaluation import series_plots

    asked = Roles(
        given.get("time"),
        listed(given.get("target")),
        given.get("series_id"),
        listed(given.get("past_covariates")),
        listed(given.get("future_covariates")),
        listed(given.get("static")),
    )
    found = inspect_series(source, asked, data_dir, download)
    flags = [f"--{k.replace('_', '-')} {shlex.quote(v)}" for k in FLAGS if (v := given.get(k))]
    plan = training(found, flags, data_dir, download)
    shown = chosen(found.series)
    say(
        f"read {counted(len(found.index), 'row')}; testing and drawing "
        f"{counted(len(shown), 'series', 'series')}",
        quiet,
    )
    overall: dict[str, dict[str, list[float]]] = {}
    details = []
    with tempfile.TemporaryDirectory(prefix="dlkit-inspect-") as drawn:
        for number, one in enumerate(found.series):
            index, values = found.regular(one)
            targets = moving(one, values, plan["season"], overall)
            if number not in shown:
                continue
            tested = max(1, TESTED // len(shown))
            for i, (target, about) in enumerate(targets.items()):
                if "trend" in about and i < tested:
                    about |= dynamics(found, target, values[:, i])
            label = f"-{len(details) + 1:02}-{plain_name(one.name)}" if one.name else ""
            picture = f"series{label[:60]}.png"
            rows = one.rows[one.first][one.at < 0]
            off = (found.index[rows], found.values[rows])
            series_plots.series(
                one.name, index, values, found.roles.targets, plan["season"], found.alias,
                Path(drawn) / picture, off,
            )  # fmt: skip
            details.append(
                {
                    "name": one.name,
                    "stamps": one.stamps,
                    "nan": one.missing,
                    "infinite": one.infinite,
                    "targets": targets,
                    "picture": str((folder / picture).absolute()),
                }
            )
        result = rounded(
            {
                "task": TASK,
                "data": source,
                "roles": found.roles._asdict(),
                "frequency": found.alias,
                "series": len(found.series),
                "rows": len(found.index),
                "summary": summary(found, overall),
                "details": details,
                "not_detailed": len(found.series) - len(details),
                "training": plan,
                "problems": problems(found),
                "notes": notes(found, details),
                "pictures": [each["picture"] for each in details],
                "report": str((folder / "report.json").absolute()),
                "seconds": round(time.monotonic() - began, 2),
            }
        )
        Path(drawn, "report.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
        try:
            copy_all(Path(drawn), folder)
        except OSError as error:
            reason = error.strerror or "cannot be written to"
            raise DataError(f"--out: {folder}: {reason}; accepted: a folder to write to") from None
    return result


def chosen(series: list[Inspected]) -> set[int]:
    """Return which series are told in detail: at least half of them such as need mending."""
    order = sorted(range(len(series)), key=lambda i: not series[i].troubled)
    troubled = sum(one.troubled for one in series)
    sound = min(len(series) - troubled, max(DETAILED - troubled, DETAILED // 2))
    return {*order[: DETAILED - sound], *order[troubled : troubled + sound]}


def training(
    found: Inspection, flags: list[str], data_dir: str | None, download: bool
) -> dict[str, Any]:
    """Return what `train` would make of a source by its defaults, or why it refuses."""
    from dlkit.data.series import load_series

    holes = any(
        one.stamps["missing"] or any(n for c, n in one.missing.items() if c not in one.empty)
        for one in found.series
    )
    fill = "interpolate" if holes else "none"
    line = ["dlkit forecasting train --data", shlex.quote(found.source), *flags]
    line += ["--fill interpolate"] * holes
    line += [f"--data-dir {shlex.quote(data_dir)}"] if data_dir else []
    plan: dict[str, Any] = {"command": " ".join(line), "fill": fill, "refused": None}
    try:
        if any(one.sparse for one in found.series):
            raise DataError("the stamps of a series span far more steps than it has rows")
        data = load_series(
            found.source, roles=found.roles, fill=fill, data_dir=data_dir, download=download
        )
    except DlkitError as error:
        return {**plan, "refused": str(error), "season": usual_season(found)}
    lookback = data.spec.input_shape[0]
    return {
        **plan,
        "season": data.season,
        "lookback": lookback,
        "horizon": data.spec.horizon,
        "series": len(data.spans),
        "windows": data.sizes(),
        "notes": data.notes[-DETAILED:],
    }


def usual_season(found: Inspection, values: Any = None) -> int:
    """Return the season that training would take for values, the longest series' if None."""
    import pandas as pd

    from dlkit.data.season import season_of
    from dlkit.data.series_split import cuts
    from dlkit.data.stationarity import filled

    if values is None:
        first = found.roles.targets[0]
        longest = max(found.series, key=lambda one: (one.targets[first]["values"] > 0, len(one.at)))
        values = found.regular(longest)[1][:, 0]
    if found.alias is None or len(values) < 12 or not (values == values).any():
        return 1
    frame = pd.DataFrame({"": filled(values)})
    ends = cuts("70/10/20", pd.date_range("2000-01-01", periods=len(frame), freq="s"))
    return season_of([("", frame)], {"": ends}, found.alias)


def moving(
    one: Inspected, values: Any, season: int, overall: dict[str, dict[str, list[float]]]
) -> dict[str, dict[str, Any]]:
    """Return a series' targets with their trend and season, and add them to those of all."""
    from dlkit.data.stationarity import correlogram, filled, trend

    targets = {name: dict(about) for name, about in one.targets.items()}
    for i, (name, about) in enumerate(targets.items()):
        if about["values"] and not about["constant"] and len(values) > 2:
            whole = filled(values[:, i])
            about["trend"] = trend(whole, season)
            lag = min(season, len(whole) - 1)
            about["at_season"] = float(correlogram(whole, lag)[lag])
        kept = {k: about.get(k) for k in ("mean", "deviation", "at_season")}
        kept["slope"] = about["trend"]["slope"] if "trend" in about else None
        for key, value in kept.items():
            if value is not None:
                overall.setdefault(name, {}).setdefault(key, []).append(value)
    return targets


def dynamics(found: Inspection, target: str, values: Any) -> dict[str, Any]:
    """Return what is costly to tell of one target: peaks of the autocorrelation, and the tests."""
    from dlkit.data.stationarity import filled, seasonality, stationarity

    whole = filled(values)
    return {
        "autocorrelation": seasonality(whole, found.alias),
        "season": usual_season(found, values=whole),
        "stationarity": stationarity(whole),
    }


def summary(found: Inspection, overall: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return what holds for all series together."""
    import numpy as np

    stamps = [one.stamps for one in found.series]
    kinds = ("missing", "duplicates", "irregular", "unsorted", "offset_changes")

    def three(values: list[float]) -> dict[str, float]:
        return {"min": min(values), "median": float(np.median(values)), "max": max(values)}

    return {
        "first": min(found.index).isoformat(sep=" "),
        "last": max(found.index).isoformat(sep=" "),
        "rows": three([each["rows"] for each in stamps]),
        "totals": {k: sum(each[k] for each in stamps) for k in (*kinds, "gaps", "duplicate_rows")},
        "longest_gap": max(each["longest_gap"] for each in stamps),
        "series_with": {
            **{k: sum(each[k] > 0 for each in stamps) for k in kinds},
            "nan": sum(any(one.missing.values()) for one in found.series),
            "no_number": sum(bool(one.empty) for one in found.series),
            "constant": sum(
                any(t["constant"] for t in one.targets.values()) for one in found.series
            ),
        },
        "targets": {
            name: {key: three(values) for key, values in each.items()}
            for name, each in overall.items()
        },
    }


def plain_name(source: str) -> str:
    """Return a name fit for a file: `data/shops.csv` becomes `shops.csv`."""
    last = source if source.startswith("tfds:") else source.rstrip("/").rpartition("/")[2]
    return "".join(c if c.isalnum() or c in "._" else "-" for c in last).strip("-.") or "data"


def rounded(value: Any) -> Any:
    """Return plain values for JSON, floats to six digits; what is not finite is None."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else None
    return value
