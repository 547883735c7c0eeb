"""The engine: a Dask scheduler somewhere, or one on this machine's cores; batches in, what became of them out.

Every wait is bounded. Not here: what to do about a batch that failed (`run.py`). Start at `Cluster`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future, LocalCluster
from distributed.comm import connect
from distributed.core import rpc
from distributed.scheduler import KilledWorker
from distributed.security import Security

from services.classify.catalogue.work import Answer, Order, Track, check, classify_batch, versions
from services.errors import GenreError
from services.process.lifecycle import product_version

ANSWER_S = 30.0
"""A scheduler that takes longer for a small question is not there."""
LOOK_S = 2.0
"""Between two looks at which workers there are."""


class LostError(Exception):
    """The scheduler is gone; what was in hand is in hand no more."""


@dataclass(frozen=True)
class Batch:
    """Some tracks on their way.

    Attributes:
        tries: how often they came back without an answer.
        avoid: workers that could not open them.
        only: the one worker that may take it.
    """

    tracks: tuple[Track, ...]
    tries: int = 0
    avoid: frozenset[str] = frozenset()
    only: str = ""


@dataclass(frozen=True)
class Done:
    """What became of a batch: an answer, or the reason why there is none.

    Attributes:
        killed: the workers that had it died, one after the other.
        lost: nothing is known of it; it is simply to be handed in again.
    """

    batch: Batch
    answer: Answer | None = None
    problem: str = ""
    killed: bool = False
    lost: bool = False


@contextmanager
def local(workers: int) -> Iterator[str]:
    """Run a scheduler and workers on this machine, a process and a thread each; yields the address."""
    quiet()
    with LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
        silence_logs=logging.CRITICAL,
    ) as running:  # fmt: skip
        yield running.scheduler_address


def quiet() -> None:
    """Keep Dask's own words off the terminal: each failure is told once, by us."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"distributed\..*")
    # A Ctrl-C that comes while Dask hands a coroutine to its loop leaves that one behind: nothing to tell a person.
    warnings.filterwarnings("ignore", message=r"coroutine .* was never awaited", category=RuntimeWarning)


