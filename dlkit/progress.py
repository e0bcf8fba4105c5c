"""What training shows on standard error: a bar on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any


def _format(logs: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items())


class Progress:
    """Shows loss, metrics, examples per second and the time left."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bar: Any = None
        self.started = time.monotonic()
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task("training", total=None, text="")
            self.bar.start()

    def update(self, step: int, total: int | None, logs: Mapping[str, float], rate: float) -> None:
        """Show the state within an epoch; `rate` is in examples a second."""
        if self.bar is not None:
            text = f"{_format(logs)}  {rate:,.0f} examples/s"
            self.bar.update(self.task, completed=step, total=total, text=text)

    def epoch(self, epoch: int, epochs: int | None, logs: Mapping[str, float]) -> None:
        """Tell the end of an epoch, counted from 1."""
        if self.quiet:
            return
        of = f"/{epochs}" if epochs else ""
        shown = {k: v for k, v in logs.items() if k not in ("learning_rate", "examples_per_second")}
        line = f"epoch {epoch}{of}  {_format(shown)}  {logs['examples_per_second']:,.0f} examples/s"
        if self.bar is not None:
            self.bar.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Tell something between two epochs."""
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        else:
            say(text, self.quiet)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def say(text: str, quiet: bool = False) -> None:
    """Print one line for a person on standard error."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)
