"""What featurizer and inference replicas share: take a message, work, publish, and only then acknowledge.

A delivery's PUBACK goes out after every outgoing message got a good one. What can never succeed goes to `genre/dead`
and its chunk is acked as dead; what can't succeed now waits in hand and is tried again. Not here: the work itself
(`Process`), which is a function of one message. Start at `Worker`.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from services.contract.acks import Ack
from services.contract.messages import ContractError, Dead, Message
from services.mqtt.client import MqttClient
from services.mqtt.receipts import Receipt
from services.mqtt.subscriptions import Delivery
from services.process.lifecycle import ServiceProcess
from services.process.readers import ASIDE, ReaderWatch
from services.settings.schema import Worker as WorkerSettings
from services.text import clean, utc

log = logging.getLogger(__name__)

RETRY_MIN_S, RETRY_MAX_S = 0.1, 5.0
ASIDE_S = 10.0
"""A replica that can't get on for this long leaves the share to the others until it can again."""
STUCK_S = 30.0
"""A single call of the work function that takes longer than this is a hang: the watchdog then ends the process."""
INBOX_BYTES = 200_000_000
"""These messages should wait in the broker, but Mosquitto 2.0.11 sends up to Receive Maximum messages for each ack
(measured). The fetchers' credits limit both together; this limits a hostile publisher."""
RECEIPT_TURN_S = 0.25
READER_TURN_S = 0.4
IDLE_S = 0.2
"""Between an ack and the next message that the broker holds for this session; a drain waits so long to be sure."""

