"""What a comparison of models is made from, in every task: options, and a config for each model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_type_hints

from dlkit.errors import OptionError, counted, nearest, one_of
from dlkit.options import option


def comparison(
    config: type,
    own: Collection[str],
    seconds: str,
    replaced: Mapping[str, tuple[str, Any, Any]] | None = None,
) -> Any:
    """Return a dataclass of the options of `train`, with a list of models for the one model.

    Args:
        config: of `train`.
        own: options that models have presets for: what is not given for these is each model's own.
        seconds: the time limit where nothing is said, in words.
        replaced: by name of an option of `train`: name, type and field of the one in its place.
    """
    changed = {
        "params": option({}, "NAME=VALUE for every model that has it, MODEL.NAME=VALUE for one."),
        "time_limit": option(
            None,
            "Time that each model trains and validates in, such as 10m.",
            duration=True,
            metavar="TIME",
            shown=f"{seconds}, or none with --epochs",
        ),
    }
    names = option(
        None,
        "Names from `dlkit models`, or package.module:function, with commas between.",
        metavar="LIST",
        shown="every built-in family",
    )
    kinds = get_type_hints(config)

    def fields() -> Iterator[tuple[str, Any, Any]]:
        yield "models", str | None, names
        for field in dataclasses.fields(config):
            if field.name in (replaced or {}):
                yield (replaced or {})[field.name]
            elif field.name in own and field.name not in changed:
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

    return dataclasses.make_dataclass("Comparison", fields(), frozen=True)


def complete(config: Any, task: str, seconds: float) -> Any:
    """Return a comparison's config with its models and its time limit filled in."""
    from dlkit.models import MODELS

    # A backbone of keras.applications is somebody's choice, not a family to try.
    families = [m for m in MODELS[task] if m.partition("/")[0] != "applications"]
    limit = config.time_limit
    if limit is None and config.epochs is None:
        limit = seconds
    models = ",".join(families) if config.models is None else config.models
    return dataclasses.replace(config, models=models, time_limit=limit)


def configs(
    config: Any, task: str, kind: Any, own: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the config of each model's own training run, every name and value checked.

    Args:
        config: of the comparison, complete.
        task: whose models these are.
        kind: the config of `train`, with `presets`.
        own: see `comparison`.
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
    found: dict[str, tuple[models.Builder, dict[str, Any]]] = {}
    for name in names:
        if name in found:
            raise OptionError(f"--models: '{name}' is there twice; name each model once")
        try:
            found[name] = models.find(task, name)
        except OptionError as error:
            raise OptionError(str(error).replace("--model:", "--models:", 1)) from None
    given, notes = _shared_out(config.params, found)
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
    here = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    shared = {
        f.name: here[f.name]
        for f in dataclasses.fields(kind)
        if f.name in here and not (f.name in own and here[f.name] is None)
    }
    plans = {
        name: kind(
            **{**kind.presets({"model": name}), **shared, "model": name, "params": given[name]}
        )
        for name in names
    }
    return plans, notes


def _shared_out(
    params: Mapping[str, Any], found: Mapping[str, tuple[Any, dict[str, Any]]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Give each parameter to the models that have it; say which do not."""
    given: dict[str, dict[str, Any]] = {name: {} for name in found}
    notes = []
    # What is said of one model wins over what is said of all.
    for key, value in sorted(params.items(), key=lambda item: "." in item[0]):
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
        if not dot and len(have) < len(found):
            without = ", ".join(name for name in found if name not in have)
            notes.append(f"-p {key} applies to {', '.join(have)}; not to {without}")
    return given, notes


def budget(result: Mapping[str, Any]) -> str:
    """Say what each model of a comparison was given."""
    each = result["time_limit"]
    return f"{each:g} s of training each" if each else f"{counted(result['epochs'], 'epoch')} each"


def laid_out(lines: list[list[str]]) -> str:
    """Lay cells out in columns: the first two, names, to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(lines[0]))]
    drawn = []
    for line in lines:
        cells = [
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=False))
        ]
        drawn.append("  ".join(cells).rstrip())
    return "\n".join(drawn)
