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
from services.number import Number

F = TypeVar("F", bound=Callable[..., Any])
_MEASURED, _EARLIER = "benchmarks.measured", "benchmarks.earlier"


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


def _given(out: Path, music: Path | None, models_dir: Path, *models: str) -> None:
    """Refuse at once what would else be met after minutes of packaging and measuring.

    Raises:
        GenreError: for a place that can't be written, music that is no folder, and a model that is not there.
    """
    from benchmarks.bench_models import OWN
    from services.inference.card import load_card, model_names
    from training.given import takes_folder

    if music is not None and not music.is_dir():
        raise GenreError(str(music), "is no folder", "give --music a folder of music files")
    there = model_names(models_dir)
    if not there:
        raise GenreError(str(models_dir), "holds no model", "give --models-dir the folder of models")
    for model in models:
        if model in there or model not in OWN:  # what is not shipped of these is made
            load_card(models_dir, model)
    takes_folder("--out", out)


@click.group(invoke_without_command=True)
@click.option(
    "--compare",
    "earlier",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="RESULTS",
    help="Print an earlier run (a results folder or file) beside this one; exit 1 where something became "
    "slower by more than its spread. Without a command: beside 'results', or, given twice, those two.",
)
@click.pass_context
def bench(ctx: click.Context, earlier: tuple[Path, ...]) -> None:  # fmt: skip
    """Measure what the pipeline costs.

    \b
    Example: genre bench pipeline --model genre-sounds --repeats 5
    Example: genre bench --compare results-before pipeline --model genre-sounds --out results-after
    Example: genre bench --compare results-before --compare results-after
    """
    alone = ctx.invoked_subcommand is None
    if alone and not earlier:
        click.echo(ctx.get_help())
        return
    if len(earlier) > (2 if alone else 1):
        raise click.UsageError("--compare takes one earlier run, or two runs and no command.")
    _check()
    ctx.meta[_MEASURED] = []
    from benchmarks.compare import runs

    # Before anything is measured: that takes long, and may write to the same folder.
    ctx.meta[_EARLIER] = runs(earlier[0]) if earlier else None


@bench.result_callback()
@click.pass_context
def compare(ctx: click.Context, _: object, earlier: tuple[Path, ...]) -> None:
    """Print the runs side by side."""
    if not earlier:
        return
    from benchmarks.compare import compared, runs

    later = ctx.meta[_MEASURED] or [Path("results") if len(earlier) == 1 else earlier[1]]
    text, slower = compared(ctx.meta[_EARLIER], {name: run for place in later for name, run in runs(place).items()})
    click.echo(text)
    ctx.exit(1 if slower else 0)


def finished(folder: Path) -> None:
    """Say where a benchmark's results are, and keep the folder for `--compare`."""
    click.echo(f"results are in {folder}")
    click.get_current_context().meta[_MEASURED].append(folder)


