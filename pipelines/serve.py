"""`dlkit serve`: exported models over HTTP and gRPC, as TensorFlow Serving speaks them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlkit.errors import ServeError, nearest
from dlkit.options import Duration, Name, Number

if TYPE_CHECKING:
    from dlkit.serving.settings import Settings
    from dlkit.serving.watch import Source


def whole(low: int, high: int) -> Number:
    """Return the type of a whole number from `low` to `high`."""
    return Number(int, {"minimum": low, "maximum": high})


RUNTIMES = ("tensorflow", "onnx", "onnx-int8", "litert", "litert-int8")
PORT = whole(0, 65535)
SOME = whole(1, 10**9)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="[NAME=]RUN...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=PORT, default=8501, show_default=True, help="HTTP port; 0 takes a free one."
)
@click.option(
    "--grpc-port", type=PORT, help="gRPC port, 8500 in TensorFlow Serving; none opens none."
)
@click.option(
    "--workers", type=whole(1, 256), default=1, show_default=True,
    help="Processes behind the port, each with the models in its own memory.",
)  # fmt: skip
@click.option(
    "--threads", type=whole(1, 1024),
    help="Threads of one worker's models. [default: the cores shared by the workers]",
)  # fmt: skip
@click.option(
    "--runtime", type=Name(RUNTIMES), default="tensorflow", show_default=True,
    help="What runs the exports; all but tensorflow need one made with that --format.",
)  # fmt: skip
@click.option(
    "--max-batch", type=whole(1, 4096), default=64, show_default=True,
    help="Most rows of waiting requests that are run together; 1 runs each by itself.",
)  # fmt: skip
@click.option(
    "--batch-timeout-ms", type=Number(float, {"minimum": 0, "maximum": 10_000}), default=0.0,
    show_default=True, help="How long a request waits for others to be run with.",
)  # fmt: skip
@click.option(
    "--max-queue", type=SOME, default=512, show_default=True,
    help="Most requests that wait in a worker; past it 503.",
)  # fmt: skip
@click.option(
    "--max-concurrency", type=SOME, default=512, show_default=True,
    help="Most requests that a worker answers at once; past it 429.",
)  # fmt: skip
@click.option(
    "--max-body", type=SOME, default=64 * 2**20, show_default=True,
    help="Most bytes of a request; past it 413. Four times as many once unzipped.",
)  # fmt: skip
@click.option(
    "--max-pixels", type=SOME, default=50_000_000, show_default=True,
    help="Most pixels of an image, as its header says; past it 400.",
)  # fmt: skip
@click.option(
    "--request-timeout", type=Duration(), default="30s", show_default=True,
    help="Time within which a body must arrive (408) and a request must come to its turn (504).",
)  # fmt: skip
@click.option(
    "--watch/--no-watch", default=True, show_default=True,
    help="Serve new versions as they appear in a directory, and whatever `latest` or "
    "models:/NAME@ALIAS comes to mean; retire the old ones.",
)  # fmt: skip
@click.option(
    "--poll", type=Duration(), default="2s", show_default=True, help="Time between looks for them."
)
@click.option(
    "--versions", type=whole(1, 1000), default=1, show_default=True,
    help="How many of a directory's newest versions are served.",
)  # fmt: skip
@click.option(
    "--label", "labels", multiple=True, metavar="NAME:LABEL=VERSION",
    help="Serve VERSION too, under models/NAME/labels/LABEL. A registered model's aliases are "
    "labels by themselves.",
)  # fmt: skip
@click.option(
    "--api-key-file", metavar="FILE", envvar="DLKIT_API_KEY_FILE",
    help="Keys, one a line, of which each request must carry one (Authorization: Bearer KEY, or "
    "X-API-Key: KEY). Or one key in the variable DLKIT_API_KEY.",
)  # fmt: skip
@click.option(
    "--require-manifest", is_flag=True,
    help="Refuse what is not as dlkit's export wrote it, and operations not known to be harmless.",
)  # fmt: skip
@click.option(
    "--log-format", type=Name(("json", "text")),
    help="[default: text on a terminal, else json]",
)  # fmt: skip
def serve(runs: tuple[str, ...], host: str, port: int, **given: Any) -> None:
    """Serve exported models over HTTP and gRPC, with TensorFlow Serving's interface and more.

    RUN is a run, `latest`, a registry name `models:/NAME@ALIAS` or an exported directory. NAME
    is the model's in the URL: the registry name or the task with underscores unless given.

    \b
    POST /v1/models/NAME:predict     answer {"instances": [...]} or {"inputs": ...}
    GET  /v1/models/NAME             its versions and their state
    GET  /v1/models/NAME/metadata    its signatures
    GET  /healthz                    200 when ready, 503 while stopping

    SIGTERM stops it after all accepted requests are answered.
    """
    from contextlib import ExitStack, closing

    from dlkit.serving import server
    from dlkit.serving.admit import admit
    from dlkit.serving.logs import log_to_stderr
    from dlkit.serving.watch import Finder

    asked = [split_name(run) for run in runs]
    labels = [split_label(label) for label in given["labels"]]
    poll = given["poll"] if given["watch"] else 0.0
    with ExitStack() as stack:
        stack.enter_context(server.signals_while_loading())
        listener = stack.enter_context(closing(server.bind(host, port)))
        if given["grpc_port"] is not None:
            given["grpc_port"] = stack.enter_context(server.held(host, given["grpc_port"]))
        settings = settings_of(host, given)
        # Everything that can be said without TensorFlow is said before it is loaded.
        sources = resolve(asked)
        finder = Finder(sources, given["versions"], labels_of(labels, sources))
        plan = finder.look()
        for name, label, version in labels:
            if version not in plan.versions[name]:
                there = ", ".join(map(str, plan.versions[name]))
                raise ServeError(
                    f"--label: {name} has no version {version} for '{label}'; there: {there}"
                )
        for path in (path for folders in plan.versions.values() for path in folders.values()):
            admit(path, require_manifest=settings.require_manifest)  # once more when it is loaded
        log_to_stderr(settings.log_format)
        if settings.workers > 1:
            from dlkit.serving.workers import Supervisor

            Supervisor(settings, finder, plan, listener, poll).run()
        else:
            server.serve_alone(settings, finder, plan, listener, poll)


def settings_of(host: str, given: dict[str, Any]) -> Settings:
    """Return how each worker serves.

    Raises:
        ServeError: the key file cannot be read or holds no key.
    """
    import os
    import sys

    from dlkit.serving.batching import Batching
    from dlkit.serving.guard import read_keys
    from dlkit.serving.service import Limits
    from dlkit.serving.settings import Settings, cores

    workers = given["workers"]
    threads = given["threads"] or max(1, cores() // workers)
    text = given["log_format"] or ("text" if sys.stderr.isatty() else "json")
    return Settings(
        host=host,
        grpc_port=given["grpc_port"],
        workers=workers,
        threads=threads,
        runtime=given["runtime"],
        batching=Batching(
            max_batch=given["max_batch"],
            timeout=given["batch_timeout_ms"] / 1000,
            max_queue=given["max_queue"],
            threads=threads,
        ),
        limits=Limits(
            body=given["max_body"],
            decompressed=4 * given["max_body"],
            pixels=given["max_pixels"],
            concurrency=given["max_concurrency"],
            timeout=given["request_timeout"],
        ),
        keys=read_keys(given["api_key_file"], os.environ.get("DLKIT_API_KEY")),
        require_manifest=given["require_manifest"],
        log_format=text,
    )


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


def split_label(label: str) -> tuple[str, str, int]:
    """Split `NAME:LABEL=VERSION`.

    Raises:
        ServeError: it is written otherwise.
    """
    found = re.fullmatch(r"([^:=]+):([^/:=]+)=([0-9]{1,18})", label)
    if not found:
        raise ServeError(f"--label: got '{label}'; accepted: NAME:LABEL=VERSION, as flowers:old=3")
    return found[1], found[2], int(found[3])


def check_name(name: str) -> None:
    """Raise ServeError unless `name` can stand in a URL as it is."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ServeError(
            f"'{name}' cannot be a model's name: letters, digits, '_', '.' and '-' only; "
            "choose one with NAME=RUN"
        )


