"""Score rows, windows or images with a trained detector, with reasons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from dlkit.errors import counted
from pipelines.anomaly_detection.answers import (
    Opened,
    check_name,
    drawn,
    json_lines,
    opened_model,
    rows_written,
)

ANSWERS = ("score", "p_value", "is_anomaly", "reasons")


class Predicted:
    """The rows of files with a detector's answers, piece by piece.

    Args:
        ref: the run, or an exported folder.
        files: what is scored.
        top: how many of the worst rows are kept.
    """

    def __init__(self, ref: str, files: Sequence[str], top: int) -> None:
        from dlkit.evaluation.reasons import Worst

        self.opened = Opened(ref, files, "serving_default")
        self.ask = opened_model(self.opened.path)("serving_default")
        self.rows = self.scored = self.anomalies = 0
        self.worst = Worst(top)

    def pieces(self) -> Iterator[tuple[Any, Mapping[str, Any], list[list[tuple[str, float]]]]]:
        """Give each piece's rows as a table, its answers and its reasons; answers skip `scored`."""
        from dlkit.evaluation.reasons import reasons

        for piece in self.opened.pieces:
            answers = self.ask(piece.inputs)
            why = reasons(answers["feature_scores"], self.opened.about)
            begin = self.rows + piece.scored
            self.worst.add(begin, answers, why, piece)
            self.rows += len(piece.frame)
            self.scored += len(why)
            self.anomalies += int(answers["is_anomaly"].sum())
            yield piece, answers, why

    def frames(self, as_json: bool) -> Iterator[Any]:
        """Give each piece's rows with the columns of `ANSWERS`; empty where there is no answer."""
        import pandas as pd

        from dlkit.data.pieces import columns_of, numbers

        for piece, answers, why in self.pieces():
            frame = piece.frame
            if as_json and self.opened.kind != "images":
                frame = numbers(frame, columns_of(self.opened.about))
            prefix = ""
            while any(prefix + name in frame for name in ANSWERS):
                prefix += "anomaly_"
            index = frame.index[piece.scored :]
            found = {name: pd.Series(answers[name], index) for name in ANSWERS[:3]}
            told: list[Any] = (
                [[{"column": name, "share": round(share, 4)} for name, share in row] for row in why]
                if as_json
                else ["; ".join(f"{name} {share:.2f}" for name, share in row) for row in why]
            )
            found["reasons"] = pd.Series(told, index, dtype=object)
            yield frame.assign(**{prefix + name: each for name, each in found.items()})


@click.command("predict")
@click.argument("run")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--output", metavar="NAME", help="Write all rows to a .csv or .jsonl.")
@click.option("--plot", metavar="NAME", help="Draw the worst rows' reasons into a .png.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Rows shown.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(
    run: str, files: tuple[str, ...], output: str | None, plot: str | None, top: int, as_json: bool
) -> None:
    """Score the rows of FILEs with RUN's exported model: how strange, how rare, and why.

    The same rows come out, in order, with `score`, `p_value` (the share of held-out normal rows with
    that score or more), `is_anomaly` and `reasons`: the three columns that the score is most due to,
    each with its share. A row of a series, whose stamps must rise, is scored by the window that ends
    in it. Without --output or --json the rows with the highest scores are shown.
    """
    check_name(output, "--output", (".csv", ".jsonl"))
    check_name(plot, "--plot", (".png",))
    from dlkit.progress import say

    predicted = Predicted(run, files, top)
    if output is not None:
        rows_written(output, predicted.frames(output.endswith(".jsonl")))
    elif as_json:
        for frame in predicted.frames(True):
            click.echo("".join(json_lines(frame)), nl=False)
    else:
        for _ in predicted.pieces():
            pass
    for note in predicted.opened.notes:
        say(f"note: {note}")
    if plot is not None:
        from dlkit.evaluation import reason_plots

        kept, about = predicted.worst.kept, predicted.opened.about
        drawn(plot, lambda path: reason_plots.worst(kept, about, path))
    what = "image" if predicted.opened.kind == "images" else "row"
    about = predicted.opened.about
    alarms = counted(predicted.anomalies, "anomaly", "anomalies")
    summary = (
        f"{counted(predicted.rows, what)}, {alarms} among them: score above {about['threshold']:.4g}, "
        f"false-positive rate {about['false_positive_rate']:g} asked for"
    )
    if output is not None and as_json:
        figures = {"rows": predicted.rows, "anomalies": predicted.anomalies, "output": output}
        click.echo(json.dumps(figures))
    elif output is not None:
        click.echo(f"{summary}\nwritten to {output}")
    elif not as_json:
        from dlkit.evaluation.reasons import table

        click.echo(f"{table(predicted.worst.kept)}\n{summary}")
    if plot is not None and not as_json:
        click.echo(f"drawn in {plot}")
