"""`genre bench`: the benchmarks as commands. Each writes JSON, tables and pictures, and prints the tables.

The measuring is in the module of each benchmark's name. Start at `bench`.
"""

from __future__ import annotations

import os
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
    Example: genre bench pipeline --model musicnn-small --repeats 5
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


@bench.command("http")
@click.option(
    "--seconds", type=click.FloatRange(6, 600), default=180.0, show_default=True, help="Length of the stream."
)
@_shared
def http_(seconds: float, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """One connection against one a request, plain and TLS, near and far; cheapest rendition against the first.

    \b
    Example: genre bench http --repeats 5
    """
    from benchmarks import connections

    click.echo(f"results are in {connections.run(out.resolve(), music, repeats, seconds, _say)}")


@bench.command()
@click.option("--only", default="", help="Only stages whose name holds this text.")
@click.option("--triton/--no-triton", default=True, help="Also ask a Triton server.")
@_shared
def stages(only: str, triton: bool, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """Decode, resample, mel, and each model in each precision and engine.

    \b
    Example: genre bench stages --only onnx
    """
    from benchmarks import stages as benchmark

    folder = benchmark.run(out.resolve(), models_dir, music, repeats, only, triton, _say)
    click.echo(f"results are in {folder}")


@bench.command()
@click.option("--model", default="musicnn", show_default=True, help="Folder under the models folder.")
@click.option("--scale", type=click.FloatRange(0.01, 5), default=1.0, help="Hear this much of the usual length.")
@_shared
def half(model: str, scale: float, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """Tensors as float16 on the bus: what it saves, what it does to the answers.

    \b
    Example: genre bench half --model musicnn-small
    """
    from benchmarks import half_tensors

    folder = half_tensors.run(out.resolve(), models_dir, music, model, repeats, scale, _say)
    click.echo(f"results are in {folder}")


@bench.command("all")
@_shared
@click.pass_context
def all_(ctx: click.Context, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """Everything below, one after the other, with its defaults; it takes long.

    \b
    Example: genre bench all --out results
    """
    shared = {"out": out, "music": music, "models_dir": models_dir, "repeats": repeats}
    for command in (pipeline, http_, stages, half, replicas, streams):
        ctx.invoke(command, **shared)
    if os.geteuid() == 0:
        ctx.invoke(hosts, **shared)
    else:
        click.echo("genre bench scale hosts: left out, network namespaces need root", err=True)


@bench.group()
def scale() -> None:
    """Replicas of each service, streams, hosts.

    \b
    Example: genre bench scale streams --model musicnn-small --count 1 --count 10 --count 200
    """


@scale.command()
@click.option("--model", default="musicnn", show_default=True, help="Folder under the models folder.")
@click.option("--most", type=click.IntRange(1, 64), default=2, show_default=True, help="Most replicas.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=8.0, show_default=True, help="Length of each run.")
@_shared
def replicas(
    model: str, most: int, seconds: float, out: Path, music: Path | None, models_dir: Path, repeats: int
) -> None:
    """Each service alone, from one replica to several, while the others stay fixed.

    \b
    Example: genre bench scale replicas --most 4
    """
    from benchmarks import replicas as benchmark

    folder = benchmark.replicas(out.resolve(), models_dir, music, model, most, repeats, seconds, _say)
    click.echo(f"results are in {folder}")


@scale.command()
@click.option("--model", default="musicnn", show_default=True, help="Folder under the models folder.")
@click.option("--backend", type=click.Choice(["onnx", "triton"]), default="onnx", show_default=True)
@click.option("--count", "counts", type=click.IntRange(1, 2000), multiple=True, help="Streams at once (repeatable).")
@click.option("--hop", type=click.IntRange(1_000, 66_000), default=33_000, show_default=True, help="Samples.")
@click.option("--seconds", type=click.FloatRange(6, 600), default=30.0, show_default=True, help="Length of each run.")
@_shared
def streams(
    model: str, backend: str, counts: tuple[int, ...], hop: int, seconds: float,
    out: Path, music: Path | None, models_dir: Path, repeats: int,
) -> None:  # fmt: skip
    """Live streams at their own pace, from one to hundreds: CPU of each, latency, memory, what keeps up.

    \b
    Example: genre bench scale streams --model musicnn-small --count 10 --count 200
    """
    from benchmarks import live_streams as benchmark

    chosen = list(counts) or [1, 10, 50]
    folder = benchmark.streams(out.resolve(), models_dir, music, model, backend, chosen, hop, seconds, _say)
    click.echo(f"results are in {folder}")


@scale.command()
@click.option("--model", default="musicnn", show_default=True, help="Folder under the models folder.")
@_shared
def hosts(model: str, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """All services on one host, and each on a host of its own (network namespaces; needs root).

    \b
    Example: sudo genre bench scale hosts
    """
    from benchmarks import hosts as benchmark

    click.echo(f"results are in {benchmark.hosts(out.resolve(), models_dir, music, model, repeats, _say)}")


@bench.command("fleet")
@click.option("--boxes", type=click.IntRange(1, 20_000), default=1_000, show_default=True, help="How many.")
@click.option("--processes", type=click.IntRange(1, 64), default=3, show_default=True, help="In which they live.")
@click.option("--seconds", type=click.FloatRange(5, 3600), default=60.0, show_default=True, help="Of steady life.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Results.")
def fleet_(boxes: int, processes: int, seconds: float, out: Path) -> None:
    """Many boxes on one upstream broker: rates, CPU, memory, latency, and a restart of the broker.

    \b
    Example: genre bench fleet --boxes 1000
    """
    from benchmarks import fleet

    click.echo(f"results are in {fleet.run(out.resolve(), boxes, processes, seconds, _say)}")
