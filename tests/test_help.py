"""Help comes at once, and the README speaks only of commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pipelines.cli import COMMANDS, cli, main

ROOT = Path(__file__).resolve().parents[1]
PROBE = """
import sys
from pipelines.cli import main
code = main(sys.argv[1:])
heavy = {"tensorflow", "keras", "mlflow", "numpy", "pandas", "matplotlib", "rich"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


def every_command() -> list[tuple[str, ...]]:
    """The words of every command and group."""

    def walk(command: click.Command, words: tuple[str, ...]) -> list[tuple[str, ...]]:
        found = [words]
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                found += walk(inner, (*words, name))
        return found

    return walk(cli, ())


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("image-classification", "train"),
        ("image-classification", "compare"),
        ("serve",),
        ("runs",),
        ("doctor",),
        ("ui",),
    ],
)
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: dlkit")


@pytest.mark.parametrize(
    "arguments",
    [
        ["image-classification", "train", "--model", "renset"],
        ["image-classification", "train", "-p", "filtres=3"],
        ["image-classification", "train", "--data", "digist"],
        ["image-classification", "train", "--data", "no/such/folder"],
        ["image-classification", "train", "--optimizer", "adma"],
        ["image-classification", "train", "--config", "absent.toml"],
        ["image-classification", "compare", "--models", "mlp,lenet,renset"],
        ["image-classification", "compare", "-p", "filtres=3"],
        ["anomaly-detection", "train", "--model", "autoencodr"],
        ["anomaly-detection", "train", "-p", "encodr=[8]"],
        ["models", "resnett"],
    ],
)
def test_names_are_checked_before_anything_heavy_is_loaded(
    arguments: list[str], tmp_path: Path
) -> None:
    probe = PROBE.replace('"numpy", ', "")
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dlkit: error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert len(out.splitlines()) > 4


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert command.help


def commands_in(text: str) -> list[list[str]]:
    """The dlkit command lines in the fenced blocks of a Markdown file."""
    blocks = re.findall(r"^```(?:console|sh|bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [part for line in lines for part in line.split("#")[0].split("&&")]
    return [part.split() for part in found if part.strip().lstrip("$ ").startswith("dlkit ")]


def test_the_readme_names_commands_and_options_that_exist() -> None:
    lines = commands_in((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(lines) >= 8
    for line in lines:
        command, context = cli, click.Context(cli)
        words = [w for w in line if w != "$"][1:]
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            inner = command.get_command(context, words.pop(0))
            assert inner is not None, line
            command = inner
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        options |= {"--help", "--version"}
        used = {w.split("=")[0] for w in words if w.startswith("-")}
        assert used <= options, (line, used - options)


def test_the_readme_gives_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install -c constraints.txt . && dlkit image-classification train" in text
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in text
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in (ROOT / ".ci/run").read_text()
