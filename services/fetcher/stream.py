"""One stream's thread: hears it, cuts it, sends it, and keeps its ledger, events and cursor.

The HLS side (`reader.py`) knows nothing of MQTT, the sender nothing of HLS; they meet here. A stream that fails is
tried again after a while and never disturbs another. Start at `StreamTask.run`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from services.contract.messages import Event, Ledger
from services.contract.windows import SAMPLE_RATE
from services.errors import GenreError
from services.fetcher.delivery.checkpoint import Checkpoint, Checkpoints
from services.fetcher.delivery.in_flight import InFlightChunk, Lost
from services.fetcher.delivery.ledger import StreamLedger, new_ledger
from services.fetcher.delivery.sender import ChunkSender
from services.fetcher.delivery.windower import Short, Windower
from services.fetcher.events import Audio, Ended, EpochEnded, EpochStarted, Gap, Report, Start, StreamEvent, Track
from services.fetcher.silence import SilenceAlarm
from services.fetcher.source import StreamSource
from services.fetcher.telling import Telling
from services.settings.schema import Settings, Stream
from services.text import clean

log = logging.getLogger(__name__)

FIRST_LOOK_S = 5.0
"""After this long a list that has ended is looked at again; the wait doubles up to hls.ended_reload_s."""
MOST_BACKOFF = 8
"""The wait after a failure doubles up to so many times fetcher.retry_failed_s."""


class StreamTask:
    """Everything the fetcher does for one stream.

    Args:
        publish: takes the stream's events.
    """

    def __init__(
        self,
        stream: Stream,
        settings: Settings,
        sender: ChunkSender,
        checkpoints: Checkpoints,
        publish: Callable[[Event], None],
    ) -> None:
        telling = Telling(stream.name, publish)
        self.stream = stream
        self.failed: GenreError | None = None
        self.stop = threading.Event()
        self._settings, self._sender, self._checkpoints, self._tell = settings, sender, checkpoints, telling.tell
        saved = checkpoints.load(stream.name, stream.url)
        ledger, self._resume = (saved.ledger, saved.resume_point) if saved else (new_ledger(stream.name), None)
        self._ledger = StreamLedger(ledger, self._resume)
        self._timeline_id = ledger.timeline_id
        self._opened = self._heard_until = ledger.timeline
        self._windower = self._new_windower()
        self._new_epoch = False
        self._failures, self._failure_told = 0, ""
        self._silence = SilenceAlarm(stream.name, sender, telling, settings.fetcher.silent_after_s)
        self._saved_at = 0.0
        self._saved_ledger: Ledger | None = None
        self._save_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"stream-{stream.name}", daemon=True)

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def end(self) -> None:
        """Ask the thread to stop; what is unacknowledged is done again after a restart."""
        self.stop.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread and save the cursor."""
        self._thread.join(timeout_s)
        self.save()

    @property
    def alive(self) -> bool:
        """Whether the stream is still being listened to."""
        return self._thread.is_alive()

    @property
    def over(self) -> bool:
        """Whether nothing more will come of this stream: all accounted for, or failed for good."""
        return self.ledger.ended or (self.failed is not None and not self.alive)

    @property
    def end_is_saved(self) -> bool:
        """Whether the stream has ended and its cursor says so."""
        return self._saved_ledger is not None and self._saved_ledger.ended and self.ledger.ended

    @property
    def ledger(self) -> Ledger:
        """The ledger as of now."""
        return self._ledger.saved()[0]

    def save(self) -> None:
        """Write the cursor where the ledger moved; a full disk is said and tried again later."""
        with self._save_lock:
            ledger, resume_point = self._ledger.saved()
            self._saved_at = time.monotonic()
            if ledger == self._saved_ledger or (resume_point is None and not ledger.ended):
                return  # without a resume point a restart begins at the beginning, so it must begin to count there too
            try:
                again = {"in_flight": 0, "failed": "", "ended": ledger.ended and not ledger.failed}
                self._checkpoints.save(
                    self.stream.name, Checkpoint(self.stream.url, ledger.model_copy(update=again), resume_point)
                )
                self._saved_ledger = ledger
            except OSError as error:
                log.error("the cursor of %s can't be saved (%s); free some space", self.stream.name, error.strerror)

    def save_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved_at > self._settings.fetcher.cursor_interval_s

    # --- listening -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self.ledger.ended and not self._goes_on(0.0):
            log.info("stream %s ended before; 'genre hear-again %s' hears it again", self.stream.name, self.stream.name)
            return
        self._tell("started", reason="resumed" if self._resume else "")
        while not self.stop.is_set():
            self.failed = None
            try:
                self._listen()
            except GenreError as error:
                self.failed = error
            except Exception as error:
                log.exception("stream %s failed", self.stream.name)
                reason = f"{type(error).__name__}: {error}"
                self.failed = GenreError(self.stream.name, reason, "report this as a defect")
            if self.stop.is_set():
                return
            if self.failed is not None:
                if not self._tries_again(str(self.failed)):
                    return
            elif self._goes_on(FIRST_LOOK_S):
                self._tell("started", reason="the list goes on after its end")
            else:
                return

    def _tries_again(self, reason: str) -> bool:
        """Say that the stream failed and wait; return False where it is left so, or stopped."""
        if reason != self._failure_told:
            log.error("stream %s: %s", self.stream.name, reason)
            self._failure_told = reason
            self._tell("error", reason=reason, start=self._windower.heard)
        self._ledger.failing(clean(reason, 1000))
        retry_s = self._settings.fetcher.retry_failed_s
        if retry_s == 0:
            self._close_epoch(self._windower.heard)
            self._ledger.end()
            return False
        wait_s = retry_s * min(2**self._failures, MOST_BACKOFF)
        self._failures = min(self._failures + 1, MOST_BACKOFF)
        if self.stop.wait(wait_s * random.uniform(0.75, 1.0)):
            return False
        self._windower = self._new_windower()
        return True

    def _recovered(self) -> None:
        """Take back a failure, for something new was heard, or the end."""
        if self._failures:
            self._failures, self._failure_told = 0, ""
            self._ledger.failing("")
            self._tell("resumed", start=self._windower.heard, reason="it is heard again")

    def _goes_on(self, first_look_s: float) -> bool:
        """Wait until a stream that has ended goes on; return False where it never will, or the task is stopped."""
        longest_s = self._settings.hls.ended_reload_s
        wait_s = min(first_look_s, longest_s)
        while longest_s and not self.stop.wait(wait_s):
            wait_s = min(max(2 * wait_s, FIRST_LOOK_S), longest_s)
            source = self._source()
            try:
                more = source.has_more()
            except GenreError as error:
                log.debug("stream %s, which has ended: %s", self.stream.name, error)
                more = False
            finally:
                source.close()
            if more is None:
                return False
            if more:
                self._ledger.go_on()
                self._windower = self._new_windower()
                self._silence.heard()
                return True
        return False

    def _new_windower(self) -> Windower:
        """Make a windower that begins where everything before is in the ledger."""
        settings = self._settings.fetcher
        return Windower(
            self.stream.name,
            settings.window_hop,
            settings.windows_per_chunk,
            self._opened,
            self._timeline_id,
            self._sender.reply_to,
        )

    def _source(self) -> StreamSource:
        return StreamSource(self.stream, self._settings.hls, self.stop, Start(self._resume, self._opened))

    def _listen(self) -> None:
        source = self._source()
        try:
            for item in source.listen():
                self._take(item)
                del item  # not kept while the next one is waited for, as in hls/reader.py
                if self.stop.is_set():
                    return
        finally:
            source.close()

    def _take(self, item: StreamEvent) -> None:
        """Turn one heard item into chunks, ledger entries and events; what a restart did before is passed over."""
        if isinstance(item, Audio):
            self._audio(item)
        elif isinstance(item, EpochStarted):
            self._open_until(item.first_sample)
            self._windower.start(item)
            self._new_epoch = True
        elif isinstance(item, EpochEnded):
            self._close_epoch(item.end_sample)
        elif isinstance(item, Gap):
            self._gap(item)
        elif isinstance(item, Track):
            self._windower.track(item)
            if item.first_sample >= self._opened:
                self._tell("track", start=item.first_sample, title=item.title, artist=item.artist)
        elif isinstance(item, Report):
            self._tell(
                "report", start=self._windower.heard, cause=item.kind, reason=item.reason, numbers=dict(item.numbers)
            )
        elif isinstance(item, Ended):
            self._ended(item)

    def _audio(self, piece: Audio) -> None:
        if self._new_epoch:
            self._ledger.begin_again_from(piece.resume_point)
            self._resume = piece.resume_point
            self._new_epoch = False
        if self._saved_ledger is None and not self.stop.is_set():
            # Before the first chunk goes out: killed after it, this timeline must go on, or be known to be another.
            self.save()
        for in_flight in self._windower.audio(piece):
            self._send(in_flight)
        if self._windower.heard > self._heard_until:
            self._heard_until = self._windower.heard
            self._recovered()

    def _close_epoch(self, end_sample: int) -> None:
        last = self._windower.finish(end_sample)
        if isinstance(last, InFlightChunk):
            self._send(last)
        elif isinstance(last, Short):
            self._ledger.short(last.samples)
            self._opened += last.samples

    def _send(self, in_flight: InFlightChunk) -> None:
        if self.stop.is_set():
            return
        self._ledger.chunk(in_flight)
        self._opened += in_flight.covers
        self._resume = in_flight.resume_point
        self._sender.send(in_flight, self.stop)

    def settled(self, in_flight: InFlightChunk, outcome: Lost | None) -> None:
        """Take what became of a chunk: None where its results are out, else why it is lost."""
        if outcome is not None:
            header, seconds = in_flight.chunk.header, in_flight.covers / SAMPLE_RATE
            self._tell("lost", start=header.first_sample, seconds=seconds, cause=outcome.cause, reason=outcome.reason)
        self._ledger.settle(in_flight.id, outcome.cause if outcome else "")
        if outcome is None:
            self._silence.heard()

    def _open_until(self, sample: int) -> None:
        """See that the account is as far as the stream; what is missing would be a defect, and is never hidden."""
        missing = sample - self._opened
        if missing > 0:
            log.error("stream %s: %d samples are not accounted for; they count as lost", self.stream.name, missing)
            self._ledger.lost(missing, "unaccounted")
            self._opened += missing

    def _gap(self, gap: Gap) -> None:
        """Enter a gap and tell of it; after a restart it can begin before what is accounted for already."""
        self._open_until(gap.first_sample)
        start = max(gap.first_sample, self._opened)
        samples = gap.first_sample + gap.samples - start
        if samples <= 0:
            return
        self._ledger.gap(samples, gap.cause)
        self._opened += samples
        self._tell("gap", start=start, seconds=samples / SAMPLE_RATE, cause=gap.cause, reason=gap.detail)

    def _ended(self, ended: Ended) -> None:
        self._open_until(ended.end_sample)
        self._recovered()
        self._resume = ended.resume_point or self._resume
        self._ledger.end(self._resume)
        self._tell("ended", start=ended.end_sample, reason=ended.reason)

    def watch_silence(self) -> str:
        """Raise or end the alarm "no result for N seconds"; return the stage that is stuck, '' where all is well."""
        due = not self.over and not self.stop.is_set()
        return self._silence.watch(self._windower.heard, due, failing=bool(self._failures))
