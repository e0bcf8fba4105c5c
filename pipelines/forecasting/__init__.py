"""Forecasting, from a table of series to a served model.

Read `config.py`, then `train.py`, the recipe, from top to bottom; each other command has a file of
its own.
"""

import click

from pipelines.commands import Commands, add_train
from pipelines.exporting import add_export
from pipelines.forecasting.backtest import command as backtest
from pipelines.forecasting.compare import compare_command
from pipelines.forecasting.config import TASK, Config
from pipelines.forecasting.evaluate import command as evaluate
from pipelines.forecasting.explain import command as explain
from pipelines.forecasting.inspect import command as inspect
from pipelines.forecasting.predict import command as predict
from pipelines.forecasting.result import show
from pipelines.forecasting.samples import samples
from pipelines.forecasting.train import train


@click.group(cls=Commands, name=TASK)
def commands() -> None:
    """Forecast series: .csv, .parquet and .jsonl tables, panels, tensorflow-datasets."""


add_train(commands, Config, train, show)
add_export(commands, TASK, samples)
commands.add_command(evaluate)
commands.add_command(backtest)
commands.add_command(compare_command)
commands.add_command(inspect)
commands.add_command(predict)
commands.add_command(explain)
