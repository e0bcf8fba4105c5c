"""Image synthesis, from a source of pictures to a served generator.

Read `config.py`, then `train.py`, the recipe, from top to bottom (`train_translator.py` for two
domains); each other command has a file of its own.
"""

import click

from pipelines.commands import Commands, add_evaluate, add_train
from pipelines.exporting import add_export
from pipelines.image_synthesis.config import TASK, Config
from pipelines.image_synthesis.evaluate import evaluate
from pipelines.image_synthesis.generate import command as generate
from pipelines.image_synthesis.interpolate import command as interpolate
from pipelines.image_synthesis.reconstruct import command as reconstruct
from pipelines.image_synthesis.result import show
from pipelines.image_synthesis.samples import samples
from pipelines.image_synthesis.train import train
from pipelines.image_synthesis.translate import command as translate


@click.group(cls=Commands, name=TASK)
def commands() -> None:
    """Make pictures like those of a source: GANs, autoencoders, diffusion; translate pictures."""


add_train(commands, Config, train, show)
add_export(commands, TASK, samples)
add_evaluate(commands, evaluate, show)
commands.add_command(generate)
commands.add_command(interpolate)
commands.add_command(reconstruct)
commands.add_command(translate)
