"""`genre classify FILE...`: the command around the pipeline: which files, in how many processes, printed how.

Start at `classify`. Not here: how a file is classified (`pipeline.py`) and how that looks (`report.py`).
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, process
from contextlib import ExitStack
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import click

from services.classify.files import found_files
from services.classify.pipeline import Classified, Pipeline
from services.classify.report import as_csv, as_json, as_row, csv_header, svg
from services.errors import GenreError, UsageError
from services.number import Number
from services.process import logs
from services.settings import loading, schema
from services.text import clean

_pipeline: Pipeline | None = None
"""One a worker process: a model is loaded once, not once a file."""


def _begin(models_dir: Path, model: str) -> None:
    global _pipeline
    os.environ["OMP_NUM_THREADS"] = "1"
    _pipeline = Pipeline(models_dir, model)


def _one(path: Path) -> Classified:
    """Classify one file in a worker; a file that can't be classified is an answer, too."""
    assert _pipeline is not None
    try:
        return _pipeline.classify(path)
    except GenreError as error:
        return Classified(str(path), problem=error.reason)
    except Exception as error:  # a defect met by one file must not cost the others
        return Classified(str(path), problem=clean(f"{type(error).__name__}: {error}", 300))


def classified(files: Iterable[Path], models_dir: Path, model: str, jobs: int) -> Iterator[Classified]:
    """Classify files in their order, in several processes where jobs > 1; a few files ahead, never all at once."""
    if jobs == 1:
        _begin(models_dir, model)
        yield from map(_one, files)
        return
    # "spawn": a forked child would inherit the threads' locks of numpy and ONNX Runtime.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (models_dir, model)) as workers:
        waiting: list[tuple[Path, Future[Classified]]] = []
        rest = iter(files)
        while True:
            waiting += [(path, workers.submit(_one, path)) for path in islice(rest, 4 * jobs - len(waiting))]
            if not waiting:
                return
            path, future = waiting.pop(0)
            try:
                yield future.result()
            except process.BrokenProcessPool as error:
                raise GenreError(str(path), "a worker process died on this file or one near it",
                                 "try again with --jobs 1 to see which") from error  # fmt: skip


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", help="Folder under models/ that answers.  [default: from the configuration]")
@click.option("--models", type=click.Path(path_type=Path), help="Folder of models.  [default: from the configuration]")
@click.option("--json", "as_what", flag_value="json", help="One JSON object a file and line.")
@click.option("--csv", "as_what", flag_value="csv", help="CSV with a header.")
@click.option("--windows", is_flag=True, help="With --json: each window, too.")
@click.option(
    "--pictures", type=click.Path(path_type=Path, file_okay=False), help="Write a timeline a file (SVG) there."
)
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes.  [default: one a core, no more than files]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A whole library: results go to this folder as Parquet, and a second run goes on where the first ended. "
    "FILES are then folders, audio files, text files with a path a line, or - for such a list on standard input.",
)
@click.option("--cluster", metavar="ADDRESS", help="With --out: Dask scheduler whose workers do it, tcp://HOST:8786.")
@click.option("--workers", type=click.IntRange(1, 1024), help="With --out: processes here.  [default: one a core]")
@click.option("--batch", type=click.IntRange(1, 10_000), help="With --out: files in a task.  [default: 16]")
@click.option("--retry-failed", is_flag=True, help="With --out: also try again what has an error there.")
@click.option("--wait", type=Number(1, 86_400), help="With --cluster: wait so long, s.  [default: 60]")
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
def classify(
    files: tuple[Path, ...],
    model: str | None,
    models: Path | None,
    as_what: str | None,
    windows: bool,
    pictures: Path | None,
    jobs: int | None,
    out: Path | None,
    cluster: str | None,
    workers: int | None,
    batch: int | None,
    retry_failed: bool,
    wait: float | None,
    config: Path | None,
) -> None:
    """Name the genre of audio files and of all audio in folders.

    \b
    Example: genre classify ~/Music --csv > genres.csv
    A library on this machine's cores:
      genre classify --out results.parquet /music
    On many machines that all have /music (docs/catalogue.md):
      dask scheduler
      dask worker tcp://HOST:8786 --nthreads 1 --nworkers 4
      genre classify --cluster tcp://HOST:8786 --out results.parquet /music
    """
    loaded = loading.load(config)
    if models is not None:
        chosen = loaded.inference.model_copy(update={"models_dir": models.absolute()})
        loaded = loaded.model_copy(update={"inference": chosen})
    logs.set_up(schema.Log(level="error"), "genre classify")
    if out is not None:
        if as_what == "csv" or windows or pictures is not None or jobs is not None:
            raise UsageError("--out", "does not go with --csv, --windows, --pictures and --jobs", "leave those away")
        if cluster is not None and workers is not None:
            raise UsageError("--workers", "is for this machine; a cluster has its own", "leave one of them away")
        library(files, loaded, model, out, cluster, workers, batch or 16, retry_failed, wait or 60.0, as_what == "json")
        return
    given = {"cluster": cluster, "workers": workers, "batch": batch, "retry-failed": retry_failed, "wait": wait}
    for option, value in given.items():
        if value:
            raise UsageError(f"--{option}", "goes with --out only", "add --out FOLDER")
    if not files:
        raise UsageError("genre classify", "which files?", "give audio files or folders")
    if windows and as_what != "json":
        raise UsageError("--windows", "goes with --json only", "add --json")
    every = list(found_files(files))
    if not every:
        raise GenreError(
            ", ".join(map(str, files)), "no audio file is in there", "give audio files or folders with some"
        )
    if pictures is not None:
        try:
            pictures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GenreError(str(pictures), f"can't be made ({error.strerror})", "name another folder") from error
    name = loaded.inference.model if model is None else model
    models_dir = loaded.inference.model_copy(update={"model": name}).models_path
    from services.inference.card import load_card

    card = load_card(models_dir, name)
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(every))
    bad = 0
    width = min(48, max(len(str(path)) for path in every))
    if as_what == "csv":
        click.echo(csv_header(card))
    with ExitStack() as stack:
        found: Iterable[Classified] = classified(every, models_dir, name, jobs)
        if sys.stderr.isatty() and not sys.stdout.isatty():
            bar = click.progressbar(found, length=len(every), label="classifying", file=sys.stderr)
            found = stack.enter_context(bar)
        for one in found:
            bad += one.verdict is None
            if as_what == "json":
                click.echo(as_json(one, card, windows))
            elif as_what == "csv":
                # click takes the escapes of a name away where no terminal is, and leaves them where one is.
                click.echo(as_csv(one, card, sys.stdout.isatty()), color=True)
            else:
                click.echo(as_row(one, width))
            if pictures is not None and one.verdict is not None:
                _picture(pictures, one)
    if bad:
        raise GenreError(f"{bad} of {len(every)} files", "could not be classified", "the lines above say why")


