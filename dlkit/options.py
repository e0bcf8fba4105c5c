"""A Config dataclass is the one home of a command's options.

Each field becomes a click option of the same name; a value given on the command line wins over
one in `--config FILE` (TOML or JSON), which wins over the field's default.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import click

from dlkit.errors import OptionError, nearest, one_of

C = TypeVar("C")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def option(default: Any, help: str, **details: Any) -> Any:
    """Declare a Config field: its default, its help, and any of the details below.

    Args:
        default: value where neither the command line nor the config file gives one.
        help: one sentence for `--help`.
        **details: `choices` (accepted names), `minimum`, `maximum` (inclusive bounds), `above`
            and `below` (exclusive bounds), `metavar`, `duration` (True: `10m`, `90s`, `1h30m` or seconds).
    """
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata={"help": help, **details})
    return dataclasses.field(default=default, metadata={"help": help, **details})


class Name(click.ParamType):
    """One of a set of names; a typo is answered with the nearest."""

    def __init__(self, accepted: Iterable[str]) -> None:
        self.accepted = sorted(accepted)
        self.name = "name"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "[" + "|".join(self.accepted) + "]"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if value not in self.accepted:
            self.fail(
                f"got '{value}'{nearest(str(value), self.accepted)}; "
                f"accepted: {one_of(self.accepted)}"
            )
        return value


class Number(click.ParamType):
    """A finite number of `kind` (int or float) within bounds."""

    def __init__(self, kind: type, details: Mapping[str, Any]) -> None:
        self.kind, self.details = kind, details
        self.name = "integer" if kind is int else "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            number = self.kind(value)
            exact = not isinstance(value, bool) and number == float(value)
        except (TypeError, ValueError, OverflowError):
            exact, number = False, 0
        low, high = self.details.get("minimum"), self.details.get("maximum")
        above, below = self.details.get("above"), self.details.get("below")
        if exact and abs(number) < float("inf") and (low is None or number >= low):
            if (high is None or number <= high) and (above is None or number > above):
                if below is None or number < below:
                    return number
        bounds = [f"at least {low}"] if low is not None else []
        bounds += [f"above {above}"] if above is not None else []
        bounds += [f"at most {high}"] if high is not None else []
        bounds += [f"below {below}"] if below is not None else []
        kind = "a whole number" if self.kind is int else "a number"
        self.fail(f"got '{value}'; accepted: {' '.join([kind, ', '.join(bounds)]).strip()}")


class Duration(click.ParamType):
    """Seconds, written as a number or as `90s`, `10m`, `1h30m`."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        text = str(value).strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
        if parts and "".join(a + b for a, b in parts) == text:
            seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
        elif re.fullmatch(r"\d+(\.\d+)?", text) and not isinstance(value, bool):
            seconds = float(text)
        else:
            seconds = 0.0
        if seconds <= 0:
            self.fail(f"got '{value}'; accepted: a time above zero such as 90s, 10m or 1h30m")
        return seconds


def field_types(config: type) -> dict[str, tuple[click.ParamType, bool]]:
    """Return the click type of each field and whether it is a yes/no flag."""
    hints = get_type_hints(config)
    types: dict[str, tuple[click.ParamType, bool]] = {}
    for field in dataclasses.fields(config):
        kinds = [
            k for k in (get_args(hints[field.name]) or (hints[field.name],)) if k is not type(None)
        ]
        details = field.metadata
        if details.get("choices"):
            kind: click.ParamType = Name(details["choices"])
        elif details.get("duration"):
            kind = Duration()
        elif kinds[0] in (int, float):
            kind = Number(kinds[0], details)
        else:
            kind = click.BOOL if kinds[0] is bool else click.STRING
        types[field.name] = (kind, kinds[0] is bool)
    return types


