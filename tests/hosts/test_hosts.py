"""The short run of `make test-hosts` that belongs to every `make test`: four hosts, one cut off, all upgraded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.rigs.network import why_not
from tests.broker.mosquitto import PROGRAM
from tests.chaos.streams import package, tiny_model, write_music
from tests.hosts import run
from tests.hosts.site import Shape, Site

pytestmark = [pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed"), pytest.mark.timeout(300)]

LASTS_S = 12.0


def test_a_host_cut_off_and_an_upgrade_of_every_service_change_no_result_and_no_ledger(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    music = write_music(tmp_path / "music", {"a": 21.0, "b": 13.0, "c": 17.0})
    models = tmp_path / "models"
    model = tiny_model(models)

    playlists = package(music, tmp_path / "hls", 8, 3)

    def shape(name: str) -> Shape:
        # A core for each host, ahead of what else runs here, where the machine allows it.
        return Shape(tmp_path / name, tmp_path / "hls", playlists, models, model, 1, 2, {"": 1.0})

    def disturb(site: Site) -> dict[str, Any]:
        return {**run.cut_off(3, 2.0)(site), **run.rolling_upgrade(site)}

    undisturbed, reference = run.run("undisturbed", shape("undisturbed"), None)
    disturbed = run.under_load("disturbed", shape("disturbed"), reference, disturb, LASTS_S)
    print(undisturbed, disturbed)
    assert undisturbed.problems == [] and disturbed.problems == []
    assert disturbed.during.pop("load lasted") and len(disturbed.during) == 2 + 4
