"""One run over a library: reads tracks ahead, keeps the engine busy, writes each batch as it comes back.

At most twice as many batches are in flight as there are threads, however long the list is. What can go wrong with a
batch and what is done about it stands in `_Run`; the rest of this folder knows nothing of it. Start at `classify_all`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import distributed

from services.classify.catalogue.cluster import Batch, Cluster, Done, LostError, local, refuse_unfit
from services.classify.catalogue.listing import Feed, tracks
from services.classify.catalogue.progress import Progress
from services.classify.catalogue.results import Results
from services.classify.catalogue.work import Answer, Order, Row, Track, model_digest
from services.contract.windows import HOP
from services.errors import GenreError
from services.inference.card import load_card
from services.process.lifecycle import product_version

MOST_IN_FLIGHT = 2_000
TRIES = 3
"""Of a batch that came back without an answer, and of a file on different workers that could not open it."""
VERDICTS = 2
"""So often Dask must say of a file alone that its workers died."""
DOUBTFUL_BATCHES = 3
"""So many first batches of which no file could be opened mean that the workers don't have the library."""
STALLED_S = 600.0


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        files, errors: in the folder of results, and those of them that could not be classified.
        written: by this run.
        listed: tracks that the sources named; those that were in the folder already are among them.
    """

    files: int
    errors: int
    written: int
    listed: int
    seconds: float


def order_for(models_dir: Path, model: str) -> Order:
    """Return what workers must agree on to answer as this machine would.

    Raises:
        GenreError: the model is not there or broken.
    """
    card = load_card(models_dir, model)
    return Order(
        product_version(), distributed.__version__, model, card.version, model_digest(card), card.recipe_digest,
        card.labels, HOP, str(models_dir),
    )  # fmt: skip


def classify_all(
    sources: Sequence[str], out: Path, order: Order, *, cluster: str | None, workers: int | None, batch: int,
    retry_failed: bool, wait_s: float,
) -> Summary:  # fmt: skip
    """Classify a library into a folder of Parquet, or go on with one.

    Args:
        sources: folders, audio files, lists of paths, or '-'.
        cluster: address of a Dask scheduler; None takes this machine's cores.
        workers: processes on this machine; None is one a core. Without meaning for a cluster.
        batch: files in a task.

    Raises:
        GenreError: where the run can't begin or go on; what was written stays, and the same command goes on from there.
    """
    with ExitStack() as stack:
        stack.enter_context(_terminated_like_interrupted())
        results = stack.enter_context(Results(out, order, retry_failed))
        feed = Feed(tracks(sources), results.take, batch)
        progress = stack.enter_context(Progress())
        first = _first(feed, sources)
        began = time.monotonic()
        run = _Run(results, feed, progress)
        try:
            if first is not None:
                run.waiting.append(Batch(first))
                address = cluster or stack.enter_context(local(workers or len(os.sched_getaffinity(0))))
                engine = Cluster(address, order, wait_s, progress.say)
                stack.callback(engine.close)
                run.go(engine, shared=cluster is not None)
            results.finish()
        except KeyboardInterrupt:
            progress.say(f"stopped; {results.rows()} files are in {out}, the same command goes on from there")
            raise
        return Summary(results.files, results.errors, run.written, feed.listed, time.monotonic() - began)


def _first(feed: Feed, sources: Sequence[str]) -> tuple[Track, ...] | None:
    """Wait for the first batch: whether there is anything to do is known before any engine is started."""
    while (first := feed.next()) is None and not feed.ended:
        time.sleep(0.02)
    if not feed.listed:
        raise GenreError(", ".join(sources), "no audio file is in there", "give a folder or a list with some")
    return first


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Run:
    """The rules.

    - A worker dies: the scheduler gives its batch to another. A batch whose workers died several times is split, to
      find the file. Of the files of such batches one is on its way at a time: Dask blames all that a dead worker had
      before it. A file whose workers died then, too, and once more, is an error.
    - A worker can't open a file that the client sees: another worker tries. If no file of the first batches can be
      opened, the workers don't have the library, and the run ends before that is written down a million times.
    - The scheduler is lost: wait for it, hand in again what was in flight.
    - A worker would answer otherwise (other program, other model): the run ends.
    """

    def __init__(self, results: Results, feed: Feed, progress: Progress) -> None:
        self.waiting: deque[Batch] = deque()
        self.written = 0
        self._results, self._feed, self._progress = results, feed, progress
        self._doubtful: list[Answer] | None = []
        self._blind: set[str] = set()
        self._suspects: deque[Batch] = deque()
        self._suspect: Batch | None = None
        self._shared = False

    def go(self, engine: Cluster, shared: bool) -> None:
        """Classify everything there is.

        Args:
            shared: the workers are elsewhere, so they may not see what this machine sees.
        """
        self._shared = shared
        if not shared:
            self._doubtful = None
        engine.open()
        moved = time.monotonic()
        while True:
            try:
                self._fill(engine)
                if not engine.flying and not self.waiting and not self._suspects and self._feed.ended:
                    break
                done = engine.next(0.2)
            except LostError:
                self._regain(engine)
                continue
            if done is not None:
                self._settle(done, engine)
                moved = time.monotonic()
            elif time.monotonic() - moved > STALLED_S and engine.flying:
                oldest = engine.in_hand[0].tracks[0].path
                self._progress.say(
                    f"no batch came back for {STALLED_S / 60:.0f} minutes; the oldest begins at {oldest}"
                )
                moved = time.monotonic()
            total = self._feed.listed - self._feed.skipped if self._feed.ended else None
            self._progress.show(self.written, total, self._results.errors, engine.threads)
        self._believe()

    def _fill(self, engine: Cluster) -> None:
        most = min(MOST_IN_FLIGHT, 2 * max(1, engine.threads))
        while engine.flying < most:
            if self._suspect is None and self._suspects:
                batch = self._suspect = self._suspects.popleft()
            elif self.waiting:
                batch = self.waiting.popleft()
            elif found := self._feed.next():
                batch = Batch(found)
            else:
                return
            try:
                engine.submit(batch)
            except LostError:
                self.waiting.appendleft(batch)
                raise

    def _regain(self, engine: Cluster) -> None:
        """Wait for the scheduler to come back; what was in flight goes first."""
        self.waiting.extendleft(reversed([batch for batch in engine.in_hand if batch.tracks]))
        self._suspect = None
        self._progress.say(f"{engine.address} is lost; waiting for it")
        try:
            engine.open()
        except LostError:
            return
        except GenreError as error:
            kept = f"{self._results.files} files are written; run the same command again to go on"
            raise GenreError(error.thing, error.reason, f"{error.remedy}; {kept}") from error

    def _settle(self, done: Done, engine: Cluster) -> None:
        batch = done.batch
        if batch is self._suspect:
            self._suspect = None
        if done.answer is not None:
            refuse_unfit(done.answer)
            self._take(batch, done.answer, engine)
        elif done.lost:
            self.waiting.appendleft(batch)
        elif len(batch.tracks) > 1 and (done.killed or batch.tries + 1 >= TRIES):
            self._suspects.extend(Batch((track,)) for track in batch.tracks)
        elif done.killed and batch.tries + 1 < VERDICTS:
            self._suspects.append(Batch(batch.tracks, batch.tries + 1))
        elif not done.killed and batch.tries + 1 < TRIES:
            self.waiting.appendleft(Batch(batch.tracks, batch.tries + 1))
        else:
            why = "the workers that had it died" if done.killed else done.problem
            self._write([Row(track, error=why) for track in batch.tracks])

    def _take(self, batch: Batch, answer: Answer, engine: Cluster) -> None:
        avoid = batch.avoid | {answer.worker}
        again: tuple[Track, ...] = ()
        if self._shared and batch.tries + 1 < TRIES and set(engine.workers) - avoid:
            again = tuple(row.track for row in answer.rows if row.unopened and row.track.seen)
        if again:
            if answer.worker not in self._blind:
                self._blind.add(answer.worker)
                self._progress.say(f"worker {answer.worker} can't open {again[0].path}; others try that and the like")
            self.waiting.appendleft(Batch(again, batch.tries + 1, avoid))
        kept = tuple(row for row in answer.rows if row.track not in again)
        if not kept:
            return
        if self._doubtful is None or not all(row.unopened and row.track.seen for row in kept):
            self._believe(certain=True)
            self._write(kept)
            return
        self._doubtful.append(Answer(answer.worker, kept))
        if len(self._doubtful) >= DOUBTFUL_BATCHES:
            self._believe()

    def _believe(self, certain: bool = False) -> None:
        """Write the first batches, of which no file could be opened, unless the workers don't have the library.

        Raises:
            GenreError: this machine can open what no worker could.
        """
        doubtful, self._doubtful = self._doubtful, None
        for answer in doubtful or ():
            row = answer.rows[0]
            if not certain and _opens(row.track.path):
                raise GenreError(
                    row.track.path,
                    f"{row.error} on worker {answer.worker} but not here, and so with every file so far",
                    "mount the library on every worker under the same path",
                )  # fmt: skip
        for answer in doubtful or ():
            self._write(answer.rows)

    def _write(self, rows: Sequence[Row]) -> None:
        self._results.write(rows)
        self.written += len(rows)


def _opens(path: str) -> bool:
    try:
        with open(path, "rb"):
            return True
    except OSError:
        return False


def finished(summary: Summary, out: Path, as_json: bool) -> str:
    """Return the line that a run ends with."""
    if as_json:
        return json.dumps({"out": str(out), **asdict(summary), "seconds": round(summary.seconds, 1)})
    before = summary.files - summary.written
    text = f"{summary.files} files in {out}: {summary.files - summary.errors} classified, {summary.errors} not"
    text += " (column 'error' says why)" if summary.errors else ""
    return text + (f"; {before} of them by earlier runs" if before > 0 else "")
