"""The faults: each is applied to one target, lasts a while, and is undone. Start at `plan`, then `Fault`."""

from __future__ import annotations

import contextlib
import itertools
import random
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
import psutil

from tests.chaos.pipeline import Pipeline

LINK_FAULTS = ("cut", "delay", "half-open", "drip")
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@dataclass(frozen=True)
class Fault:
    """One fault of the plan.

    Attributes:
        after_s: pause since the one before; often shorter than what that one lasts, so that several act at once.
        lasts_s: until it is undone.
        amount: what the kind needs: seconds of delay, bytes a second, seconds of clock error.
    """

    number: int
    kind: str
    target: str
    after_s: float
    lasts_s: float
    amount: float = 0.0


def plan(seed: int, services: list[str], *, triton: bool, pace_s: float = 0.5) -> Iterator[Fault]:
    """Yield faults for ever; the same seed yields the same."""
    draw = random.Random(seed)
    workers = [name for name in services if not name.startswith("fetcher")]
    links = [*services, "origin", *(["triton"] if triton else [])]
    kinds = {
        "kill": 8,
        "stop": 6,
        "terminate": 4,
        "kill-broker": 1.5,
        "stop-broker": 1,
        "cut": 5,
        "delay": 3,
        "half-open": 2,
        "drip": 2,
        "full-disk": 2,
        "clock": 2,
        "duplicate": 3,
        "reorder": 2,
        "denied-member": 2,
        "scale": 2,
        **({"kill-triton": 1, "kill-model": 3, "stop-triton": 1, "stop-model": 2} if triton else {}),
    }
    names, weights = list(kinds), list(kinds.values())
    for number in itertools.count(1):
        kind = draw.choices(names, weights)[0]
        target, amount, lasts_s = "", 0.0, draw.uniform(0.1, 2.0)
        if kind == "kill":
            target = draw.choice(services)
        elif kind == "stop":
            target = draw.choice(services)
            lasts_s = draw.choice([0.3, 1.0, 3.0, 12.0])
        elif kind == "terminate":
            target = draw.choice(workers)
        elif kind in LINK_FAULTS:
            target = draw.choice(links)
            amount = {"delay": draw.uniform(0.02, 0.4), "drip": draw.uniform(2_000, 60_000)}.get(kind, 0.0)
            lasts_s = draw.uniform(0.1, 8.0) if kind == "half-open" else lasts_s
        elif kind in ("kill-broker", "stop-broker"):
            target = "broker"
        elif kind == "kill-triton":
            target, lasts_s = "triton", 0.1
        elif kind in ("kill-model", "stop-model", "stop-triton"):
            target = "triton"
        elif kind == "scale":
            target, lasts_s = draw.choice(["featurizer", "inference"]), draw.uniform(4.0, 12.0)
        elif kind == "full-disk":
            target = "fetcher-1"
        elif kind == "clock":
            lasts_s = draw.uniform(2.0, 8.0)  # the broker follows within a second
            target, amount = "clock", draw.choice([-86_400.0, -3_600.0, -30.0, 30.0, 3_600.0, 86_400.0])
        elif kind == "denied-member":
            target = draw.choice(["featurizer", "inference"])
        after_s = draw.expovariate(1 / pace_s)
        yield Fault(number, kind, target, round(after_s, 3), round(lasts_s, 3), round(amount, 3))


def resource_of(fault: Fault) -> str:
    """What a fault holds while it lasts: no second one may touch it."""
    if fault.kind in LINK_FAULTS:
        return f"link {fault.target}"
    return fault.target or fault.kind


def apply(fault: Fault, pipeline: Pipeline) -> Callable[[], None] | None:
    """Do it; return what undoes it, or None where it could not be done (its target is not up)."""
    if fault.kind in LINK_FAULTS:
        proxy = pipeline.proxies[fault.target]
        proxy.set(fault.kind, fault.amount)
        return lambda: proxy.set("")
    if fault.kind == "clock":
        pipeline.clock.set(fault.amount)
        return lambda: pipeline.clock.set(0.0)
    if fault.kind in ("duplicate", "reorder"):
        copier = Copier(pipeline.ports["broker"], reorder=fault.kind == "reorder", seed=fault.number)
        return copier.close
    if fault.kind == "denied-member":
        return DeniedMember(pipeline, fault.target).close
    if fault.kind == "scale":
        name = f"{fault.target}-extra{fault.number}"
        pipeline.scale_out(name)
        return lambda: pipeline.scale_in(name)
    return _to_process(fault, pipeline)


