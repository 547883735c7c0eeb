"""`genre bench`: the benchmarks as commands. Each writes JSON, tables and pictures, and prints the tables.

The measuring is in the module of each benchmark's name. Start at `bench`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from services.errors import GenreError

F = TypeVar("F", bound=Callable[..., Any])


def _shared(command: F) -> F:
    """Add the options that every benchmark has."""
    for option in (
        click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True,
                     help="Folder of results; also keeps the music and models that are made once."),
        click.option("--music", type=click.Path(path_type=Path), help="Folder of music.  [default: the demo's]"),
        click.option("--models-dir", type=click.Path(path_type=Path), default=Path("models"), show_default=True,
                     help="Folder of models."),
        click.option("--repeats", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each case."),
    ):  # fmt: skip
        command = option(command)
    return command


def _say(line: str) -> None:
    """Print tables to stdout, progress to a terminal's stderr."""
    if "\n" in line:
        click.echo(line + "\n")
    else:
        click.echo(line, err=True)


def _check() -> None:
    """Refuse to begin without what benchmarks need besides the services."""
    try:
        import matplotlib  # noqa: F401
        import psutil  # noqa: F401
    except ImportError as error:
        raise GenreError("genre bench", f"needs {error.name}", "run 'make bench', which installs it") from error
    if not sys.platform.startswith("linux"):
        raise GenreError("genre bench", "reads /proc and so needs Linux", "run it on the edge box itself")


@click.group()
def bench() -> None:
    """Measure what the pipeline costs.

    \b
    Example: genre bench pipeline --model fast --repeats 5
    """
    _check()


@bench.command()
@click.option("--model", "models", multiple=True, help="Folder under the models folder (repeatable).  [default: all]")
@click.option("--backend", "backends", type=click.Choice(["onnx", "triton"]), multiple=True, help="[default: both]")
@click.option("--scale", type=click.FloatRange(0.01, 5), default=1.0, help="Hear this much of the usual length.")
@click.option("--live-s", type=click.FloatRange(0, 3600), default=60.0, show_default=True,
              help="Length of each latency run; 0 leaves them out.")  # fmt: skip
@_shared
def pipeline(
    models: tuple[str, ...], backends: tuple[str, ...], scale: float, live_s: float,
    out: Path, music: Path | None, models_dir: Path, repeats: int,
) -> None:  # fmt: skip
    """Script of today, one process, services: CPU, latency, memory, bytes.

    \b
    Example: genre bench pipeline --model vgg16 --backend onnx
    """
    from benchmarks import pipeline as benchmark

    chosen = list(models) or [*benchmark.VGG16, *_shipped(models_dir)]
    folder = benchmark.run(
        out.resolve(), models_dir, music, chosen, list(backends) or ["onnx", "triton"], repeats, scale, live_s, _say
    )
    click.echo(f"results are in {folder}")


def _shipped(models_dir: Path) -> list[str]:
    from services.inference.card import model_names

    return [name for name in model_names(models_dir) if name != "vgg16"]
