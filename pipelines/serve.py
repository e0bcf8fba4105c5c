"""`dlkit serve`: exported models over HTTP, as TensorFlow Serving speaks it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from dlkit.errors import ServeError

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="[NAME=]RUN...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8501,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
def serve(runs: tuple[str, ...], host: str, port: int) -> None:
    """Serve exported models over HTTP, with TensorFlow Serving's REST interface.

    RUN is a run, `latest`, a registry name `models:/NAME@ALIAS` or an exported directory. NAME
    is the model's in the URL: the registry name or the task with underscores unless given.

    \b
    POST /v1/models/NAME:predict     answer {"instances": [...]} or {"inputs": ...}
    GET  /v1/models/NAME             its versions and their state
    GET  /v1/models/NAME/metadata    its signatures
    GET  /healthz                    200 when ready, 503 while stopping

    SIGTERM stops it after all accepted requests are answered.
    """
    from contextlib import closing

    from dlkit.serving import server
    from dlkit.serving.model import load_model
    from dlkit.serving.servables import Servables
    from dlkit.serving.service import Service

    asked = [split_name(run) for run in runs]
    with server.stopped_by_sigterm(), closing(server.bind(host, port)) as listener:
        # Everything that can be said without TensorFlow is said before it is loaded.
        directories = resolve(asked)
        server.log_to_stderr()
        service = Service(Servables())
        for name, path in directories.items():
            service.servables.put(load_model(name, path))
        server.serve_models(service, listener, host)


def split_name(run: str) -> tuple[str | None, str]:
    """Split `[NAME=]RUN`; an equals sign after a slash belongs to a path.

    Raises:
        ServeError: NAME or RUN is empty, or NAME does not fit into a URL.
    """
    name, equals, rest = run.partition("=")
    if not equals or "/" in name:
        return None, run
    check_name(name)
    if not rest:
        raise ServeError(f"'{run}' names no run: write NAME=RUN")
    return name, rest


def check_name(name: str) -> None:
    """Raise ServeError unless `name` can stand in a URL as it is."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ServeError(
            f"'{name}' cannot be a model's name: letters, digits, '_', '.' and '-' only; "
            "choose one with NAME=RUN"
        )


def resolve(asked: list[tuple[str | None, str]]) -> dict[str, Path]:
    """Return the exported directory of each run by the name to serve it under.

    Raises:
        ServeError: a directory without a SavedModel, a bad name, or one name twice.
        RunError: a run that does not exist.
    """
    from dlkit import tracking
    from dlkit.serving.model import find_version

    directories = {}
    for given, run in asked:
        directory, default = tracking.export_directory(run)
        name = given or default or directory.name
        check_name(name)
        if name in directories:
            raise ServeError(f"two models are named '{name}'; give each its own with NAME=RUN")
        find_version(directory)
        directories[name] = directory
    return directories
