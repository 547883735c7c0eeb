from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.broker.mosquitto import wait_for
from tests.dashboard.conftest import Running
from tests.dashboard.pretend import ledger, result, status

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
PROMTOOL = shutil.which("promtool")
INSIDE = {"genre_stage_seconds_bucket", "genre_chunks_outstanding", "genre_messages_total"}


@pytest.fixture
def exposition(dashboard: Running) -> str:
    dashboard.send(
        result("radio1"), ledger("radio1", 60, gap_s=1), status("fetcher", boot="a"), status("fetcher", boot="b")
    )
    wait_for(lambda: dashboard.stream("radio1").get("ledger"), "radio1")
    return dashboard.get("/metrics").text


def test_rules_and_panels_name_only_metrics_that_exist(exposition: str) -> None:
    there = set(re.findall(r"^(genre_\w+)[ {]", exposition, re.MULTILINE)) | INSIDE
    for file in (
        PROMETHEUS / "rules.yml",
        PROMETHEUS / "rules-test.yml",
        ROOT / "deploy" / "grafana" / "genre-edge.json",
    ):
        named = set(re.findall(r"\bgenre_\w+", file.read_text()))
        assert named <= there, (file.name, named - there)


def test_what_the_panels_need_of_the_services_is_what_they_export() -> None:
    from prometheus_client import REGISTRY

    import services.fetcher.delivery.sender
    import services.process.worker  # noqa: F401

    names = {metric.name for metric in REGISTRY.collect()}
    assert {name.removesuffix("_bucket").removesuffix("_total") for name in INSIDE} <= names


def test_the_grafana_file_is_complete() -> None:
    live_state = json.loads((ROOT / "deploy" / "grafana" / "genre-edge.json").read_text())
    ids = [panel["id"] for panel in live_state["panels"]]
    assert len(ids) == len(set(ids)) > 10
    assert all(panel["targets"][0]["expr"] and panel["title"] for panel in live_state["panels"])
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in live_state["panels"]]
    assert len(places) == len(set(places))


def test_every_alert_has_its_remedy_in_the_runbook() -> None:
    alerts = re.findall(r"alert: (\w+)", (PROMETHEUS / "rules.yml").read_text())
    runbook = (ROOT / "docs" / "operator.md").read_text()
    assert [name for name in alerts if name not in runbook] == []


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize("command", [
    ("check", "rules", "rules.yml"),
    ("check", "config", "--syntax-only", "prometheus.yml"),
    ("test", "rules", "rules-test.yml"),
])  # fmt: skip
def test_prometheus_takes_the_files(command: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    subprocess.run([PROMTOOL, *command], cwd=PROMETHEUS, check=True, timeout=60)


def test_prometheus_takes_the_exposition(exposition: str) -> None:
    if PROMTOOL is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=exposition, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
