"""The `genre train` command: names and where each lives; TensorFlow, scikit-learn and the rest load when chosen.

Not the work itself. To add a subcommand, add a line to SUBCOMMANDS.
"""

from __future__ import annotations

import importlib

import click

from services.errors import GenreError

SUBCOMMANDS = {
    "reproduce": ("training.vgg16.reproduce:reproduce", "the paper's VGG16 on a GTZAN folder, under two protocols"),
    "networks": ("training.hearing.networks:networks", "musicnn, from its wheel, beside a student's sounds, in ONNX"),
    "listen": ("training.hearing.listen:listen", "what both networks say of labelled audio"),
    "tags": ("training.hearing.tags:tags", "musicnn's tags of labelled audio, to pass on where the audio can't be"),
    "fit": ("training.hearing.fit:fit", "fit the heads for genres and kinds, judged by artist and by package"),
    "evaluate": ("training.evaluate:evaluate", "accuracy, confusion and calibration of models, from audio or taggrams"),
    "export": ("training.export:export", "write models/<name>/: ONNX, card, Triton configuration"),
    "install": ("training.install:install", "check an ONNX model from elsewhere and write models/<name>/"),
    "distil": ("training.distil.command:distil", "teach a small network what musicnn and mn04 answer"),
    "export-vgg16": ("training.vgg16.export:export_vgg16", "write models/vgg16/ from a reproduced VGG16, int8"),
    "cost": ("training.cost:cost", "CPU-ms a window and memory of each form of a model, on this machine"),
    "figures": ("training.figures:figures", "the paper's figures from a finished run"),
}


class Lazy(click.Group):
    """A group that imports a subcommand's module only when that subcommand is run or asked for its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the work."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module, attribute = SUBCOMMANDS[cmd_name][0].split(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] in ("training", "services"):
                raise
            raise GenreError(
                f"train {cmd_name}",
                f"needs the Python package {error.name}",
                "run 'make test' once, or install genre-edge[training]",
            ) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands from the table, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in SUBCOMMANDS.items()])


@click.group(cls=Lazy)
def train() -> None:
    """Make the models, measure them, write them down.

    \b
    Example: genre train evaluate --model genre-sounds --audio clips --index clips/index.csv
    """
