"""Image classification, from a source of images to a served model.

Read `config.py`, then `train.py`, the recipe, from top to bottom; each other command has a file of
its own.
"""

import click

from pipelines.commands import Commands, add_evaluate, add_predict, add_train
from pipelines.exporting import add_export
from pipelines.image_classification.compare import compare_command
from pipelines.image_classification.config import TASK, Config
from pipelines.image_classification.evaluate import evaluate
from pipelines.image_classification.explain import explain_command
from pipelines.image_classification.find_rate import command as find_rate
from pipelines.image_classification.inspect import command as inspect
from pipelines.image_classification.predict import predict
from pipelines.image_classification.result import show
from pipelines.image_classification.samples import samples
from pipelines.image_classification.train import train


@click.group(cls=Commands, name=TASK)
def commands() -> None:
    """Classify images: digits, tensorflow-datasets, folders of class folders, .npz arrays."""


add_train(commands, Config, train, show)
add_export(commands, TASK, samples)
add_evaluate(commands, evaluate, show)
commands.add_command(compare_command)
add_predict(commands, predict, "FILE_OR_FOLDER", ("file", "label", "probability"))
commands.add_command(inspect)
commands.add_command(find_rate)
commands.add_command(explain_command)
