"""Keeps every chunk until its ack: credits, redelivery, and giving up only what can never succeed.

One courier a fetcher process. A chunk is sent again when later ones were acked and it was not, or, when nothing at all
is acked, one chunk at a time as a probe: a dead pipeline is never flooded. Not here: cutting chunks (`chunks.py`) and
the ledger (`account.py`). Start at `Courier.send`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter as Tally
from collections import OrderedDict, deque
from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from services.bus import Bus, Delivery, Receipt
from services.contract import Ack, ContractError, Message, PcmChunk, Topics, again
from services.fetcher.chunks import Cut
from services.fetcher.parcel import Parcel, RetransmissionTimer, dead_letter
from services.settings import Fetcher

log = logging.getLogger(__name__)

MOST_REMEMBERED = 1000
UNHEARD_S = 0.25
"""A chunk that the broker had no featurizer for is offered again this soon, one at a time until one is taken."""

SENT = Counter("genre_chunks_sent_total", "PCM chunks published, by first or repeated", ["kind"])
OUTSTANDING = Gauge("genre_chunks_outstanding", "Chunks without an ack; the bound is fetcher.credits")
ACK_SECONDS = Histogram(
    "genre_ack_seconds",
    "From a chunk's first send to its ack",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60),
)


class Courier:
    """Sends chunks and answers for them.

    Args:
        fetcher: this fetcher's instance: its acks come to `genre/acks/<fetcher>`.
        on_lost: called with (cut, cause, reason) when a chunk is given up.
    """

    def __init__(
        self, bus: Bus, topics: Topics, fetcher: str, settings: Fetcher, on_lost: Callable[[Cut, str, str], None]
    ) -> None:
        self._bus, self._topics, self._settings = bus, topics, settings
        self._fetcher, self._reply_to, self._on_lost = fetcher, topics.acks(fetcher), on_lost
        self._parcels: dict[str, Parcel] = {}
        self._per_stream: Tally[str] = Tally()
        self._changed = threading.Condition()
        self._timer = RetransmissionTimer(settings.ack_timeout_s, settings.ack_timeout_max_s)
        self._confirming: deque[Parcel] = deque()
        self._syncing = False
        self._generation = 0
        self._sent_again: OrderedDict[str, float] = OrderedDict()
        self._newest_acked = 0.0
        self._last_ack = 0.0
        self._probe_at, self._probe_factor = 0.0, 1.0
        self._someone_listens = True

    def start(self) -> None:
        """Begin to listen for acks."""
        self._bus.subscribe(self._reply_to, self._acked)

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, cut: Cut, settle: Callable[[str], None], stop: threading.Event) -> None:
        """Send a chunk as soon as there is credit; returns once it is on its way, given up as stale, or `stop` is set.

        Args:
            settle: called once with '' when the chunk's results are out, or with the cause of its loss.
        """
        stream, heard = cut.stretch.stream, time.monotonic()
        with self._changed:
            while not self._has_credit(stream) and not stop.is_set():
                if self._stale(cut, heard):
                    break
                self._changed.wait(0.2)
            if stop.is_set():
                return
            stale = self._stale(cut, heard) and not self._has_credit(stream)
            if not stale:
                now = time.monotonic()
                parcel = Parcel(cut, settle, heard, now, now)
                self._parcels[parcel.chunk] = parcel
                self._per_stream[stream] += 1
                OUTSTANDING.set(len(self._parcels))
        if stale:
            self._give_up(cut, settle, "stale", f"no room for it within {self._settings.max_age_s:g} s")
        else:
            self._publish(parcel)

    def outstanding(self, stream: str) -> int:
        """Return how many chunks of a stream wait for their ack."""
        with self._changed:
            return self._per_stream[stream]

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until no chunk waits for its ack any more; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._parcels and not self._confirming, timeout_s)

    def forget(self, stream: str) -> None:
        """Drop a stream's chunks: whoever listens to it next begins at its cursor and sends them anew."""
        with self._changed:
            for parcel in [p for p in self._parcels.values() if p.cut.stretch.stream == stream]:
                self._remove(parcel)
            self._confirming = deque(p for p in self._confirming if p.cut.stretch.stream != stream)

    def stuck_stage(self, stream: str) -> str:
        """Name the stage that holds a stream's oldest chunk: broker, featurizer or inference."""
        if not self._bus.connected:
            return "broker"
        with self._changed:
            mine = [p for p in self._parcels.values() if p.cut.stretch.stream == stream]
        if any(parcel.refused or not parcel.with_broker for parcel in mine):
            return "broker"
        return "inference" if any(parcel.featurized for parcel in mine) else "featurizer"

    def _has_credit(self, stream: str) -> bool:
        return (
            self._per_stream[stream] < self._settings.credits_per_stream
            and len(self._parcels) + len(self._confirming) < self._settings.credits
        )

    def _stale(self, cut: Cut, heard: float) -> bool:
        # By the monotonic clock: the wall clock may be set while we run, and that must lose nothing.
        return cut.live and time.monotonic() - heard > self._settings.max_age_s

    def _publish(self, parcel: Parcel) -> None:
        if not self._bus.connected:
            # It waits here, not in the bus: there it could not be taken back when it grows too old, and over a long
            # outage of the broker the audio of live streams would fill the memory.
            parcel.unsent = True
            return
        chunk = again(PcmChunk(parcel.cut.stretch, parcel.cut.pcm, self._reply_to), parcel.attempts)
        SENT.labels("first" if parcel.attempts == 1 else "again").inc()
        parcel.with_broker = parcel.unheard = False
        self._bus.publish(chunk.to_message(self._topics), lambda receipt: self._received(parcel, receipt))

    def _received(self, parcel: Parcel, receipt: Receipt) -> None:
        """Note the PUBACK. A refusal is a broker's setting to mend: the chunk stays and is tried again."""
        parcel.with_broker = True
        parcel.unheard = not receipt.reached_someone
        parcel.refused = not receipt.accepted
        if receipt.reached_someone and not self._someone_listens:
            self._probe_factor = 1.0
        self._someone_listens = receipt.reached_someone
        if not receipt.accepted and parcel.attempts in (1, 4, 16, 64):
            log.error(
                "the broker refused chunk %s: %s; check this user's rights and the broker's size limits",
                parcel.chunk,
                receipt.text,
            )

    # --- acks ------------------------------------------------------------------------------------------------------

    def _acked(self, delivery: Delivery) -> None:
        """Take an ack (network thread)."""
        self._bus.ack(delivery)
        try:
            ack = Ack.from_message(delivery.message)
        except ContractError as error:
            log.warning("an ack on %s is ignored: %s", self._reply_to, error)
            return
        with self._changed:
            parcel = self._parcels.get(ack.chunk)
            if parcel is None:
                # Acked before, or given up: a duplicate is harmless. That one came tells that the first copy was only
                # slow: learn it, or a busy pipeline would get ever more copies (Karn's rule alone never learns that).
                needless_s = self._sent_again.pop(ack.chunk, None)
                if needless_s is not None and ack.outcome == "done":
                    self._timer.learn(needless_s)
                return
            if ack.outcome == "featurized":
                parcel.featurized = True
                return
            self._remove(parcel)
            now = time.monotonic()
            if parcel.attempts == 1:
                self._timer.learn(now - parcel.first_sent)
            else:
                self._sent_again[ack.chunk] = now - parcel.first_sent
                while len(self._sent_again) > MOST_REMEMBERED:
                    self._sent_again.popitem(last=False)
            self._newest_acked = max(self._newest_acked, parcel.last_sent)
            self._last_ack = now
            self._probe_factor = 1.0
            parcel.acked_at = now
            parcel.lost_reason = "" if ack.outcome == "done" else ack.reason or "no reason given"
            self._confirming.append(parcel)
        ACK_SECONDS.observe(now - parcel.first_sent)
        if self._settings.confirm_s == 0:
            self._confirmed(now)

    # --- confirming ------------------------------------------------------------------------------------------------

    def _confirm(self) -> None:
        """Take back acks that their broker did not outlive; ask the broker for a sign of life for those that are due.

        A broker that dies takes with it what it accepted but had not written to a reader, the results among it: an ack
        alone does not prove that anyone got them.
        """
        now, generation = time.monotonic(), self._bus.generation
        with self._changed:
            if generation != self._generation:
                self._generation, self._syncing = generation, False
                for parcel in self._confirming:
                    parcel.last_sent, parcel.with_broker = 0.0, True
                    self._parcels[parcel.chunk] = parcel
                    self._per_stream[parcel.cut.stretch.stream] += 1
                self._confirming.clear()
                return
            due = self._confirming and now - self._confirming[0].acked_at >= self._settings.confirm_s
            if not due or self._syncing:
                return
            self._syncing = True
        until = now - self._settings.confirm_s
        self._bus.sync(lambda: self._confirmed(until))

    def _confirmed(self, until: float) -> None:
        """Settle what was acked up to a time: the broker has lived on since."""
        ripe: list[Parcel] = []
        with self._changed:
            self._syncing = False
            while self._confirming and self._confirming[0].acked_at <= until:
                ripe.append(self._confirming.popleft())
            self._changed.notify_all()
        for parcel in ripe:
            if parcel.lost_reason:
                # Whoever said dead has published the dead letter; here it only becomes a loss in the ledger.
                self._on_lost(parcel.cut, "dead", parcel.lost_reason)
            parcel.settle("dead" if parcel.lost_reason else "")

    def _remove(self, parcel: Parcel) -> None:
        del self._parcels[parcel.chunk]
        self._per_stream[parcel.cut.stretch.stream] -= 1
        OUTSTANDING.set(len(self._parcels))
        self._changed.notify_all()

    # --- sending again ---------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Send again what is overdue, give up what is hopeless or stale; call it a few times a second."""
        self._confirm()
        now, connected = time.monotonic(), self._bus.connected
        hopeless: list[tuple[Parcel, str, str]] = []
        repeat, unsent = list[Parcel](), list[Parcel]()
        with self._changed:
            timeout_s, waiting = self._timer.timeout_s, list[Parcel]()
            for parcel in self._parcels.values():
                if self._stale(parcel.cut, parcel.heard):
                    hopeless.append((parcel, "stale", f"no result within {self._settings.max_age_s:g} s"))
                elif not connected:
                    continue  # nothing can be sent, so nothing may count as unanswered
                elif parcel.unsent:
                    unsent.append(parcel)
                elif parcel.unheard and now - parcel.last_sent > UNHEARD_S:
                    (repeat if self._someone_listens else waiting).append(parcel)
                elif parcel.overdue(now, timeout_s):
                    if self._newest_acked > parcel.last_sent:
                        parcel.overtaken += 1
                        if parcel.overtaken >= self._settings.give_up_after:
                            hopeless.append(
                                (parcel, "no-answer", f"unanswered {parcel.attempts} times while others were")
                            )
                        else:
                            repeat.append(parcel)
                    else:
                        waiting.append(parcel)
            if now - self._last_ack < timeout_s and self._someone_listens:
                waiting = []  # acks still come, in order: what waits is queued, not lost
            if waiting and not repeat and now >= self._probe_at:
                repeat.append(min(waiting, key=lambda parcel: parcel.last_sent))
                wait_s = timeout_s if self._someone_listens else UNHEARD_S
                self._probe_at = now + wait_s * self._probe_factor
                self._probe_factor = min(2 * self._probe_factor, self._settings.ack_timeout_max_s / wait_s)
            for parcel, _, _ in hopeless:
                self._remove(parcel)
            for parcel in repeat:
                parcel.attempts += 1
                parcel.last_sent = now
            for parcel in unsent:
                parcel.unsent, parcel.last_sent = False, now
        for parcel in unsent + repeat:
            self._publish(parcel)
        for parcel, cause, reason in hopeless:
            self._give_up(parcel.cut, parcel.settle, cause, reason)

    def _give_up(self, cut: Cut, settle: Callable[[str], None], cause: str, reason: str) -> None:
        log.warning("chunk %s is lost: %s", cut.stretch.chunk, reason)
        letter = dead_letter(cut, reason, self._fetcher, self._topics)
        self._bus.publish(Message(self._topics.dead, letter.to_json(), content_type="application/json"))
        self._on_lost(cut, cause, reason)
        settle(cause)