DONE = Counter("genre_messages_total", "Messages taken from the bus, by outcome", ["service", "outcome"])
SECONDS = Histogram(
    "genre_stage_seconds",
    "Time a stage spends on one message",
    ["service"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
IN_HAND = Gauge("genre_in_hand", "Messages taken and not yet acknowledged", ["service"])
RETRIES = Counter("genre_retries_total", "Tries that failed for now, by reason", ["service", "reason"])


class Unavailable(Exception):  # noqa: N818  # a state of the world, not a defect of the message
    """The work can't be done now; the same message may succeed later."""


@dataclass(frozen=True)
class Work:
    """What one message turns into.

    Attributes:
        out: messages that must be accepted before the ack; where `needs_reader`, each must also reach a session, and
            the worker's reader must be there.
        last: messages that are sent once all of `out` were accepted.
    """

    out: list[Message]
    last: list[Message]
    needs_reader: bool = False


Process = Callable[[Message], Work]


class Worker:
    """Takes messages of one shared subscription and works on them in a few threads.

    Args:
        share: filter of the shared subscription, `$share/<group>/<filter>`.
        process: the work; called from several threads at once. Raises ContractError for what can never succeed and
            Unavailable for what can't now.
        reader: who must be there for work that `needs_reader`; None: whoever is subscribed.
    """

    def __init__(
        self,
        lifecycle: ServiceProcess,
        mqtt: MqttClient,
        settings: WorkerSettings,
        share: str,
        process: Process,
        reader: ReaderWatch | None = None,
    ) -> None:
        self._lifecycle, self._mqtt, self._settings = lifecycle, mqtt, settings
        self._reader = reader
        self._share, self._process = share, process
        self._inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._inbox_bytes = 0
        self._inbox_lock = threading.Lock()
        self._busy_since: dict[int, float] = {}
        self._blocked: dict[int, float] = {}
        self._aside = self._draining = False
        self._aside_lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, name=f"work-{i}", daemon=True) for i in range(settings.receive_maximum)
        ]

    def start(self) -> None:
        """Subscribe and begin."""
        for thread in self._threads:
            thread.start()
        if self._reader is not None:
            self._reader.start()
        self._mqtt.subscribe(self._share, self._take)

    def healthy(self) -> bool:
        """Whether every thread is alive and none has hung in the work function."""
        now = time.monotonic()
        stuck = [since for since in self._busy_since.copy().values() if now - since > STUCK_S]
        return not stuck and all(thread.is_alive() for thread in self._threads)

    def drain(self) -> None:
        """Take no more, finish what is in hand within drain_s; what is left is sent again by the fetcher."""
        with self._aside_lock:
            self._draining = True
        self._mqtt.unsubscribe(self._share)
        now = idle_since = time.monotonic()
        deadline = now + self._settings.drain_s
        while now < deadline and now - idle_since < IDLE_S:
            time.sleep(0.02)
            now = time.monotonic()
            if self._busy_since or not self._inbox.empty():
                idle_since = now
        self._stop.set()

    # --- one message -----------------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        """Hand a delivery to the threads (network thread)."""
        if delivery.qos == 0 or delivery.message.retain:
            # The contract is QoS 1, not retained; QoS 0 would escape Receive Maximum and grow without bound.
            DONE.labels(self._lifecycle.service, "ignored").inc()
            self._mqtt.ack(delivery)
            return
        size = len(delivery.message.payload)
        with self._inbox_lock:
            room = self._inbox_bytes + size <= INBOX_BYTES
            if room:
                self._inbox_bytes += size
        if room:
            self._inbox.put(delivery)
        else:
            # Far more than Receive Maximum: the fetcher sends it again.
            DONE.labels(self._lifecycle.service, "overflow").inc()
            self._mqtt.ack(delivery)

    def _loop(self) -> None:
        me = threading.get_ident()
        while not self._stop.is_set():
            try:
                delivery = self._inbox.get(timeout=0.5)
            except queue.Empty:
                continue
            with self._inbox_lock:
                self._inbox_bytes -= len(delivery.message.payload)
            if not self._mqtt.is_current(delivery):
                continue  # its connection is gone: the broker or the fetcher sends it again
            self._busy_since[me] = time.monotonic()
            IN_HAND.labels(self._lifecycle.service).inc()
            try:
                self._handle(delivery)
            except Exception as error:
                log.exception("work failed on a message of %s", delivery.message.topic)
                self._finish(delivery, self._burial(delivery.message, f"{type(error).__name__}: {error}"), "dead")
            finally:
                self._unblocked()
                IN_HAND.labels(self._lifecycle.service).dec()
                self._busy_since.pop(me, None)

    def _handle(self, delivery: Delivery) -> None:
        pause = RETRY_MIN_S
        while not self._stop.is_set():
            started = time.monotonic()
            self._busy_since[threading.get_ident()] = started
            try:
                if not self._may_answer(delivery.message.response_topic or ""):
                    raise ContractError("Response Topic is not an ack topic of this root")
                work, outcome = self._process(delivery.message), "done"
            except ContractError as error:
                work, outcome = self._burial(delivery.message, str(error)), "dead"
            except Unavailable as error:
                if pause == RETRY_MIN_S:
                    log.warning("waiting: %s", error)
                RETRIES.labels(self._lifecycle.service, "unavailable").inc()
                if not self._mqtt.is_current(delivery):
                    return
                self._blocked_by(str(error))
                self._stop.wait(pause)
                pause = min(2 * pause, RETRY_MAX_S)
                continue
            SECONDS.labels(self._lifecycle.service).observe(time.monotonic() - started)
            self._finish(delivery, work, outcome)
            return

    def _finish(self, delivery: Delivery, work: Work, outcome: str) -> None:
        """Publish, wait for every PUBACK, then acknowledge; what the broker does not take is offered again.

        It ends without an ack where the connection that brought the delivery is gone: the broker or the fetcher then
        sends it again.
        """
        pause = RETRY_MIN_S
        left, last = work.out, work.last
        while not self._stop.is_set() and self._mqtt.is_current(delivery):
            missing = self._reader.missing() if work.needs_reader and self._reader is not None else ""
            if missing:
                if pause == RETRY_MIN_S:
                    log.warning("waiting: %s", missing)
                RETRIES.labels(self._lifecycle.service, "no reader").inc()
                pause = self._pause(pause, READER_TURN_S)
                continue
            receipts = self._publish_all(left, delivery)
            good = [r.reached_someone if work.needs_reader else r.accepted for r in receipts]
            left = [message for message, taken in zip(left, good, strict=True) if not taken]
            if not left:
                receipts = self._publish_all(last, delivery)
                last = [message for message, receipt in zip(last, receipts, strict=True) if not receipt.accepted]
                if not last:
                    self._mqtt.ack(delivery)
                    DONE.labels(self._lifecycle.service, outcome).inc()
                    return
            problem = next((r for r in receipts if not r.accepted), receipts[0])
            RETRIES.labels(self._lifecycle.service, "refused").inc()
            if pause == RETRY_MIN_S:
                log.warning("the broker did not take on a message: %s", problem.text)
            if not problem.accepted:
                self._blocked_by(f"the broker refuses what it publishes: {problem.text}")
            pause = self._pause(pause, RETRY_MAX_S)

    def _pause(self, pause_s: float, longest_s: float) -> float:
        """Wait before the next try; return how long to wait before the one after it."""
        self._busy_since[threading.get_ident()] = time.monotonic()
        self._stop.wait(pause_s)
        return min(2 * pause_s, longest_s)

    def _blocked_by(self, reason: str) -> None:
        """Note that a thread can't get on; step aside where that lasts, so that other replicas get all new work."""
        me, now = threading.get_ident(), time.monotonic()
        since = self._blocked.setdefault(me, now)
        with self._aside_lock:
            if now - since < ASIDE_S or self._aside or self._draining or self._stop.is_set():
                return
            self._aside = True
            log.warning("stepping aside until this is over: %s", reason)
            self._lifecycle.note(ASIDE, clean(reason, 200))
            self._mqtt.unsubscribe(self._share)

    def _unblocked(self) -> None:
        """Note that this thread has nothing left that it can't do; the last one takes the share up again."""
        self._blocked.pop(threading.get_ident(), None)
        with self._aside_lock:
            if not self._aside or self._blocked or self._draining or self._stop.is_set():
                return
            self._aside = False
            log.warning("taking work again")
            self._mqtt.subscribe(self._share, self._take)
            self._lifecycle.note(ASIDE, None)

    def _publish_all(self, messages: list[Message], delivery: Delivery) -> list[Receipt]:
        """Publish and wait for the receipts, in order; code -1 where none can come any more.

        A connection that is up brings every PUBACK or is found dead by its keep-alive: no other limit is needed, and
        none leads to a second copy.
        """
        receipts: list[Receipt | None] = [None] * len(messages)
        missing = set(range(len(messages)))
        done = threading.Semaphore(0)

        def keeper(index: int) -> Callable[[Receipt], None]:
            def keep(receipt: Receipt) -> None:
                receipts[index] = receipt
                missing.discard(index)
                if not missing:  # one wake for all: each more hands the interpreter's lock to and fro
                    done.release()

            return keep

        for index, message in enumerate(messages):
            self._mqtt.publish(message, keeper(index))
        me = threading.get_ident()
        while missing and not done.acquire(timeout=RECEIPT_TURN_S):
            self._busy_since[me] = time.monotonic()
            if self._stop.is_set() or not self._mqtt.is_current(delivery):
                break
        return [receipt or Receipt(-1, "the connection was lost") for receipt in receipts]

    def _may_answer(self, reply_to: str) -> bool:
        """Only ever answer under the acks of this root: a hostile Response Topic must not make us write elsewhere."""
        prefix = self._lifecycle.topics.acks("")
        return re.fullmatch(re.escape(prefix) + r"[^+#/\0]+", reply_to) is not None

    def _burial(self, message: Message, reason: str) -> Work:
        """Return the dead letter for a message, and the ack that tells the fetcher, where it can be told."""
        chunk = (message.correlation or b"").decode(errors="replace")[:200]
        log.error("a message of %s can't be processed: %s; see %s", message.topic, reason, self._lifecycle.topics.dead)
        letter = Dead(
            at=utc(time.time()),
            service=self._lifecycle.service,
            instance=self._lifecycle.instance,
            topic=message.topic,
            reason=reason[:500],
            chunk=chunk,
            payload_bytes=len(message.payload),
            payload_sha256=hashlib.sha256(message.payload).hexdigest(),
        )
        reply_to = message.response_topic or ""
        acks = [Ack(chunk, "dead", reason).to_message(reply_to)] if self._may_answer(reply_to) and chunk else []
        return Work([Message(self._lifecycle.topics.dead, letter.to_json(), content_type="application/json")], acks)
