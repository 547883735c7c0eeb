"""`genre up` from music to the page: the whole pipeline, with the dashboard as a person gets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
import soundfile

from tests.broker.mosquitto import PROGRAM, free_port, wait_for
from tests.dashboard.conftest import OURS

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")
def test_genre_up_shows_its_streams_and_lets_its_user_pause_one(tmp_path: Path) -> None:
    music, folder = tmp_path / "music", tmp_path / "run"
    music.mkdir()
    time = np.arange(22_050 * 20) / 22_050
    soundfile.write(music / "tone.wav", 0.3 * np.sin(2 * np.pi * 440 * time) * (1 + np.sin(7 * time)) / 2, 22_050)
    port = free_port()
    argv = [sys.executable, "-m", "services.cli", "up", "--music", music, "--backend", "onnx", "--json",
            "--folder", folder, "--port", f"dashboard={port}"]  # fmt: skip
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=err)
    url = f"http://127.0.0.1:{port}"
    try:

        def live_state() -> dict[str, object]:
            assert process.poll() is None, (tmp_path / "err").read_text()
            try:
                found: dict[str, object] = requests.get(url + "/api/board", timeout=5).json()
                return found
            except (requests.ConnectionError, requests.Timeout):  # not up yet, or on a busy machine
                return {}

        def stream() -> dict[str, object]:
            streams = live_state().get("streams") or [{}]
            assert isinstance(streams, list)
            return dict(streams[0]) if streams else {}

        wait_for(lambda: stream().get("window") and stream().get("ledger"), "a result on the page", 90)
        parts = {part["service"] for part in live_state()["parts"]}  # type: ignore[index,attr-defined]
        assert parts >= {"fetcher", "featurizer", "inference", "dashboard"}
        assert url in (tmp_path / "err").read_text()
        session = requests.Session()
        password = (folder / "dashboard-password").read_text().strip()
        assert (folder / "dashboard-password").stat().st_mode & 0o077 == 0
        session.post(url + "/api/login", json={"password": password}, headers=OURS, timeout=10).raise_for_status()
        session.post(url + "/api/streams/tone/pause", json={}, headers=OURS, timeout=10).raise_for_status()
        wait_for(lambda: live_state()["states"] == {"tone": "paused"}, "the pause")
    finally:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "ledger" in json.loads(out.decode().splitlines()[-1])
