"""What Prometheus is told of the whole pipeline, as seen from the bus: no other part needs an open port for it.

Counted as messages come and read off `LiveState` when asked. Start at `Metrics`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.contract.messages import Result
from services.contract.windows import SAMPLE_RATE
from services.dashboard.state.json_view import PLACES
from services.dashboard.state.live_state import LiveState
from services.process.lifecycle import product_version

MOST_SERIES = 2_000
OTHERS = "other"
"""Stands for the streams beyond that."""


class Metrics(Collector):
    """Registry of the dashboard's /metrics."""

    def __init__(self, live_state: LiveState) -> None:
        self._live_state = live_state
        self._registry = CollectorRegistry(auto_describe=False)
        self._results = Counter(
            "genre_results", "Results seen on the bus", ["stream", "genre", "kind"], registry=self._registry
        )
        self._latency = Histogram(
            "genre_result_latency_seconds",
            "From the last byte of a window's segment to its result",
            buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120),
            registry=self._registry,
        )
        self._series: set[tuple[str, str, str]] = set()
        self._lock = threading.Lock()
        self._registry.register(self)

    def count(self, result: Result) -> None:
        """Count one result; labels are bounded, whatever the bus brings."""
        key = (result.stream, result.genre or "", result.kind)
        with self._lock:
            if key not in self._series and len(self._series) >= MOST_SERIES:
                key = (OTHERS, "", result.kind)
            self._series.add(key)
            self._results.labels(*key).inc()
        self._latency.observe(result.latency_ms / 1000)

    def text(self) -> bytes:
        """Return the exposition; a stream that is no longer shown is no longer in it."""
        shown = {OTHERS, *(view.name for view in self._live_state.views())}
        with self._lock:
            for key in [key for key in self._series if key[0] not in shown]:
                self._series.discard(key)
                self._results.remove(*key)
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what is read off the live state."""
        live_state, now = self._live_state, time.monotonic()
        yield GaugeMetricFamily("genre_broker_connected", "1 while the broker is reached", float(live_state.connected))
        build = GaugeMetricFamily("genre_build_info", "Version of the dashboard", labels=["version"])
        build.add_metric([product_version()], 1)
        yield build
        lag = GaugeMetricFamily("genre_stream_lag_seconds", "Since a stream's last result", labels=["stream"])
        delay = GaugeMetricFamily("genre_stream_latency_seconds", "Latency of its last result", labels=["stream"])
        up = GaugeMetricFamily(
            "genre_stream_up", "1 while it is heard and results come as they should", labels=["stream", "state"]
        )
        confidence = GaugeMetricFamily("genre_stream_confidence", "Smoothed confidence", labels=["stream", "genre"])
        sound = GaugeMetricFamily("genre_stream_kind", "1 for the kind of sound heard now", labels=["stream", "kind"])
        ledger = GaugeMetricFamily("genre_ledger_seconds", "The ledger, by place", labels=["stream", "place"])
        adds_up = GaugeMetricFamily("genre_ledger_adds_up", "1 while every second is accounted for", labels=["stream"])
        for view in live_state.views():
            state = live_state.state(view)
            good = state in ("playing", "silent", "unsure", "waiting")
            up.add_metric([view.name, state], float(good))
            if view.heard_at:
                lag.add_metric([view.name], now - view.heard_at)
                delay.add_metric([view.name], live_state.latencies_s.get(view.name, 0.0))
                confidence.add_metric([view.name, view.verdict.genre or ""], view.verdict.confidence)
                heard = "music" if view.verdict.kind == "unsure" else view.verdict.kind
                for kind in ("music", "speech", "other", "silence"):
                    sound.add_metric([view.name, kind], float(kind == heard))
            if view.ledger is not None:
                adds_up.add_metric([view.name], float(view.ledger.adds_up))
                for place in PLACES:
                    ledger.add_metric([view.name, place], getattr(view.ledger, place) / SAMPLE_RATE)
        yield from (lag, delay, up, confidence, sound, ledger, adds_up)
        parts = GaugeMetricFamily(
            "genre_part_up", "1 while a part is online", labels=["service", "instance", "state", "version", "model"]
        )
        restarts = CounterMetricFamily("genre_part_restarts", "Restarts seen", labels=["service", "instance"])
        for part, count in live_state.parts():
            model = part.details.get("model", "")
            parts.add_metric(
                [part.service, part.instance, part.state, part.version, model], float(part.state == "online")
            )
            restarts.add_metric([part.service, part.instance], count)
        yield parts
        yield restarts
        if live_state.fleet is not None:
            boxes = GaugeMetricFamily("genre_box_up", "1 while a box of the fleet has no problem", labels=["box"])
            for box in live_state.fleet.boxes():
                boxes.add_metric([box.name], float(not box.problem(live_state.stopped_after_s)))
            yield boxes
        yield CounterMetricFamily("genre_duplicates", "Results whose id had been seen", live_state.duplicates)
        alarms = [alarm for alarm in live_state.alarms() if alarm.level == "alarm"]
        yield GaugeMetricFamily("genre_alarms", "Alarms shown on the page now", len(alarms))