def library(
    sources: tuple[Path, ...],
    loaded: schema.Settings,
    model: str | None,
    out: Path,
    cluster: str | None,
    workers: int | None,
    batch: int,
    retry_failed: bool,
    wait_s: float,
    as_json: bool,
) -> None:
    """Classify a library into a folder of Parquet and say what it came to."""
    if not sources:
        raise UsageError(
            "genre classify --out", "which files?", "give folders, lists of paths, or - for standard input"
        )
    try:
        from services.classify.catalogue import run
        from services.classify.catalogue.work import own_models_dir
    except ImportError as error:
        raise GenreError(
            "genre classify --out", f"needs {error.name}", "run 'make catalogue' or install genre-edge[catalogue]"
        ) from error
    name = loaded.inference.model if model is None else model
    order = run.order_for(own_models_dir(loaded, name), name)
    summary = run.classify_all(
        [str(source) for source in sources], out, order,
        cluster=cluster, workers=workers, batch=batch, retry_failed=retry_failed, wait_s=wait_s,
    )  # fmt: skip
    click.echo(run.finished(summary, out, as_json))


def _picture(folder: Path, one: Classified) -> None:
    """Write a file's timeline; files of one name in different folders get pictures of their own."""
    mark = hashlib.sha256(one.file.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    path = folder / f"{clean(Path(one.file).stem, 80) or 'file'}.{mark}.svg"
    try:
        path.write_text(svg(one), encoding="utf-8", errors="replace")
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error.strerror})", "name another folder") from error
