"""What a comparison of classifiers is made from, and how its rows are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlkit.errors import OptionError, counted
from pipelines import comparison
from pipelines.image_classification.config import PRESETS, TASK, Config

DEFAULT_SECONDS = 120.0
# What is not given for these is each family's own.
OWN = {name for preset in PRESETS.values() for name in preset}
Comparison = comparison.comparison(Config, OWN, "2m")


def complete(config: Any) -> Any:
    """Return a Comparison with its models and its time limit filled in.

    Raises:
        OptionError: a run to start from, which is of one model.
    """
    for flag, value in (("--init-from", config.init_from), ("--prune", config.prune)):
        if value is not None:
            raise OptionError(f"{flag}: starts one model from another run; train it alone")
    return comparison.complete(config, TASK, DEFAULT_SECONDS)


def configs(config: Any) -> tuple[dict[str, Config], list[str]]:
    """Return the config of each model's own training run; see `pipelines.comparison.configs`."""
    return comparison.configs(config, TASK, Config, OWN)


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows by validation accuracy, best first, the smaller of equals before; then the rest."""

    def place(row: Mapping[str, Any]) -> tuple:
        if row["status"] != "FINISHED":
            return (1,)
        return (0, -row["validation"]["accuracy"], row["parameters"])

    return sorted(rows, key=place)


def remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Say of ranked rows which of them chance may have put in order, and which are no use."""
    done = [row for row in rows if row["status"] == "FINISHED"]
    said = []
    if done:
        bar = done[0]["intervals"]["accuracy"][0]
        near = [r["model"] for r in done[1:] if r["intervals"]["accuracy"][1] >= bar]
        if near:
            said.append(
                f"the test intervals of {done[0]['model']} and {', '.join(near)} overlap: their "
                "order may be chance"
            )
    return said + [f"{r['model']} {r['verdict']}" for r in done if not r["beats_baselines"]]


def table(result: Mapping[str, Any]) -> str:
    """Lay the rows out for a terminal, the baselines beneath."""
    lines = [
        ["", "model", "validation", "test [95 %]", "parameters", "images/s", "latency", "trained"]
    ]
    for place, row in enumerate(result["models"], 1):
        if row["status"] != "FINISHED":
            lines.append(["-", row["model"], row["status"].lower()])
            continue
        speed, wait = row["images_per_second"], row["latency_ms"]
        lines.append(
            [
                str(place),
                row["model"],
                f"{row['validation']['accuracy']:.4f}",
                _scored(row["metrics"], row["intervals"]),
                f"{row['parameters']:,}",
                f"{speed:,.0f}" if speed else "-",
                f"{wait:.2f} ms" if wait else "-",
                f"{row['training_seconds']:.1f} s",
            ]
        )
    for name, each in result["baselines"].items():
        lines.append(["", name.replace("_", " "), "", _scored(each["metrics"], each["intervals"])])
    return comparison.laid_out(lines)


def _scored(metrics: Mapping[str, float], intervals: Mapping[str, list[float]]) -> str:
    low, high = intervals["accuracy"]
    return f"{metrics['accuracy']:.4f} [{low:.4f}, {high:.4f}]"


def show(result: Mapping[str, Any]) -> str:
    """Lay a comparison out for a terminal, with what to type next."""
    done = [row for row in result["models"] if row["status"] == "FINISHED"]
    failed = [row for row in result["models"] if row.get("reason")]
    lines = [
        f"{counted(len(result['models']), 'model')} on {result['data']}, "
        f"{comparison.budget(result)}; ranked by validation accuracy",
        table(result),
        *(f"{row['model']}: {row['reason']}" for row in failed),
        *result["notes"],
        "",
        f"run     {result['run']}",
        *(f"{name:7} {result[name]}" for name in ("report", "table", "picture") if name in result),
        f"took    {result['seconds']:.1f} s",
    ]
    if done:
        lines += ["", f"next    dlkit {TASK} predict {done[0]['run'][:8]} FILE_OR_FOLDER"]
    if len(done) > 1:
        lines += [f"        dlkit runs compare {done[0]['run'][:8]} {done[1]['run'][:8]}"]
    return "\n".join(lines)
