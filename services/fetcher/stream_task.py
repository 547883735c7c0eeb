"""One stream's thread: hears it, cuts it, sends it, and keeps its ledger, events and cursor.

The HLS side (`listener.py`) knows nothing of MQTT, the courier nothing of HLS; they meet here. A stream that fails is
tried again after a while and never disturbs another. Start at `StreamTask.run`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from services.contract import SAMPLE_RATE, Event, Ledger, clean, utc
from services.errors import GenreError
from services.fetcher.account import Account
from services.fetcher.chunks import Cut, Short, Windower
from services.fetcher.courier import Courier
from services.fetcher.cursor import Cursor, Cursors
from services.fetcher.heard import (
    Audio,
    Bookmark,
    Ended,
    EpochEnded,
    EpochStarted,
    Gap,
    Heard,
    Report,
    Track,
)
from services.fetcher.listener import Listener
from services.settings import Settings, Stream

log = logging.getLogger(__name__)


class StreamTask:
    """Everything the fetcher does for one stream.

    Args:
        tell: publishes an event.
    """

    def __init__(
        self, stream: Stream, settings: Settings, courier: Courier, cursors: Cursors, tell: Callable[[Event], None]
    ) -> None:
        self.stream = stream
        self.failed: GenreError | None = None
        self.stop = threading.Event()
        self._settings, self._courier, self._cursors, self._tell_all = settings, courier, cursors, tell
        saved = cursors.load(stream.name, stream.url)
        self._account = Account(
            saved.ledger if saved else Ledger(stream=stream.name), saved.bookmark if saved else None
        )
        self._resume = saved.bookmark if saved else None
        self._windower = self._new_windower(saved.ledger.timeline if saved else 0)
        self._opened = saved.ledger.timeline if saved else 0
        self._new_epoch = False
        self._last_result = time.monotonic()
        self._silent_stage = ""
        self._saved_at, self._saved_ledger = 0.0, saved.ledger if saved else None
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
    def ledger(self) -> Ledger:
        """The ledger as of now."""
        return self._account.saved()[0]

    def save(self) -> None:
        """Write the cursor where the ledger moved; a full disk is said and tried again later."""
        with self._save_lock:
            ledger, bookmark = self._account.saved()
            self._saved_at = time.monotonic()
            if ledger == self._saved_ledger or (bookmark is None and not ledger.ended):
                return  # without a bookmark a restart begins at the beginning, so it must begin to count there too
            try:
                again = {"in_flight": 0, "failed": "", "ended": ledger.ended and not ledger.failed}
                self._cursors.save(self.stream.name, Cursor(self.stream.url, ledger.model_copy(update=again), bookmark))
                self._saved_ledger = ledger
            except OSError as error:
                log.error("the cursor of %s can't be saved (%s); free some space", self.stream.name, error.strerror)

    def save_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved_at > self._settings.fetcher.cursor_interval_s

    # --- listening -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self.ledger.ended:
            log.info("stream %s ended before; remove its cursor to hear it again", self.stream.name)
            return
        self._tell("started", reason="resumed" if self._resume else "")
        while not self.stop.is_set():
            try:
                self._listen()
            except GenreError as error:
                self.failed = error
            except Exception as error:
                log.exception("stream %s failed", self.stream.name)
                self.failed = GenreError(
                    self.stream.name, f"{type(error).__name__}: {error}", "report this as a defect"
                )
            if self.failed is None:
                return
            log.error("stream %s: %s", self.stream.name, self.failed)
            self._tell("error", reason=str(self.failed), start=self._windower.heard)
            retry_s = self._settings.fetcher.retry_failed_s
            if retry_s == 0:
                self._close_epoch(self._windower.heard)
                self._account.fail(clean(str(self.failed)))
                return
            if self.stop.wait(retry_s):
                return
            self.failed = None
            self._windower = self._new_windower(self._opened)

    def _new_windower(self, frontier: int) -> Windower:
        settings = self._settings.fetcher
        return Windower(self.stream.name, settings.window_hop, settings.windows_per_chunk, frontier)

    def _listen(self) -> None:
        listener = Listener(self.stream, self._settings.hls, self.stop, self._resume)
        try:
            for item in listener.listen():
                self._take(item)
                if self.stop.is_set():
                    return
        finally:
            listener.close()

    def _take(self, item: Heard) -> None:
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
            self._account.begin_again_from(piece.bookmark)
            self._resume_from(piece.bookmark)
            self._new_epoch = False
        for cut in self._windower.audio(piece):
            self._send(cut)

    def _close_epoch(self, end_sample: int) -> None:
        last = self._windower.finish(end_sample)
        if isinstance(last, Cut):
            self._send(last)
        elif isinstance(last, Short):
            self._account.short(last.samples)
            self._opened += last.samples

    def _send(self, cut: Cut) -> None:
        if self.stop.is_set():
            return
        chunk = cut.stretch.chunk
        self._account.chunk(chunk, cut.covers, cut.stretch.windows, cut.resume)
        self._opened += cut.covers
        self._resume_from(cut.resume)
        self._courier.send(cut, lambda cause: self._settled(chunk, cause), self.stop)

    def _resume_from(self, bookmark: Bookmark) -> None:
        self._resume = bookmark

    def _settled(self, chunk: str, cause: str) -> None:
        self._account.settle(chunk, cause)
        if not cause:
            self._last_result = time.monotonic()

    def _open_until(self, sample: int) -> None:
        """See that the account is as far as the stream; what is missing would be a defect, and is never hidden."""
        missing = sample - self._opened
        if missing > 0:
            log.error("stream %s: %d samples are not accounted for; they count as lost", self.stream.name, missing)
            self._account.lost(missing, "unaccounted")
            self._opened += missing

    def _gap(self, gap: Gap) -> None:
        """Enter a gap and tell of it; after a restart it can begin before what is accounted for already."""
        self._open_until(gap.first_sample)
        start = max(gap.first_sample, self._opened)
        samples = gap.first_sample + gap.samples - start
        if samples <= 0:
            return
        self._account.gap(samples, gap.cause)
        self._opened += samples
        self._tell("gap", start=start, seconds=samples / SAMPLE_RATE, cause=gap.cause, reason=gap.detail)

    def _ended(self, ended: Ended) -> None:
        self._open_until(ended.end_sample)
        self._account.end()
        self._tell("ended", start=ended.end_sample, reason=ended.reason)

    # --- telling ---------------------------------------------------------------------------------------------------

    def lost(self, cut: Cut, cause: str, reason: str) -> None:
        """Say that a chunk was given up."""
        self._tell("lost", start=cut.stretch.first_sample, seconds=cut.covers / SAMPLE_RATE, cause=cause, reason=reason)

    def watch_silence(self) -> str:
        """Raise or end the alarm "no result for N seconds"; return the stage that is stuck, '' where all is well."""
        quiet_s = time.monotonic() - self._last_result
        if self.over or self.stop.is_set() or quiet_s < self._settings.fetcher.silent_after_s:
            if self._silent_stage and quiet_s < self._settings.fetcher.silent_after_s:
                self._tell("resumed", start=self._windower.heard, reason="results come again")
                self._silent_stage = ""
            return ""
        waiting = self._courier.outstanding(self.stream.name)
        stage = self._courier.stuck_stage(self.stream.name) if waiting else "source"
        if stage != self._silent_stage:
            self._silent_stage = stage
            reason = f"no result for {quiet_s:.0f} s: " + (
                "the source delivers nothing" if stage == "source" else f"{waiting} chunks wait at {stage}"
            )
            log.warning("stream %s: %s", self.stream.name, reason)
            self._tell("silent", start=self._windower.heard, seconds=quiet_s, stage=stage, reason=reason)
        return stage

    def _tell(
        self,
        kind: str,
        *,
        start: int = 0,
        seconds: float = 0.0,
        cause: str = "",
        reason: str = "",
        stage: str = "",
        title: str = "",
        artist: str = "",
        numbers: dict[str, float] | None = None,
    ) -> None:
        self._tell_all(
            Event.model_validate(
                {
                    "kind": kind,
                    "stream": self.stream.name,
                    "at": utc(time.time()),
                    "start_s": round(start / SAMPLE_RATE, 3),
                    "seconds": round(seconds, 3),
                    "cause": clean(cause),
                    "reason": clean(reason, 1000),
                    "stage": stage,
                    "title": clean(title),
                    "artist": clean(artist),
                    "numbers": numbers or {},
                }
            )
        )