class Cluster:
    """A connection to a scheduler, made again where it is lost.

    Args:
        address: of the scheduler, e.g. tcp://10.0.0.5:8786.
        wait_s: longest wait for the scheduler, and for the first worker.
        say: told what a person waiting should know.

    Attributes:
        workers: address -> threads, as of the last look.
    """

    def __init__(self, address: str, order: Order, wait_s: float, say: Callable[[str], None]) -> None:
        self.address = address
        self.workers: dict[str, int] = {}
        self._order, self._wait_s, self._say = order, wait_s, say
        self._client: Client | None = None
        self._in_hand: dict[str, tuple[Batch, Future, list[str]]] = {}
        self._ended: queue.Queue[Future] = queue.Queue()
        self._next_look = self._none_since = 0.0
        quiet()

    @property
    def threads(self) -> int:
        """Batches that can be worked on at once."""
        return sum(self.workers.values())

    @property
    def flying(self) -> int:
        """How many batches are in hand."""
        return len(self._in_hand)

    @property
    def in_hand(self) -> list[Batch]:
        """Batches that were handed in and have not come back, the oldest first."""
        return [batch for batch, _, _ in self._in_hand.values()]

    def open(self) -> None:
        """Connect, wait for a worker, and ask all workers whether they are fit.

        Raises:
            GenreError: no scheduler, no worker, or one that would answer otherwise.
        """
        self.close()
        self._greet()
        try:
            self._client = Client(
                self.address, timeout=self._wait_s, set_as_default=False, name="genre-classify", direct_to_workers=False
            )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise self._unreachable(error) from error
        self._check_versions(f"scheduler {self.address}", self._ask(self._client._run_on_scheduler, versions))
        self._none_since = 0.0
        self._look()
        while not self.workers:
            time.sleep(0.2)
            self._look()
        self._check_workers()

    def close(self) -> None:
        """Drop the connection; batches in hand are forgotten here and by the scheduler."""
        client, self._client = self._client, None
        self._in_hand.clear()
        self._ended = queue.Queue()
        if client is not None:
            with contextlib.suppress(Exception):
                client.close(timeout=2)

    def submit(self, batch: Batch) -> None:
        """Hand in a batch."""
        others = [worker for worker in self.workers if worker not in batch.avoid] if batch.avoid else []
        # allow_other_workers would let one of those to avoid steal it, because it is idle: it fails at once.
        self._hand_in(batch, others, classify_batch, batch.tracks)

    def next(self, timeout_s: float) -> Done | None:
        """Return what became of a batch; None if nothing came back in that time.

        Raises:
            LostError: the scheduler is gone.
            GenreError: there has been no worker for too long.
        """
        self._look()
        try:
            future = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        found = self._in_hand.pop(future.key, None)
        return self._outcome(found[0], future) if found else None

    def _hand_in(self, batch: Batch, only: list[str], function: Callable[..., Answer], *args: object) -> None:
        assert self._client is not None
        ended = self._ended
        try:
            future = self._client.submit(function, self._order, *args, pure=False, workers=only or None)
        except Exception as error:  # a client that is closing raises what it likes
            raise LostError from error
        self._in_hand[future.key] = (batch, future, only)
        future.add_done_callback(ended.put)

    def _outcome(self, batch: Batch, future: Future) -> Done:
        try:
            if future.status == "finished":
                # A worker that died after its last word takes the answer with it; then it is computed again.
                return Done(batch, future.result(timeout=ANSWER_S))
            if future.status == "error":
                return self._failed(batch, future.exception(timeout=ANSWER_S))
        except GenreError:
            raise
        except Exception:  # cancelled, timed out, disconnected: whatever it was, the batch is not lost
            return Done(batch, lost=True)
        finally:
            with contextlib.suppress(Exception):
                future.release()
        return Done(batch, lost=True)

    def _failed(self, batch: Batch, error: BaseException) -> Done:
        if isinstance(error, ImportError | AttributeError) or "deserialization" in str(error):
            raise self._package_missing(f"worker {batch.only}" if batch.only else "a worker", error)
        said = f"{type(error).__name__}: {error}"[:300]
        return Done(batch, problem=said, killed=isinstance(error, KilledWorker))

    def _look(self) -> None:
        """Find out, now and then, which workers there are."""
        if self._client is None or self._client.status != "running":
            raise LostError
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S if self.workers else now
        try:
            self.workers = dict(self._client.sync(self._client.scheduler.ncores, callback_timeout=ANSWER_S))
        except Exception as error:  # timed out, disconnected, closed
            raise LostError from error
        for _, future, only in self._in_hand.values():
            if only and not any(worker in self.workers for worker in only):
                # Nobody is left who may take it; what is cancelled comes back and is handed in again.
                with contextlib.suppress(Exception):
                    future.cancel()
        if self.workers:
            self._none_since = 0.0
        elif not self._none_since:
            self._none_since = now
            self._say(f"{self.address} has no workers; waiting {self._wait_s:.0f} s for 'dask worker {self.address}'")
        elif now - self._none_since > self._wait_s:
            raise GenreError(
                self.address, f"has had no workers for {self._wait_s:.0f} s",
                f"start some with 'dask worker {self.address} --nthreads 1' and run the same command again",
            )  # fmt: skip

    def _greet(self) -> None:
        """Refuse what is no scheduler: Dask's client itself would wait for ever for a port that says nothing."""

        async def identity() -> dict[str, Any]:
            security = Security().get_connection_args("client")
            comm = await connect(self.address, timeout=self._wait_s, **security)
            comm.abort()
            async with rpc(self.address, connection_args=security, timeout=self._wait_s) as scheduler:
                found: dict[str, Any] = await scheduler.identity()
                return found

        async def bounded() -> dict[str, Any]:
            return await asyncio.wait_for(identity(), self._wait_s + 1)

        try:
            found = asyncio.run(bounded())
        except Exception as error:  # another protocol's bytes fail in every way, out of memory included
            raise self._unreachable(error) from error
        if found.get("type") != "Scheduler":
            raise GenreError(
                self.address, f"is a Dask {str(found.get('type')).lower()}", "give the address of the scheduler"
            )

    def _check_versions(self, who: str, found: object) -> None:
        if isinstance(found, BaseException):
            raise self._package_missing(who, found)
        if isinstance(found, tuple):
            for what, there, here in zip(("genre-edge", "distributed"), found, versions(), strict=True):
                if there != here:
                    raise GenreError(who, f"{what} is {there} there and {here} here", f"install {here} there")

    def _ask(self, function: Callable[..., object], *args: object, **options: object) -> object:
        """Call something of Dask's client, which knows no bound of time itself; return an error as a value."""
        assert self._client is not None
        try:
            return self._client.sync(function, *args, callback_timeout=ANSWER_S, **options)
        except Exception as error:
            return error

    def _check_workers(self) -> None:
        """Ask every worker that answers; one that is busy or comes later is asked with its first batch.

        Versions first, and apart from all work: a worker without the package dies of the first task it is sent.
        """
        assert self._client is not None
        found = self._ask(self._client._run, versions, on_error="return")
        for worker, answer in found.items() if isinstance(found, dict) else ():
            self._check_versions(f"worker {worker}", answer)
        for worker in self.workers:
            self._hand_in(Batch((), only=worker), [worker], check)
        asked_until = time.monotonic() + ANSWER_S
        while self._in_hand and time.monotonic() < asked_until:
            done = self.next(0.2)
            if done is not None and done.answer is not None:
                refuse_unfit(done.answer)
        for _, future, _ in self._in_hand.values():
            with contextlib.suppress(Exception):
                future.cancel()
        self._in_hand.clear()

    def _package_missing(self, who: str, error: BaseException) -> GenreError:
        version = product_version()
        return GenreError(
            who, f"can't run genre-edge ({error})"[:300], f"install genre-edge[catalogue] {version} there"
        )

    def _unreachable(self, error: BaseException) -> GenreError:
        if isinstance(error, ValueError | TypeError):
            return GenreError(
                self.address or "--cluster", f"is no address of a scheduler ({error})", "give one like tcp://HOST:8786"
            )
        said = str(error) or f"no answer within {self._wait_s:.0f} s"
        return GenreError(
            self.address, f"no Dask scheduler answers there ({said})"[:300],
            "start one with 'dask scheduler', or correct the address",
        )  # fmt: skip


def refuse_unfit(answer: Answer) -> None:
    """Raise what a worker said against itself.

    Raises:
        GenreError: naming the worker.
    """
    if answer.unfit is not None:
        raise GenreError(f"worker {answer.worker}", *answer.unfit)