def options_of(config: type) -> Callable[[Callable], Callable]:
    """Decorate a click command with one option per field of `config`, plus `-p` for `params`.

    The command receives None for each option that was not given, so that `resolve` can tell it
    from one given at its default.
    """

    def decorate(command: Callable) -> Callable:
        types = field_types(config)
        for field in reversed(dataclasses.fields(config)):
            details, flag = field.metadata, "--" + field.name.replace("_", "-")
            if field.name == "params":
                add = click.option(
                    "-p", "params", multiple=True, metavar="NAME=VALUE", help=details["help"]
                )
            else:
                kind, yes_no = types[field.name]
                shown = details.get("shown", field.default)
                add = click.option(
                    f"{flag}/--no-{flag[2:]}" if yes_no else flag,
                    field.name,
                    type=None if yes_no else kind,
                    default=None,
                    metavar=details.get("metavar"),
                    help=details["help"] + _shown(shown, yes_no, flag),
                )
            command = add(command)
        return command

    return decorate


def _shown(value: Any, yes_no: bool, flag: str) -> str:
    """Tell a default in an option's help; click's own default has to be None, see above."""
    if value is None:
        return ""
    if yes_no:
        value = flag[2:] if value else f"no-{flag[2:]}"
    return f"  [default: {value}]"


def parse_params(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `name=value` pairs; a value is JSON where it parses as JSON, else a string.

    Raises:
        OptionError: a pair without `=` or without a name.
    """
    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise OptionError(f"-p takes NAME=VALUE, got '{pair}'")
        try:
            params[name.strip()] = json.loads(value)
        except ValueError:
            params[name.strip()] = value
    return params


def read_config_file(path: str | Path, config: type) -> dict[str, Any]:
    """Read a TOML or JSON config file and check its keys against the fields of `config`.

    Raises:
        OptionError: the file is missing, does not parse, or holds a key that is no option.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--config {path} cannot be read: {_reason(error)}") from None
    try:
        if path.suffix == ".toml":
            import tomllib

            values = tomllib.loads(text)
        else:
            values = json.loads(text)
    except ValueError as error:
        raise OptionError(f"--config {path} does not parse: {error}") from None
    if not isinstance(values, dict):
        raise OptionError(
            f"--config {path} must hold a table of options, got {type(values).__name__}"
        )
    return check_keys(values, config, f"--config {path}")


def check_keys(values: Mapping[str, Any], config: type, where: str) -> dict[str, Any]:
    """Return `values` with every entry checked and converted by the type of its field.

    Raises:
        OptionError: an unknown key (with the nearest known one) or a value that is not accepted.
    """
    types, known = field_types(config), {f.name: f for f in dataclasses.fields(config)}
    hints = get_type_hints(config)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise OptionError(f"{where}: unknown key '{key}'{nearest(key, known)}")
        if key == "params":
            if not isinstance(value, dict):
                raise OptionError(f"{where}: 'params' must be a table, got '{value}'")
            checked[key] = dict(value)
        elif value is None and type(None) in get_args(hints[key]):
            checked[key] = None
        else:
            kind, yes_no = types[key]
            if yes_no != isinstance(value, bool) or isinstance(value, (list, dict)):
                raise OptionError(f"{where}: '{key}' does not take {value!r}")
            try:
                checked[key] = value if yes_no else kind.convert(value, None, None)
            except click.BadParameter as error:
                raise OptionError(f"{where}: '{key}': {error.message}") from None
    return checked


def resolve(config: type[C], given: Mapping[str, Any], file: str | None = None) -> C:
    """Merge defaults, a config file and the given options into one `config` instance.

    A config class may have `presets(values)`: defaults that depend on the values given; `params`
    among them merge by key.
    """
    values = read_config_file(file, config) if file else {}
    params = {**values.pop("params", {}), **parse_params(given.get("params") or ())}
    values |= {k: v for k, v in given.items() if v is not None and k != "params"}
    own = getattr(config, "presets", None)
    presets = dict(own(values)) if own else {}
    return config(**(presets | values | {"params": {**presets.get("params", {}), **params}}))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
