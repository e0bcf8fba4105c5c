"""What a comparison of forecasters is made from, and how its rows are laid out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dlkit.errors import OptionError, counted
from dlkit.options import option
from pipelines import comparison
from pipelines.forecasting.config import PRESETS, TASK, Config, listed

DEFAULT_SECONDS = 30.0
LARGEST_SEED = 2**31 - 1
# What is not given for these is each family's own.
OWN = {name for preset in PRESETS.values() for name in preset}
SEEDS = option("0", "Seeds, with commas: each model is trained once with each.", metavar="LIST")
Comparison = comparison.comparison(Config, OWN, "30s", {"seed": ("seeds", str, SEEDS)})


def complete(config: Any) -> Any:
    """Return a Comparison with its models and its time limit filled in."""
    return comparison.complete(config, TASK, DEFAULT_SECONDS)


def seeds(text: str) -> list[int]:
    """Return the seeds between commas.

    Raises:
        OptionError: none, one that is no whole number from 0, or one of them twice.
    """
    try:
        found = [int(part) for part in listed(text)]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found) or not 0 <= min(found) <= max(found) <= LARGEST_SEED:  # fmt: skip
        raise OptionError(
            f"--seeds: got '{text}'; accepted: different whole numbers from 0 to {LARGEST_SEED}, "
            "with commas between, such as 0,1,2"
        )
    return found


def configs(config: Any) -> tuple[dict[str, Config], list[str]]:
    """Return the config of each training run; see `pipelines.comparison.configs`.

    All models come with the first seed, then all with the next: what a comparison that is ended
    early has trained can still be compared.
    """
    each = seeds(config.seeds)
    plans, notes = comparison.configs(config, TASK, Config, OWN)
    several = len(each) > 1
    return {
        f"{name}, seed {seed}" if several else name: dataclasses.replace(plan, seed=seed)
        for seed in each
        for name, plan in plans.items()
    }, notes


def table(result: Mapping[str, Any]) -> str:
    """Lay the models out for a terminal, the baselines beneath."""
    split = result["split"]
    head = ["", "model", "parameters", "steps", "seconds", "validation mse"]
    lines = [[*head, f"{split} mse [95 %]", "verdict"]]
    for place, row in enumerate(result["models"], 1):
        if row["status"] != "FINISHED":
            lines.append(["-", row["model"], row["status"].lower()])
            continue
        spread = row.get("spread", {})
        lines.append(
            [
                str(place),
                row["model"],
                f"{row['parameters']:,}",
                f"{row['steps']:,.0f}",
                f"{row['training_seconds']:.1f}",
                _spread(row["validation"]["mse"], spread.get("validation_mse")),
                f"{_spread(row['metrics']['mse'], spread.get('mse'))} "
                f"{_span(row['intervals']['mse'])}",
                row["verdict"],
            ]
        )
    for name, each in result["baselines"].items():
        scored = f"{each['metrics']['mse']:.4f} {_span(each['intervals']['mse'])}"
        validation = f"{each['validation']['mse']:.4f}"
        lines.append(["", name.replace("_", " "), "", "", "", validation, scored])
    # Words are read from the left.
    whole = [line for line in lines if len(line) == len(lines[0])]
    width = max(len(line[-1]) for line in whole)
    for line in whole:
        line[-1] = line[-1].ljust(width)
    return comparison.laid_out(lines)


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _span(interval: Sequence[float]) -> str:
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def against(result: Mapping[str, Any]) -> list[str]:
    """Lay out how much worse each model is than the best, window by window."""
    done = [row for row in result["models"] if row["status"] == "FINISHED"]
    if len(done) < 2:
        return []
    lines = []
    for row in done[1:]:
        low, high = row["against_best"]["interval"]
        chance = "may be chance" if low <= 0 <= high else "more than chance"
        moved = f"{row['against_best']['difference']:+.4f}"
        lines.append(["", row["model"], moved, f"[{low:+.4f}, {high:+.4f}]", chance.ljust(16)])
    return [
        f"{result['split']} mse less that of {done[0]['model']}, on the same windows, by blocks of "
        f"{result['block_length']}:",
        comparison.laid_out(lines),
    ]


def show(result: Mapping[str, Any]) -> str:
    """Lay a comparison out for a terminal, with what to type next."""
    done = [row for row in result["models"] if row["status"] == "FINISHED"]
    many = counted(len(result["models"]), "model")
    trained = f", {len(result['seeds'])} seeds" if len(result["seeds"]) > 1 else ""
    lines = [
        f"{many} on {result['data']}{trained}, {comparison.budget(result)}; lookback "
        f"{result['lookback']}, horizon {result['horizon']}; ranked by validation mse",
        table(result),
        *against(result),
        *result["reasons"],
        *result["notes"],
        "",
        f"run     {result['run']}",
        *(f"{name:7} {result[name]}" for name in ("report", "table", "picture") if name in result),
        f"took    {result['seconds']:.1f} s",
    ]
    if done:
        short = done[0]["run"][:8]
        lines += ["", f"next    dlkit {TASK} predict {short} {result['data']} --plot forecast.png"]
    if len(done) > 1:
        lines += [f"        dlkit runs compare {done[0]['run'][:8]} {done[1]['run'][:8]}"]
    return "\n".join(lines)