@bench.command()
@click.option("--model", "models", multiple=True, help="Folder under the models folder (repeatable).  [default: all]")
@click.option("--backend", "backends", type=click.Choice(["onnx", "triton"]), multiple=True, help="[default: both]")
@click.option("--scale", type=Number(0.01, 5), default=1.0, help="Hear this much of the usual length.")
@click.option("--live-s", type=Number(0, 3600), default=60.0, show_default=True,
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
    _given(out, music, models_dir, *chosen)
    folder = benchmark.run(
        out.absolute(), models_dir, music, chosen, list(backends) or ["onnx", "triton"], repeats, scale, live_s, _say
    )
    finished(folder)


def _shipped(models_dir: Path) -> list[str]:
    from services.inference.card import model_names

    return [name for name in model_names(models_dir) if name != "vgg16"]


@bench.command("http")
@click.option("--seconds", type=Number(6, 600), default=180.0, show_default=True, help="Length of the stream.")
@_shared
def http_(seconds: float, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """One connection against one a request, plain and TLS, near and far; cheapest rendition against the first.

    \b
    Example: genre bench http --repeats 5
    """
    from benchmarks import connections

    _given(out, music, models_dir)
    finished(connections.run(out.absolute(), music, repeats, seconds, _say))


@bench.command()
@click.option("--only", default="", help="Only stages whose name holds this text.")
@click.option("--triton/--no-triton", default=True, help="Also ask a Triton server.")
@_shared
def stages(only: str, triton: bool, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """Decode, resample, mel, and each model in each precision and engine.

    \b
    Example: genre bench stages --only onnx
    """
    from benchmarks import stage_probes
    from benchmarks import stages as benchmark
    from benchmarks.bench_models import OWN
    from services.inference.card import MODEL_FILE, model_names

    _given(out, music, models_dir)
    known = [*stage_probes.names(models_dir), *(f"onnx {name} {MODEL_FILE}" for name in OWN)]
    known += [f"triton {name}" for name in (*model_names(models_dir), *OWN) if triton]
    if not any(only in name for name in known):
        remedy = f"take a part of one of {', '.join(dict.fromkeys(known))}"
        raise GenreError("--only", f"{only!r} is in no stage's name", remedy)
    folder = benchmark.run(out.absolute(), models_dir, music, repeats, only, triton, _say)
    finished(folder)


@bench.command()
@click.option("--model", default="genre-sounds", show_default=True, help="Folder under the models folder.")
@click.option("--scale", type=Number(0.01, 5), default=1.0, help="Hear this much of the usual length.")
@_shared
def half(model: str, scale: float, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """Tensors as float16 on the bus: what it saves, what it does to the answers.

    \b
    Example: genre bench half --model genre-sounds
    """
    from benchmarks import float16_bus

    _given(out, music, models_dir, model)
    folder = float16_bus.run(out.absolute(), models_dir, music, model, repeats, scale, _say)
    finished(folder)


@bench.command("all")
@click.option("--scale", type=Number(0.1, 5), default=1.0, show_default=True,
              help="Hear this much of the usual length everywhere.")  # fmt: skip
@_shared
@click.pass_context
def all_(ctx: click.Context, scale: float, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """Everything below, one after the other; at its usual length it takes hours.

    \b
    Example: genre bench all --scale 0.25 --repeats 2
    """
    shared = {"out": out, "music": music, "models_dir": models_dir, "repeats": repeats}
    ctx.invoke(pipeline, models=(), backends=(), scale=scale, live_s=max(24.0, 60.0 * scale), **shared)
    ctx.invoke(http_, seconds=max(24.0, 180.0 * scale), **shared)
    ctx.invoke(stages, only="", triton=True, **shared)
    ctx.invoke(half, scale=scale, **shared)
    ctx.invoke(replicas, **shared)
    ctx.invoke(streams, counts=(), seconds=max(18.0, 30.0 * scale), **shared)
    if os.geteuid() == 0:
        ctx.invoke(hosts, **shared)
    else:
        click.echo("genre bench scale hosts: left out, network namespaces need root", err=True)


@bench.group()
def scale() -> None:
    """Replicas of each service, streams, hosts.

    \b
    Example: genre bench scale streams --model genre-sounds --count 1 --count 10 --count 200
    """


@scale.command()
@click.option("--model", default="genre-sounds", show_default=True, help="Folder under the models folder.")
@click.option("--most", type=click.IntRange(1, 64), default=2, show_default=True, help="Most replicas.")
@click.option("--seconds", type=Number(1, 600), default=8.0, show_default=True, help="Length of each run.")
@_shared
def replicas(
    model: str, most: int, seconds: float, out: Path, music: Path | None, models_dir: Path, repeats: int
) -> None:
    """Each service alone, from one replica to several, while the others stay fixed.

    \b
    Example: genre bench scale replicas --most 4
    """
    from benchmarks import replicas as benchmark

    _given(out, music, models_dir, model)
    folder = benchmark.replicas(out.absolute(), models_dir, music, model, most, repeats, seconds, _say)
    finished(folder)


@scale.command()
@click.option("--model", default="genre-sounds", show_default=True, help="Folder under the models folder.")
@click.option("--backend", type=click.Choice(["onnx", "triton"]), default="onnx", show_default=True)
@click.option("--count", "counts", type=click.IntRange(1, 2000), multiple=True, help="Streams at once (repeatable).")
@click.option("--hop", type=click.IntRange(1_000, 66_000), default=33_000, show_default=True, help="Samples.")
@click.option("--seconds", type=Number(6, 600), default=30.0, show_default=True, help="Length of each run.")
@_shared
def streams(
    model: str, backend: str, counts: tuple[int, ...], hop: int, seconds: float,
    out: Path, music: Path | None, models_dir: Path, repeats: int,
) -> None:  # fmt: skip
    """Live streams at their own pace, from one to hundreds: CPU of each, latency, memory, what keeps up.

    \b
    Example: genre bench scale streams --model genre-sounds --count 10 --count 200
    """
    from benchmarks import live_streams as benchmark

    _given(out, music, models_dir, model)
    chosen = list(counts) or [1, 10, 50]
    folder = benchmark.streams(out.absolute(), models_dir, music, model, backend, chosen, hop, seconds, _say)
    finished(folder)


@scale.command()
@click.option("--model", default="genre-sounds", show_default=True, help="Folder under the models folder.")
@_shared
def hosts(model: str, out: Path, music: Path | None, models_dir: Path, repeats: int) -> None:
    """All services on one host, and each on a host of its own (network namespaces; needs root).

    \b
    Example: sudo genre bench scale hosts
    """
    from benchmarks import hosts as benchmark

    _given(out, music, models_dir, model)
    finished(benchmark.hosts(out.absolute(), models_dir, music, model, repeats, _say))


@bench.command("fleet")
@click.option("--boxes", type=click.IntRange(1, 20_000), default=1_000, show_default=True, help="How many.")
@click.option("--processes", type=click.IntRange(1, 64), default=3, show_default=True, help="In which they live.")
@click.option("--seconds", type=Number(5, 3600), default=60.0, show_default=True, help="Of steady life.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Results.")
def fleet_(boxes: int, processes: int, seconds: float, out: Path) -> None:
    """Many boxes on one upstream broker: rates, CPU, memory, latency, and a restart of the broker.

    \b
    Example: genre bench fleet --boxes 1000
    """
    from benchmarks import fleet

    finished(fleet.run(out.absolute(), boxes, processes, seconds, _say))
