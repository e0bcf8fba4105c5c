"""Anomaly detection, from a table, series or images to a served model.

Read `config.py`, then `train.py`, the recipe, from top to bottom; each other command has a file of
its own.
"""

import click

from pipelines.anomaly_detection.config import TASK, Config
from pipelines.anomaly_detection.encode import command as encode
from pipelines.anomaly_detection.evaluate import command as evaluate
from pipelines.anomaly_detection.predict import command as predict
from pipelines.anomaly_detection.reconstruct import command as reconstruct
from pipelines.anomaly_detection.result import show
from pipelines.anomaly_detection.samples import samples
from pipelines.anomaly_detection.train import train
from pipelines.commands import Commands, add_train
from pipelines.exporting import add_export


@click.group(cls=Commands, name=TASK)
def commands() -> None:
    """Find what is not normal: in tables, series and images, with reasons."""


add_train(commands, Config, train, show)
add_export(commands, TASK, samples)
commands.add_command(evaluate)
commands.add_command(predict)
commands.add_command(encode)
commands.add_command(reconstruct)
