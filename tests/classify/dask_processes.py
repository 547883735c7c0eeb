"""Real Dask schedulers and workers for tests, as processes of their own on loopback, ended with the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.broker.mosquitto import wait_for

QUIET = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0", "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "60s"}
"""A task whose worker died once is given up by Dask, so that the rules for it are seen soon."""


@contextmanager
def process(
    argv: Sequence[str | Path], log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a process group of its own; the whole group is gone afterwards."""
    with log.open("w") as out:
        running = subprocess.Popen(
            list(map(str, argv)), stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            env={**os.environ, **QUIET, **(env or {})}, start_new_session=True,
        )  # fmt: skip
    try:
        yield running
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(running.pid, how)
            except ProcessLookupError:
                break
            try:
                running.wait(5)
            except subprocess.TimeoutExpired:
                continue
        running.wait()


@contextmanager
def scheduler(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a scheduler; yields its address."""
    about = folder / "scheduler.json"
    about.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--no-dashboard"]
    if "--port" not in options:
        argv += ["--port", "0"]
    with process([*argv, "--scheduler-file", str(about), *options], folder / "scheduler.log") as running:
        wait_for(lambda: about.exists() and about.read_text().endswith("}"), "the scheduler's address", 200)
        yield json.loads(about.read_text())["address"], running


@contextmanager
def worker(
    address: str, folder: Path, name: str, *options: str, before: Sequence[str] = (), env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a worker of one thread; whoever needs it waits for it. With "--nanny" it is started again when it dies."""
    argv = [*before, sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", name, "--nthreads", "1"]
    argv += [] if "--nanny" in options else ["--no-nanny"]
    argv += ["--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(folder / name)]
    with process([*argv, *options], folder / f"{name}.log", env) as running:
        yield running
