"""Keeps every chunk until its ack: credits, redelivery, and giving up only what can never succeed.

One a fetcher process. A chunk is sent again when later ones were acked and it was not, or, when nothing at all
is acked, one chunk at a time as a probe: a dead pipeline is never flooded. Not here: cutting chunks (`windower.py`) and
the ledger (`ledger.py`). Start at `ChunkSender.send`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter as Tally
from collections import OrderedDict, deque
from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from services.contract.acks import Ack
from services.contract.messages import ContractError, Message
from services.contract.topics import Topics
from services.fetcher.delivery.in_flight import InFlightChunk, Lost, RetransmissionTimer, dead_letter
from services.mqtt.client import MqttClient
from services.mqtt.receipts import Receipt
from services.mqtt.subscriptions import Delivery
from services.process.readers import ReaderWatch
from services.settings.schema import Fetcher

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


class ChunkSender:
    """Sends chunks and answers for them.

    Args:
        fetcher: this fetcher's instance: its acks come to `genre/acks/<fetcher>`.
        settled: called once a chunk, with None when its results are out, or with why it is lost.
        reader: who must be there to take a chunk; None: whoever is subscribed.
    """

    def __init__(
        self,
        mqtt: MqttClient,
        topics: Topics,
        fetcher: str,
        settings: Fetcher,
        settled: Callable[[InFlightChunk, Lost | None], None],
        reader: ReaderWatch | None = None,
    ) -> None:
        self._mqtt, self._topics, self._settings, self._reader = mqtt, topics, settings, reader
        self._fetcher, self.reply_to, self._settled = fetcher, topics.acks(fetcher), settled
        self._in_flight: dict[str, InFlightChunk] = {}
        self._per_stream: Tally[str] = Tally()
        self._changed = threading.Condition()
        self._timer = RetransmissionTimer(settings.ack_timeout_s, settings.ack_timeout_max_s)
        self._confirming: deque[InFlightChunk] = deque()
        self._syncing = False
        self._generation = 0
        self._sent_again: OrderedDict[str, float] = OrderedDict()
        self._newest_acked = 0.0
        self._last_ack = 0.0
        self._probe_at, self._probe_factor = 0.0, 1.0
        self._someone_listens = True

    def start(self) -> None:
        """Begin to listen for acks."""
        if self._reader is not None:
            self._reader.start()
        self._mqtt.subscribe(self.reply_to, self._acked)

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, in_flight: InFlightChunk, stop: threading.Event) -> None:
        """Send a chunk as soon as there is credit; return once it is sent, given up as stale, or `stop` is set."""
        stream, in_flight.heard = in_flight.stream, time.monotonic()
        with self._changed:
            while not self._has_credit(stream) and not stop.is_set():
                if self._stale(in_flight):
                    break
                self._changed.wait(0.2)
            if stop.is_set():
                return
            stale = self._stale(in_flight) and not self._has_credit(stream)
            if not stale:
                in_flight.first_sent = in_flight.last_sent = time.monotonic()
                self._in_flight[in_flight.id] = in_flight
                self._per_stream[stream] += 1
                OUTSTANDING.set(len(self._in_flight))
        if stale:
            self._give_up(in_flight, Lost("stale", f"no room for it within {self._settings.max_age_s:g} s"))
        else:
            self._publish(in_flight)

    def outstanding(self, stream: str) -> int:
        """Return how many chunks of a stream wait for their ack."""
        with self._changed:
            return self._per_stream[stream]

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until no chunk waits for its ack any more; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_flight and not self._confirming, timeout_s)

    def forget(self, stream: str) -> None:
        """Drop a stream's chunks: whoever listens to it next begins at its cursor and sends them again."""
        with self._changed:
            for in_flight in [p for p in self._in_flight.values() if p.stream == stream]:
                self._remove(in_flight)
            self._confirming = deque(p for p in self._confirming if p.stream != stream)

    def stuck_stage(self, stream: str) -> str:
        """Name the stage that holds a stream's oldest chunk: broker, featurizer or inference."""
        if not self._mqtt.connected:
            return "broker"
        with self._changed:
            mine = [p for p in self._in_flight.values() if p.stream == stream]
        if any(in_flight.refused or not in_flight.with_broker for in_flight in mine):
            return "broker"
        return "inference" if any(in_flight.featurized for in_flight in mine) else "featurizer"

    def _has_credit(self, stream: str) -> bool:
        return (
            self._per_stream[stream] < self._settings.credits_per_stream
            and len(self._in_flight) + len(self._confirming) < self._settings.credits
        )

    def _stale(self, in_flight: InFlightChunk) -> bool:
        # By the monotonic clock: the wall clock may be set while we run, and that must lose nothing.
        return in_flight.live and time.monotonic() - in_flight.heard > self._settings.max_age_s

    def _publish(self, in_flight: InFlightChunk) -> None:
        if not self._mqtt.connected:
            # It waits here, not in the bus: there it could not be taken back when it grows too old, and over a long
            # outage of the broker the audio of live streams would fill the memory.
            in_flight.unsent = True
            return
        SENT.labels("first" if in_flight.attempts == 1 else "again").inc()
        in_flight.with_broker = in_flight.unheard = False
        message = in_flight.chunk.to_message(self._topics, in_flight.attempts)
        self._mqtt.publish(message, lambda receipt: self._received(in_flight, receipt))

    def _received(self, in_flight: InFlightChunk, receipt: Receipt) -> None:
        """Note the PUBACK. A refusal is a broker's setting to put right: the chunk stays and is tried again."""
        in_flight.with_broker = True
        heard = receipt.reached_someone and (self._reader is None or not self._reader.missing())
        in_flight.unheard = not heard
        in_flight.refused = not receipt.accepted
        if heard and not self._someone_listens:
            self._probe_factor = 1.0
        self._someone_listens = heard
        if not receipt.accepted and in_flight.attempts in (1, 4, 16, 64):
            log.error(
                "the broker refused chunk %s: %s; check this user's rights and the broker's size limits",
                in_flight.id,
                receipt.text,
            )

    # --- acks ------------------------------------------------------------------------------------------------------

    def _acked(self, delivery: Delivery) -> None:
        """Take an ack (network thread)."""
        self._mqtt.ack(delivery)
        try:
            ack = Ack.from_message(delivery.message)
        except ContractError as error:
            log.warning("an ack on %s is ignored: %s", self.reply_to, error)
            return
        with self._changed:
            in_flight = self._in_flight.get(ack.chunk)
            if in_flight is None:
                # Acked before, or given up: a duplicate is harmless. That one came tells that the first copy was only
                # slow: learn it, or a busy pipeline would get ever more copies (Karn's rule alone never learns that).
                needless_s = self._sent_again.pop(ack.chunk, None)
                if needless_s is not None and ack.outcome == "done":
                    self._timer.learn(needless_s)
                return
            if ack.outcome == "featurized":
                in_flight.featurized = True
                return
            self._remove(in_flight)
            now = time.monotonic()
            if in_flight.attempts == 1:
                self._timer.learn(now - in_flight.first_sent)
            else:
                self._sent_again[ack.chunk] = now - in_flight.first_sent
                while len(self._sent_again) > MOST_REMEMBERED:
                    self._sent_again.popitem(last=False)
            self._newest_acked = max(self._newest_acked, in_flight.last_sent)
            self._last_ack = now
            self._probe_factor = 1.0
            in_flight.acked_at = now
            # Whoever said dead has published the dead letter; here it only becomes a loss in the ledger.
            in_flight.outcome = None if ack.outcome == "done" else Lost("dead", ack.reason or "no reason given")
            self._confirming.append(in_flight)
        ACK_SECONDS.observe(now - in_flight.first_sent)
        if self._settings.confirm_s == 0:
            self._confirmed(now)

    # --- confirming ------------------------------------------------------------------------------------------------

    def _confirm(self) -> None:
        """Take back acks that their broker did not outlive; ask the broker for a sign of life for those that are due.

        A broker that dies takes with it what it accepted but had not written to a reader, the results among it: an ack
        alone does not prove that anyone got them.
        """
        now, generation = time.monotonic(), self._mqtt.generation
        with self._changed:
            if generation != self._generation:
                self._generation, self._syncing = generation, False
                for in_flight in self._confirming:
                    in_flight.last_sent, in_flight.with_broker = 0.0, True
                    self._in_flight[in_flight.id] = in_flight
                    self._per_stream[in_flight.stream] += 1
                self._confirming.clear()
                return
            due = self._confirming and now - self._confirming[0].acked_at >= self._settings.confirm_s
            if not due or self._syncing:
                return
            self._syncing = True
        until = now - self._settings.confirm_s
        self._mqtt.sync(lambda: self._confirmed(until))

    def _confirmed(self, until: float) -> None:
        """Settle what was acked up to a time: the broker has lived on since."""
        ripe: list[InFlightChunk] = []
        with self._changed:
            self._syncing = False
            while self._confirming and self._confirming[0].acked_at <= until:
                ripe.append(self._confirming.popleft())
            self._changed.notify_all()
        for in_flight in ripe:
            self._settled(in_flight, in_flight.outcome)

    def _remove(self, in_flight: InFlightChunk) -> None:
        del self._in_flight[in_flight.id]
        self._per_stream[in_flight.stream] -= 1
        OUTSTANDING.set(len(self._in_flight))
        self._changed.notify_all()

    # --- sending again ---------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Send again what is overdue, give up what is hopeless or stale; call it a few times a second."""
        self._confirm()
        now, connected = time.monotonic(), self._mqtt.connected
        hopeless: list[tuple[InFlightChunk, Lost]] = []
        repeat, unsent = list[InFlightChunk](), list[InFlightChunk]()
        with self._changed:
            timeout_s, waiting = self._timer.timeout_s, list[InFlightChunk]()
            for in_flight in self._in_flight.values():
                if self._stale(in_flight):
                    hopeless.append((in_flight, Lost("stale", f"no result within {self._settings.max_age_s:g} s")))
                elif not connected:
                    continue  # nothing can be sent, so nothing may count as unanswered
                elif in_flight.unsent:
                    unsent.append(in_flight)
                elif in_flight.unheard and now - in_flight.last_sent > UNHEARD_S:
                    (repeat if self._someone_listens else waiting).append(in_flight)
                elif in_flight.overdue(now, timeout_s):
                    if self._newest_acked > in_flight.last_sent:
                        in_flight.overtaken += 1
                        if in_flight.overtaken >= self._settings.give_up_after:
                            reason = f"unanswered {in_flight.attempts} times while others were"
                            hopeless.append((in_flight, Lost("no-answer", reason)))
                        else:
                            repeat.append(in_flight)
                    else:
                        waiting.append(in_flight)
            if now - self._last_ack < timeout_s and self._someone_listens:
                waiting = []  # acks still come, in order: what waits is queued, not lost
            if waiting and not repeat and now >= self._probe_at:
                repeat.append(min(waiting, key=lambda in_flight: in_flight.last_sent))
                wait_s = timeout_s if self._someone_listens else UNHEARD_S
                self._probe_at = now + wait_s * self._probe_factor
                self._probe_factor = min(2 * self._probe_factor, self._settings.ack_timeout_max_s / wait_s)
            for in_flight, _ in hopeless:
                self._remove(in_flight)
            for in_flight in repeat:
                in_flight.attempts += 1
                in_flight.last_sent = now
            for in_flight in unsent:
                in_flight.unsent, in_flight.last_sent = False, now
        for in_flight in unsent + repeat:
            self._publish(in_flight)
        for in_flight, lost in hopeless:
            self._give_up(in_flight, lost)

    def _give_up(self, in_flight: InFlightChunk, lost: Lost) -> None:
        log.warning("chunk %s is lost: %s", in_flight.id, lost.reason)
        letter = dead_letter(in_flight.chunk, lost.reason, self._fetcher, self._topics)
        self._mqtt.publish(Message(self._topics.dead, letter.to_json(), content_type="application/json"))
        self._settled(in_flight, lost)
