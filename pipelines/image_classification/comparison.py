"""What a comparison of models is made from, and how its rows are laid out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from dlkit.errors import OptionError, counted, nearest, one_of
from dlkit.options import option
from pipelines.image_classification.config import PRESETS, TASK, Config

DEFAULT_SECONDS = 120.0
# What is not given for these is each family's own.
OWN = {name for preset in PRESETS.values() for name in preset}


def _options() -> Iterator[tuple[str, Any, Any]]:
    """Yield the options of `train`, with a list of models for the one model."""
    changed = {
        "params": option({}, "NAME=VALUE for every model that has it, MODEL.NAME=VALUE for one."),
        "time_limit": option(
            None,
            "Time that each model trains and validates in, such as 10m.",
            duration=True,
            metavar="TIME",
            shown="2m, or none with --epochs",
        ),
    }
    yield (
        "models",
        str | None,
        option(
            None,
            "Names from `dlkit models`, or package.module:function, with commas between.",
            metavar="LIST",
            shown="every built-in family",
        ),
    )
    kinds = get_type_hints(Config)
    for field in dataclasses.fields(Config):
        if field.name in OWN and field.name not in changed:
            shown = field.metadata.get("shown", field.default)
            shown = "the family's own" if shown is None else f"{shown}, or the family's own"
            details = {**field.metadata, "shown": shown}
            kind = kinds[field.name]
            yield field.name, kind | None, dataclasses.field(default=None, metadata=details)
        elif field.name != "model":
            again = changed.get(field.name) or dataclasses.field(
                default=field.default,  # pyright: ignore[reportArgumentType]
                default_factory=field.default_factory,  # pyright: ignore[reportArgumentType]
                metadata=field.metadata,
            )
            yield field.name, kinds[field.name], again


Comparison: Any = dataclasses.make_dataclass("Comparison", _options(), frozen=True)


def complete(config: Any) -> Any:
    """Return a Comparison with its models and its time limit filled in."""
    from dlkit.models import MODELS

    # A backbone of keras.applications is somebody's choice, not a family to try.
    families = [m for m in MODELS[TASK] if m.partition("/")[0] != "applications"]
    limit = config.time_limit
    if limit is None and config.epochs is None:
        limit = DEFAULT_SECONDS
    models = ",".join(families) if config.models is None else config.models
    return dataclasses.replace(config, models=models, time_limit=limit)


def configs(config: Any) -> tuple[dict[str, Config], list[str]]:
    """Return the config of each model's own training run, every name and value checked.

    Returns:
        Configs by model, in the order of the list; sentences that say which models a parameter
        does not apply to.
    Raises:
        OptionError: an unknown or repeated model, a parameter that none has, a value not accepted.
    """
    from dlkit import models

    names = [name.strip() for name in config.models.split(",") if name.strip()]
    if not names:
        raise OptionError(
            f"--models: got '{config.models}', an empty list; accepted: names from `dlkit models` "
            "with commas between"
        )
    found, given, notes = {}, {}, []
    for name in names:
        if name in found:
            raise OptionError(f"--models: '{name}' is there twice; name each model once")
        try:
            found[name] = models.find(TASK, name)
        except OptionError as error:
            raise OptionError(str(error).replace("--model:", "--models:", 1)) from None
        given[name] = {}
    # What is said of one model wins over what is said of all.
    for key, value in sorted(config.params.items(), key=lambda item: "." in item[0]):
        owner, dot, parameter = key.rpartition(".")
        if dot and owner not in found:
            raise OptionError(
                f"-p {key}: '{owner}' is not in --models{nearest(owner, found)}; "
                f"accepted: {one_of(found)}"
            )
        have = [
            name
            for name, (builder, implied) in found.items()
            # A name such as resnet-20 has its variant already.
            if key in builder.signature.parameters and key not in implied
        ]
        if not dot and not have:
            known = {p for builder, _ in found.values() for p in builder.signature.parameters}
            if key in known:
                raise OptionError(f"-p {key}: the names in --models say it already")
            raise OptionError(
                f"-p {key}: none of the models has a parameter '{key}'{nearest(key, known)}; "
                f"accepted: {one_of(known)}"
            )
        for name in [owner] if dot else have:
            given[name][parameter] = value
        if not dot and len(have) < len(names):
            without = ", ".join(name for name in names if name not in have)
            notes.append(f"-p {key} applies to {', '.join(have)}; not to {without}")
    same: dict[str, str] = {}
    for name, (builder, implied) in found.items():
        try:
            params = models.check_params(builder, {**implied, **given[name]})
        except OptionError as error:
            raise OptionError(f"--models: {name}: {error}") from None
        made = json.dumps([builder.target, params], sort_keys=True, default=str)
        if made in same:
            raise OptionError(
                f"--models: '{same[made]}' and '{name}' are one model with the same parameters"
            )
        same[made] = name
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    del shared["models"]
    own = {name for name in OWN if shared[name] is None}
    shared = {k: v for k, v in shared.items() if k not in own}
    plans = {
        name: Config(
            **{**Config.presets({"model": name}), **shared, "model": name, "params": given[name]}
        )
        for name in names
    }
    return plans, notes


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
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(lines[0]))]
    drawn = []
    for line in lines:
        # Names to the left, numbers to the right.
        cells = [
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=False))
        ]
        drawn.append("  ".join(cells).rstrip())
    return "\n".join(drawn)


def _scored(metrics: Mapping[str, float], intervals: Mapping[str, list[float]]) -> str:
    low, high = intervals["accuracy"]
    return f"{metrics['accuracy']:.4f} [{low:.4f}, {high:.4f}]"


def show(result: Mapping[str, Any]) -> str:
    """Lay a comparison out for a terminal, with what to type next."""
    each = result["time_limit"]
    budget = (
        f"{each:g} s of training each" if each else f"{counted(result['epochs'], 'epoch')} each"
    )
    done = [row for row in result["models"] if row["status"] == "FINISHED"]
    failed = [row for row in result["models"] if row.get("reason")]
    lines = [
        f"{counted(len(result['models']), 'model')} on {result['data']}, {budget}; ranked by validation "
        "accuracy",
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
