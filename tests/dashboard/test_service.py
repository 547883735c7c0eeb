"""The dashboard's process: it says that it is well only while all of its threads live."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from services.dashboard import service
from services.dashboard.history.store import History
from services.process import http_endpoint
from services.settings.schema import Broker, Settings
from tests.broker.mosquitto import free_port, wait_for


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dashboard_whose_history_thread_died_is_not_well(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page would answer for months while nothing is kept; systemd's watchdog must start it again."""
    alive: list[Callable[[], bool]] = []
    die = threading.Event()

    def write(*_: object) -> None:
        if die.is_set():
            raise ZeroDivisionError

    monkeypatch.setattr(History, "write", write)
    monkeypatch.setattr(service, "HISTORY_EVERY_S", 1)
    monkeypatch.setattr(http_endpoint, "answer_for", lambda healthy, ready: alive.append(healthy))
    config = Settings.model_validate(
        {"broker": broker.model_dump(), "dashboard": {"port": free_port()}, "paths": {"state_dir": str(tmp_path)}}
    )
    dashboard = service.DashboardService(config, None, "1")
    said: list[bool] = []

    def watch() -> None:
        try:
            wait_for(lambda: bool(alive) and alive[0](), "it is well")
            said.append(True)
            die.set()
            wait_for(lambda: not alive[0](), "it is not")
            said.append(False)
        finally:
            die.clear()  # the last write, as it ends, is in this thread
            dashboard._lifecycle.stop.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    dashboard.run()
    watcher.join()
    assert said == [True, False]
