"""From what was trained to one row a model: means over seeds, their order, what is sure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from dlkit.errors import counted

COLUMNS: tuple[str, ...] = (
    "model", "status", "run", "seeds_finished", "validation_mse", "validation_mse_deviation", "mse",
    "mse_deviation", "mse_low", "mse_high", "mae", "against_best", "against_best_low",
    "against_best_high", "parameters", "steps", "best_epoch", "training_seconds", "verdict",
    "reason",
)  # fmt: skip


def by_model(
    rows: Mapping[str, dict[str, Any]],
    errors: Mapping[str, Any],
    simple: Mapping[str, Any],
    block: int,
) -> list[dict[str, Any]]:
    """Return one row a model, ranked, each held against the best baseline and the best model.

    Args:
        rows: of the trainings, by what they are called.
        errors: of those that finished, the mean squared error of each window `(n,)`.
        simple: the same of the baselines.
        block: windows drawn together.
    """
    from dlkit.evaluation.forecast_paired import difference

    models, windows = [], {}
    for name in dict.fromkeys(row["model"] for row in rows.values()):
        own = [row for row in rows.values() if row["model"] == name]
        found = [
            errors[key]
            for key, row in rows.items()
            if row["model"] == name and row["status"] == "FINISHED"
        ]
        if found:
            # One error a window, averaged over seeds.
            windows[name] = sum(found) / len(found)
            models.append(_averaged(own, windows[name], simple, block))
        else:
            models.append(_unfinished(own))
    order = ranked(models)
    for row in order[1:]:
        if row["model"] in windows:
            best, other = windows[order[0]["model"]], windows[row["model"]]
            row["against_best"] = difference(best, other, block)
    return order


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return models by validation mse, best first, the smaller of equals before; then the rest."""

    def place(row: Mapping[str, Any]) -> tuple:
        if row["status"] != "FINISHED":
            return (1,)
        return (0, row["validation"]["mse"], row["parameters"])

    return sorted(rows, key=place)


def remarks(rows: Sequence[Mapping[str, Any]], split: str, planned: int) -> list[str]:
    """Say of ranked models which of them chance may have put in order, and what is not known.

    Args:
        rows: the models.
        split: that they were scored on.
        planned: number of seeds.
    """
    done = [row for row in rows if row["status"] == "FINISHED"]
    said = []
    if len(done) > 1:
        best = done[0]["model"]
        spans = {row["model"]: row["against_best"]["interval"] for row in done[1:]}
        near = [name for name, (low, high) in spans.items() if low <= 0 <= high]
        over = [name for name, (_, high) in spans.items() if high < 0]
        if near:
            said.append(f"between {best} and {', '.join(near)} the {split} windows do not decide")
        if over:
            said.append(
                f"validation chose {best}, but on the {split} windows {', '.join(over)} "
                f"{'is' if len(over) == 1 else 'are'} better by more than chance"
            )
    if done and not any(row["beats_baselines"] for row in done):
        bar = done[0]["against_baseline"]["name"].replace("_", " ")
        said.append(f"no model beats {bar}: use it instead")
    for row in done:
        there = sum(each["status"] == "FINISHED" for each in row["seeds"])
        if there < planned:
            said.append(f"{row['model']}: {there} of {counted(planned, 'seed')}")
    if split != "test" and done:
        said.append("there is no test span: models are scored on the windows that chose among them")
    if len(done) > 1 and planned == 1:
        said.append("what another seed would change is in no interval; --seeds 0,1,2 shows it")
    return said


def verdict(against: Mapping[str, Any]) -> str:
    """Say in words whether a model's squared error is below that of the best baseline."""
    words, (_, high) = against["name"].replace("_", " "), against["interval"]
    if against["difference"] >= 0:
        return f"does NOT beat {words}"
    return f"beats {words}" + ("" if high < 0 else ", may be chance")


def _averaged(
    own: list[dict[str, Any]], windows: Any, simple: Mapping[str, Any], block: int
) -> dict[str, Any]:
    """Return the row of a model: means over its seeds, their spread, and the best baseline."""
    from dlkit.evaluation import forecast_paired

    done = [row for row in own if row["status"] == "FINISHED"]
    chosen = min(done, key=lambda row: row["validation"]["mse"])
    validation = [row["validation"]["mse"] for row in done]
    scores = [row["metrics"]["mse"] for row in done]
    bar = min(simple, key=lambda name: simple[name].mean())
    beside: dict[str, Any] = {"name": bar} | forecast_paired.difference(simple[bar], windows, block)
    spread = {"validation_mse": stdev(validation), "mse": stdev(scores)} if len(done) > 1 else None
    return {
        "model": chosen["model"],
        "status": "FINISHED",
        "run": chosen["run"],
        "validation": {"mse": fmean(validation)},
        "metrics": {k: fmean(row["metrics"][k] for row in done) for k in chosen["metrics"]},
        "intervals": {"mse": forecast_paired.interval(windows, block)},
        **({"spread": spread} if spread else {}),
        "parameters": chosen["parameters"],
        "steps": fmean(row["steps"] for row in done),
        "best_epoch": fmean(row["best_epoch"] for row in done),
        "training_seconds": fmean(row["training_seconds"] for row in done),
        "against_baseline": beside,
        "beats_baselines": beside["difference"] < 0,
        "verdict": verdict(beside),
        "seeds": [_seed(row) for row in own],
        "by_step": [
            fmean(each) for each in zip(*(row["by_step"]["model"] for row in done), strict=True)
        ],
    }


def _unfinished(own: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a model of which no training has finished: what became of the last."""
    states = [row["status"] for row in own]
    status = next((s for s in ("KILLED", "FAILED") if s in states), "NOT RUN")
    reasons = "; ".join(dict.fromkeys(row["reason"] for row in own if "reason" in row))
    return {
        "model": own[0]["model"],
        "status": status,
        **({"reason": reasons} if reasons else {}),
        "seeds": [_seed(row) for row in own],
    }


def _seed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the row of a model says of one training."""
    found = {k: row[k] for k in ("seed", "status", "run", "reason") if k in row}
    if row["status"] == "FINISHED":
        found |= {"validation_mse": row["validation"]["mse"], "mse": row["metrics"]["mse"]}
        found |= {k: row[k] for k in ("steps", "best_epoch", "training_seconds")}
    return found


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a model as `COLUMNS` have it."""
    if row["status"] != "FINISHED":
        return dict(row)
    spread, beside = row.get("spread", {}), row.get("against_best")
    low, high = row["intervals"]["mse"]
    return {
        **row,
        "seeds_finished": sum(each["status"] == "FINISHED" for each in row["seeds"]),
        "validation_mse": row["validation"]["mse"],
        "validation_mse_deviation": spread.get("validation_mse"),
        "mse": row["metrics"]["mse"],
        "mse_deviation": spread.get("mse"),
        "mse_low": low,
        "mse_high": high,
        "mae": row["metrics"]["mae"],
        "against_best": beside and beside["difference"],
        "against_best_low": beside and beside["interval"][0],
        "against_best_high": beside and beside["interval"][1],
    }
