"""Text generation, from a text to a served language model.

Read `config.py`, then `train.py`, the recipe, from top to bottom; each other command has a file of
its own.
"""

import click

from pipelines.commands import Commands, add_train
from pipelines.exporting import add_export
from pipelines.text_generation.config import TASK, Config
from pipelines.text_generation.evaluate import command as evaluate
from pipelines.text_generation.generate import command as generate
from pipelines.text_generation.result import show
from pipelines.text_generation.train import train


@click.group(cls=Commands, name=TASK)
def commands() -> None:
    """Train language models on any text, and generate: files, folders, .jsonl, .csv, tfds."""


add_train(commands, Config, train, show)
add_export(commands, TASK)
commands.add_command(evaluate)
commands.add_command(generate)
