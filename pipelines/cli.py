"""The `dlkit` command: a table of commands, each imported when it is called."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

import dlkit
from dlkit.errors import DlkitError, nearest, one_of

COMMANDS = {
    "image-classification": (
        "pipelines.image_classification:commands",
        "Classify images: train, compare, evaluate, predict, export.",
    ),
    "text-generation": (
        "pipelines.text_generation:commands",
        "Generate text: train, evaluate, generate, export.",
    ),
    "forecasting": (
        "pipelines.forecasting:commands",
        "Forecast time series: train, evaluate, backtest, predict.",
    ),
    "anomaly-detection": (
        "pipelines.anomaly_detection:commands",
        "Find what is not normal: train, evaluate, predict, encode.",
    ),
    "image-synthesis": (
        "pipelines.image_synthesis:commands",
        "Make pictures: train, evaluate, generate, interpolate, translate.",
    ),
    "serve": ("pipelines.serve:serve", "Serve exported models over HTTP."),
    "runs": ("pipelines.runs:runs", "List, show, compare, register and deliver runs."),
    "models": ("pipelines.models:models", "List the models of each task, or one's parameters."),
    "ui": ("pipelines.ui:ui", "Browse the runs in MLflow's own pages."),
    "doctor": ("pipelines.doctor:doctor", "Look at this machine: versions, store, disk, data."),
}


# What the system refuses that the user can mend: a full disk, a quota, permissions, a file where a
# folder has to be or the other way round.
MENDABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
}


class Table(click.Group):
    """A group whose commands are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            raise click.UsageError(
                f"no command '{cmd_name}'{nearest(cmd_name, COMMANDS)}; accepted: {one_of(COMMANDS)}"
            )
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=Table, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dlkit.__version__, prog_name="dlkit")
def cli() -> None:
    """From data to a trained, tracked, exported and served Keras model."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    0 when all went well, 2 for what the user can mend, 1 for our fault, 130 for Ctrl-C.
    """
    try:
        code = cli.main(arguments, prog_name="dlkit", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.ClickException as error:
        return _fail(" ".join(error.format_message().split()), 2)
    except DlkitError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader went away; nothing more can be said to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        return _fail(f"{error.filename or 'cannot write'}: {error.strerror}", 2)
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ or error
        number = getattr(cause, "number", 2)
        hint = cause.args[0] if cause.args else ""
        return _fail(f"interrupted{hint}", 128 + number, word="")
    except RuntimeError as error:
        if str(error) != "Could not determine home directory.":  # of Path.expanduser
            raise
        return _fail("a path begins with ~ and a name that no user of this machine has", 2)


def _fail(message: str, code: int, word: str = "error: ") -> int:
    print(f"dlkit: {word}{message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
