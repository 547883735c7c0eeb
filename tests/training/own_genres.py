"""What a model of a stranger's own four genres says on MQTT: the end of both sessions, of VGG16 and of the heads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.broker.mosquitto import free_port

GENRES = ("fado", "gnawa", "polka", "zouk")
DEADLINE_S = 120
ROOT = Path(__file__).resolve().parents[2]


def hears_it(piece: Path, genre: str, models: Path, folder: Path) -> None:
    """Play a piece to `genre up` with the model "own", and check that each window has its genre and none is lost."""
    playing = folder / "playing"
    playing.mkdir()
    (playing / f"a{piece.suffix}").symlink_to(piece)
    config = folder / "genre.json"
    config.write_text(json.dumps({"inference": {"models_dir": str(models)}}))
    command = [
        sys.executable, "-m", "services.cli", "up", "--music", playing, "--model", "own", "--backend", "onnx",
        "--until-end", "--json", "--config", config, "--folder", folder / "run",
        "--port", f"broker={free_port()}", "--port", f"origin={free_port()}",
    ]  # fmt: skip
    up = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, cwd=ROOT, check=False)
    assert up.returncode == 0, up.stderr
    *results, last = map(json.loads, up.stdout.splitlines())
    (ledger,) = last["ledger"].values()
    assert ledger["lost"] == ledger["gap"] == 0 and len(results) == ledger["windows"] > 0
    assert all(tuple(each["scores"]) == GENRES and each["model"] == "own" for each in results)
    assert {max(each["scores"], key=each["scores"].get) for each in results} == {genre}