def resolve(asked: list[tuple[str | None, str]]) -> dict[str, Source]:
    """Return where each model comes from, by the name to serve it under.

    Raises:
        ServeError: a directory without a SavedModel, a bad name, or one name twice.
        RunError: a run that does not exist.
    """
    from dlkit import tracking
    from dlkit.serving.model import find_version
    from dlkit.serving.watch import Source

    sources: dict[str, Source] = {}
    for given, run in asked:
        if Path(run).is_file():
            find_version(Path(run))  # says what the file is
        directory, default = tracking.export_directory(run)
        name = given or default or directory.name
        check_name(name)
        if name in sources:
            raise ServeError(f"two models are named '{name}'; give each its own with NAME=RUN")
        find_version(directory)
        followed = run.startswith("models:/") or (run == "latest" and directory.name != run)
        sources[name] = Source(run, directory, followed)
    return sources


def labels_of(
    labels: list[tuple[str, str, int]], sources: dict[str, Source]
) -> dict[str, dict[str, int]]:
    """Return the version of each label by model.

    Raises:
        ServeError: a model that is not served.
    """
    found: dict[str, dict[str, int]] = {}
    for name, label, version in labels:
        if name not in sources:
            served = ", ".join(sorted(sources))
            raise ServeError(
                f"--label: no model '{name}'{nearest(name, sources)}; served: {served}"
            )
        found.setdefault(name, {})[label] = version
    return found
