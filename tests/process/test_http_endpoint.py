"""What Kubernetes asks a service: alive, ready, and its metrics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import requests

from tests.broker.mosquitto import Mosquitto, free_port, wait_for
from tests.chaos.streams import tiny_model


def test_a_service_is_ready_while_it_reaches_its_broker_and_healthy_all_the_time(
    own_mosquitto: Mosquitto, tmp_path: Path
) -> None:
    port, model = free_port(), tiny_model(tmp_path)
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GENRE_METRICS__PORT": str(port),
        "GENRE_BROKER__PORT": str(own_mosquitto.port),
        "GENRE_INFERENCE__MODEL": model,
        "GENRE_INFERENCE__MODELS_DIR": str(tmp_path),
    }
    process = subprocess.Popen([sys.executable, "-m", "services.cli", "featurizer"], env=env, stderr=subprocess.DEVNULL)

    def says(path: str) -> int:
        try:
            return requests.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code
        except requests.ConnectionError:
            return 0

    try:
        wait_for(lambda: says("/readyz") == 200, "ready", 30)
        assert says("/healthz") == 200
        assert "genre_in_hand" in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
        own_mosquitto.kill()
        wait_for(lambda: says("/readyz") == 503, "not ready without a broker")
        assert says("/healthz") == 200, "a restart would not bring the broker back"
        own_mosquitto.start()
        wait_for(lambda: says("/readyz") == 200, "ready again")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
