"""`genre classify --cluster` measured: files a second from one worker to several, and workers that keep being killed.

Each worker lives in a network namespace of its own and may use a fixed share of one core (a CPU quota of its control
group), so that four of them fit on a machine of two cores and all have the same. It needs root. Run it as

    python -m benchmarks.catalogue workers --most 4      files a second, efficiency, memory a worker
    python -m benchmarks.catalogue kills --every-s 10    a worker is killed now and then; every file once
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import psutil
import pyarrow.parquet as pq

from benchmarks.accounting import peak_memory_mib, usage
from benchmarks.material import RECORDINGS
from benchmarks.report import Report
from benchmarks.rigs.network import Network
from services.classify.catalogue.results import SUCCESS, Results
from services.errors import GenreError
from services.number import Number
from services.origin.packager import music_files

PORT = 18_786
PERIOD_US = 100_000
CLIP_S = 30
DASK = [sys.executable, "-m"]


def clips(folder: Path, count: int) -> Path:
    """Make `count` files of 30 s, MP3 of 128 kbit/s, from the demo's recordings; beyond forty they are links.

    A recording shorter than that is played from its beginning again.
    """
    made = folder / "clips"
    made.mkdir(parents=True, exist_ok=True)
    originals = []
    for piece in music_files(RECORDINGS):
        for start in (0, 9, 18, 27):
            path = made / f"{piece.stem}-{start:02}.mp3"
            originals.append(path)
            if not path.exists():
                wanted = ["-stream_loop", "-1", "-ss", start, "-t", CLIP_S, "-i", piece, "-b:a", "128k", path]
                argv = ["ffmpeg", "-y", "-v", "error", *wanted]
                subprocess.run(list(map(str, argv)), check=True, stdin=subprocess.DEVNULL)
    library = folder / f"library-{count}"
    shutil.rmtree(library, ignore_errors=True)
    library.mkdir()
    for index in range(count):
        (library / f"{index:06}.mp3").hardlink_to(originals[index % len(originals)])
    return library


@contextmanager
def share(name: str, of_a_core: float) -> Iterator[list[str]]:
    """Make a control group with a CPU quota; yields what to put before a command that is to live in it.

    It goes before `ip netns exec`, too, which hides the control groups behind a /sys of its own.

    Raises:
        GenreError: not allowed here.
    """
    second = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    group = Path("/sys/fs/cgroup" if second else "/sys/fs/cgroup/cpu") / f"genre-{os.getpid()}-{name}"
    quota = int(of_a_core * PERIOD_US)
    try:
        group.mkdir()
        if second:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
    except OSError as error:
        raise GenreError(
            str(group), f"can't be made ({error.strerror})", "run as root, with the cpu controller"
        ) from error
    try:
        yield ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh"]
    finally:
        deadline = time.monotonic() + 10
        while (group / "cgroup.procs").read_text().strip() and time.monotonic() < deadline:
            time.sleep(0.1)
        group.rmdir()


@contextmanager
def program(argv: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run something until the end of the block, its children too."""
    with log.open("wb") as out:
        running = subprocess.Popen(list(map(str, argv)), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield running
    finally:
        children = psutil.Process(running.pid).children(recursive=True) if running.poll() is None else []
        running.terminate()
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        for child in psutil.wait_procs(children, timeout=5)[1]:
            child.kill()


def worker_process(nanny: subprocess.Popen[bytes]) -> psutil.Process | None:
    """Return the process that works, below the one that watches it."""
    try:
        below = psutil.Process(nanny.pid).children()
        return next((each for each in below if "spawn_main" in " ".join(each.cmdline())), None)
    except psutil.Error:
        return None


class Field:
    """A scheduler on this machine and workers on hosts of their own."""

    def __init__(self, stack: ExitStack, folder: Path, count: int, of_a_core: float) -> None:
        hosts = stack.enter_context(Network([f"w{index}" for index in range(count)]))
        self.address = f"tcp://{hosts.gateway}:{PORT}"
        self.nannies: list[subprocess.Popen[bytes]] = []
        argv: list[str | Path] = ["distributed.cli.dask_scheduler", "--host", "0.0.0.0", "--port", str(PORT)]
        stack.enter_context(program([*DASK, *argv, "--no-dashboard"], folder / "scheduler.log"))
        for index in range(count):
            group = stack.enter_context(share(f"w{index}", of_a_core))
            command = [
                *group, *hosts.prefix(f"w{index}"), *DASK, "distributed.cli.dask_worker", self.address,
                "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder / f"w{index}"),
            ]  # fmt: skip
            self.nannies.append(stack.enter_context(program(command, folder / f"w{index}.log")))
        self._wait(count)

    def _wait(self, count: int) -> None:
        from distributed import Client

        with Client(self.address, timeout=60, set_as_default=False) as dask:
            dask.wait_for_workers(count, timeout=120)

    def command(self, library: Path, out: Path, model: str, batch: int) -> list[str | Path]:
        """Return the command that is measured."""
        return [
            *DASK, "services.cli", "classify", "--cluster", self.address, "--out", out, "--model", model,
            "--batch", str(batch), "--json", library,
        ]  # fmt: skip


def verified(out: Path, library: Path) -> int:
    """Return how many files stand in the results.

    Raises:
        GenreError: one is missing, stands twice, or was not classified.
    """
    table = pq.read_table(out, columns=["file", "error"])
    found, wanted = sorted(table["file"].to_pylist()), sorted(map(str, library.iterdir()))
    if found != wanted or table["error"].null_count != len(wanted) or not (out / SUCCESS).exists():
        raise GenreError(str(out), f"{len(found)} rows, {len(set(found))} files of {len(wanted)}", "report this")
    return len(found)


@click.group()
def catalogue() -> None:
    """Measure `genre classify --cluster`."""


@catalogue.command()
@click.option("--most", type=click.IntRange(1, 16), default=4, show_default=True, help="Most workers.")
@click.option("--share", "of_a_core", type=Number(0.05, 1), default=0.4, show_default=True, help="Of a core.")
@click.option("--files", type=click.IntRange(4, 100_000), default=24, show_default=True, help="Files for each worker.")
@click.option("--model", default="genre-sounds", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
def workers(most: int, of_a_core: float, files: int, model: str, out: Path) -> None:
    """Files a second from one worker to several, each with the same share of a core and as many files."""
    report = Report("catalogue-workers", out, {"share": of_a_core, "files": files, "model": model})
    folder = report.folder.resolve()
    rows, single = [], 0.0
    for count in range(1, most + 1):
        with ExitStack() as stack:
            field = Field(stack, folder, count, of_a_core)
            warm = clips(folder, 2 * count)
            results = folder / "results.parquet"
            shutil.rmtree(results, ignore_errors=True)
            subprocess.run(
                list(map(str, field.command(warm, results, model, 1))), check=True, stdout=subprocess.DEVNULL
            )
            shutil.rmtree(results)
            library = clips(folder, count * files)
            before = sum(usage(nanny.pid).cpu_s for nanny in field.nannies)
            done = subprocess.run(
                list(map(str, field.command(library, results, model, 2))), check=True, capture_output=True
            )
            cpu_s = sum(usage(nanny.pid).cpu_s for nanny in field.nannies) - before
            found = verified(results, library)
            seconds = json.loads(done.stdout)["seconds"]
            working = [each for nanny in field.nannies if (each := worker_process(nanny))]
            memory = max(peak_memory_mib(each.pid) for each in working)
        rate = found / seconds
        single = single or rate
        rows.append((count, found, f"{seconds:.1f}", f"{rate:.2f}", f"{rate / single / count:.0%}",
                     f"{cpu_s / found:.2f}", f"{memory:.0f}"))  # fmt: skip
        click.echo(f"{rows[-1]}", err=True)
        report.values[f"workers_{count}"] = {
            "files": found, "seconds": seconds, "cpu_s_a_file": round(cpu_s / found, 4), "peak_mib": round(memory, 1)
        }  # fmt: skip
    heads = ("workers", "files", "seconds", "files/s", "efficiency", "CPU-s a file", "peak MiB a worker")
    click.echo(report.table(f"{model}, clips of 30 s, {of_a_core:.0%} of a core a worker", heads, rows))
    click.echo(f"results are in {report.save()}")


@catalogue.command()
@click.option("--every-s", type=Number(0.5, 600), default=10.0, show_default=True, help="Between two kills.")
@click.option("--seed", default=1, show_default=True, help="Of which worker is killed.")
@click.option("--workers", "count", type=click.IntRange(1, 16), default=2, show_default=True)
@click.option("--share", "of_a_core", type=Number(0.05, 1), default=0.8, show_default=True, help="Of a core.")
@click.option("--files", type=click.IntRange(4, 100_000), default=120, show_default=True)
@click.option("--batch", type=click.IntRange(1, 100), default=4, show_default=True)
@click.option("--model", default="genre-sounds", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
def kills(
    every_s: float, seed: int, count: int, of_a_core: float, files: int, batch: int, model: str, out: Path
) -> None:
    """Kill a worker now and then, -9; at the end every file stands in the results once."""
    report = Report("catalogue-kills", out, {"every_s": every_s, "seed": seed, "workers": count, "files": files})
    folder, choice = report.folder.resolve(), random.Random(seed)
    library, results = clips(folder, files), folder / "results.parquet"
    shutil.rmtree(results, ignore_errors=True)
    killed = 0
    with ExitStack() as stack:
        field = Field(stack, folder, count, of_a_core)
        began = time.monotonic()
        running = stack.enter_context(program(field.command(library, results, model, batch), folder / "client.log"))
        while running.poll() is None:
            try:
                running.wait(every_s)
            except subprocess.TimeoutExpired:
                victim = worker_process(choice.choice(field.nannies))
                if victim is not None:
                    victim.kill()
                    killed += 1
        seconds = time.monotonic() - began
        if running.returncode:
            raise GenreError("genre classify", (folder / "client.log").read_text()[-500:], "report this")
    found = verified(results, library)
    report.values |= {"kills": killed, "files_found": found, "seconds": round(seconds, 1)}
    rows = [(count, files, killed, f"{seconds:.0f}", f"{found / seconds:.2f}", found)]
    heads = ("workers", "files", "kills", "seconds", "files/s", "files in the results, each once")
    click.echo(report.table(f"{model}, a worker killed every {every_s:g} s, seed {seed}", heads, rows))
    click.echo(f"results are in {report.save()}")


@catalogue.command()
@click.option("--files", type=click.IntRange(1_000, 10_000_000), default=200_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
def resume(files: int, out: Path) -> None:
    """What going on with a large catalogue takes before the first new file: CPU seconds, and memory of the client."""
    from services.classify.catalogue.run import order_for
    from services.classify.catalogue.work import Row, Track

    report = Report("catalogue-resume", out, {"files": files})
    order = order_for(Path("models").resolve(), "genre-sounds")
    folder = report.folder / "results.parquet"
    shutil.rmtree(folder, ignore_errors=True)
    scores = tuple(1 / len(order.labels) for _ in order.labels)
    tracks = [Track(f"/music/artist {i // 100}/album {i // 10}/track {i:08}.mp3", i, i) for i in range(files)]
    with Results(folder, order) as results:
        for first in range(0, files, 8_192):
            some = tracks[first : first + 8_192]
            results.write([Row(track, 30.0, "jazz", 0.5, "music", scores, 19, "Title", "Artist") for track in some])
        results.finish()
    size = sum(path.stat().st_size for path in folder.iterdir())
    before, began = psutil.Process().memory_info().rss, time.process_time()
    with Results(folder, order) as results:
        read_s = time.process_time() - began
        grown = psutil.Process().memory_info().rss - before
        began = time.process_time()
        again = sum(results.take(track) for track in tracks)
        asked_s = time.process_time() - began
    values = {
        "read_cpu_s": round(read_s, 2),
        "asked_cpu_s": round(asked_s, 2),
        "client_mib": round(grown / 2**20, 1),
        "bytes_a_file": round(size / files, 1),
        "parts": len(list(folder.glob("part-*"))),
        "again": again,
    }
    report.values |= values
    click.echo(report.table(f"going on with {files} files", list(values), [list(values.values())]))
    click.echo(f"results are in {report.save()}")


if __name__ == "__main__":
    catalogue()