def _to_process(fault: Fault, pipeline: Pipeline) -> Callable[[], None] | None:
    process = pipeline.process(fault.target)
    if process is None:
        return None
    child = pipeline.children[fault.target]
    if fault.kind == "full-disk":
        # Without its first cursor a fetcher sends all the same, and begins another timeline if it is killed then.
        pipeline.recorder.most_timelines += 1
        process.rlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))
        return lambda: None if not process.is_running() else process.rlimit(resource.RLIMIT_FSIZE, UNLIMITED)
    if fault.kind in ("stop", "stop-broker", "stop-triton"):
        child.signal(signal.SIGSTOP)
        return lambda: child.signal(signal.SIGCONT)
    if fault.kind in ("kill-model", "stop-model"):
        return _to_model(fault, process)
    pipeline.held.add(fault.target)
    child.signal(signal.SIGTERM if fault.kind == "terminate" else signal.SIGKILL)

    def again() -> None:
        assert child.process is not None
        if fault.kind == "terminate":
            child.process.wait(30)
        child.process.wait(10)
        child.start()
        pipeline.held.discard(fault.target)

    return again


def _to_model(fault: Fault, triton: psutil.Process) -> Callable[[], None] | None:
    """Kill or stop Triton's model processes."""
    hit: list[psutil.Process] = []
    for each in triton.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # a zombie has no command line
            if "python_backend_stub" in " ".join(each.cmdline()):
                each.send_signal(signal.SIGKILL if fault.kind == "kill-model" else signal.SIGSTOP)
                hit.append(each)

    def undo() -> None:
        for each in hit:
            with contextlib.suppress(psutil.Error):
                each.resume()

    return undo if hit else None


class Copier:
    """Publishes copies of the chunks and tensors that pass by: at once, or later and in another order."""

    def __init__(self, port: int, *, reorder: bool, seed: int) -> None:
        self._draw = random.Random(seed)
        self._reorder, self._kept = reorder, deque[Any](maxlen=40)
        self._sent: set[bytes] = set()
        self._lock = threading.Lock()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"copier-{seed}", protocol=mqtt.MQTTv5)
        self._client.suppress_exceptions = True
        self._client.on_message = self._copy
        self._client.on_connect = lambda client, *rest: client.subscribe([("genre/pcm/+", 1), ("genre/mel/+/+", 1)])
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    def _copy(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        chunk = message.topic.encode() + bytes(getattr(message.properties, "CorrelationData", b""))
        if chunk in self._sent or len(self._sent) > 200:
            return
        self._sent.add(chunk)
        if self._reorder:
            self._kept.append(message)
        else:
            client.publish(message.topic, message.payload, 1, False, message.properties)

    def close(self) -> None:
        """Send what is kept, in another order, and go."""
        kept = list(self._kept)
        self._draw.shuffle(kept)
        waits = [self._client.publish(m.topic, m.payload, 1, False, m.properties) for m in kept]
        for info in waits:
            try:
                info.wait_for_publish(2)
            except (RuntimeError, ValueError):
                break
        self._client.disconnect()
        self._client.loop_stop()


class DeniedMember:
    """A member of a group that takes its share and does nothing: what an ACL that denies reading makes of a replica."""

    def __init__(self, pipeline: Pipeline, service: str) -> None:
        topic = "genre/pcm/+" if service == "featurizer" else "genre/mel/musicnn/+"
        group = "featurizer-musicnn" if service == "featurizer" else f"inference-{pipeline.shape.model}"
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"denied-{service}", protocol=mqtt.MQTTv5)
        self._client.suppress_exceptions = True
        self._client.on_connect = lambda client, *rest: client.subscribe(f"$share/{group}/{topic}", 1)
        self._client.connect_async("127.0.0.1", pipeline.ports["broker"])
        self._client.loop_start()

    def close(self) -> None:
        """Leave the group."""
        self._client.disconnect()
        self._client.loop_stop()
