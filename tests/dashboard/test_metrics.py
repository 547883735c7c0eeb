from __future__ import annotations

import time

import pytest

from services.dashboard import metrics
from services.dashboard.metrics import Metrics
from services.dashboard.state import live_state
from services.dashboard.state.live_state import LiveState
from services.settings.schema import Stream
from tests.dashboard.pretend import ledger, result


def test_a_removed_stream_leaves_the_metrics_with_all_its_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_state, "REMOVED_S", -1.0)
    state = LiveState(30.0)
    told = Metrics(state)
    both = tuple(Stream(name=name, url="https://example.org/x.m3u8") for name in ("kept", "gone"))
    state.configured(both)
    for name in ("kept", "gone"):
        told.count(result(name))
        state.result(result(name), time.time(), 0.0)
        state.ledger(ledger(name, 60))
    assert b'stream="gone"' in told.text() and b'genre_results_total{genre="jazz"' in told.text()
    state.configured(both[:1])
    state.turn()
    text = told.text()
    assert b'stream="gone"' not in text and text.count(b'stream="kept"') > 5


def test_however_many_streams_the_bus_names_the_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_SERIES", 20)
    state = LiveState(30.0)
    told = Metrics(state)
    for number in range(100):
        each = result(f"radio{number}")
        told.count(each)
        state.result(each, time.time(), 0.0)
    text = told.text().decode()
    assert text.count("genre_results_total{") == 21 and 'stream="other"} 80.0' in text
