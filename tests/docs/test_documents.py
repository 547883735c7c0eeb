"""Every command and example of the documents for people is run against a real broker and a real dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.contract.messages import Dead, Event, Ledger, Now, Result, Status
from services.dashboard.history.store import History
from services.settings import loading
from services.settings.schema import Broker
from tests.broker.mosquitto import Mosquitto, wait_for
from tests.dashboard.conftest import Running, start_dashboard
from tests.dashboard.pretend import LABELS, Radio, event, ledger, sent, status

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = (
    "configuration.md",
    "dashboard-builder.md",
    "history.md",
    "home-assistant.md",
    "observability.md",
    "operator.md",
)
__all__ = ["start_dashboard"]


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of one language, unindented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def every(language: str) -> list[object]:
    return [pytest.param(text, id=f"{page}:{i}") for page in PAGES for i, text in enumerate(blocks(page, language))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the documents assume it: genre.toml, the programs they call, and a stand-in for systemd's."""
    folder = tmp_path_factory.mktemp("docs")
    programs = folder / "bin"
    programs.mkdir()
    (folder / "genre.toml").write_text(
        f'[inference]\nmodels_dir = "{ROOT}/models"\n[[streams]]\nname = "radio1"\nurl = "https://example.org/1.m3u8"\n'
    )
    (programs / "genre").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m services.cli "$@"\n')
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    # There is no systemd here: the units that a command names must at least be ours.
    units = " ".join(path.name for path in (ROOT / "deploy" / "systemd").glob("genre*"))
    for name in ("systemctl", "journalctl"):
        (programs / name).write_text(
            f"#!{sys.executable}\nimport re, sys\nunits = '{units} mosquitto.service'.split()\n"
            "for word in sys.argv[1:]:\n"
            "    if word.startswith(('genre', 'mosquitto')) and '*' not in word:\n"
            "        unit = re.sub(r'@\\w+', '@', word)\n"
            "        assert any(unit in (u, u.rsplit('.', 1)[0]) for u in units), f'no unit {word}'\n"
        )
    for path in programs.iterdir():
        path.chmod(0o755)
    return folder


@pytest.fixture
def box(
    own_mosquitto: Mosquitto, start_dashboard: Callable[..., Running], folder: Path
) -> Iterator[Callable[[str], str]]:
    """A box in operation; the value makes an example of the documents address it."""
    broker = Broker(port=own_mosquitto.port)
    dashboard = start_dashboard(broker, ("radio1", "radio2"), publish_now=True, publish_flat=True, home_assistant=True)
    History(folder / "state" / "history.db", 30, 10).close()
    config = folder / "genre.toml"
    config.write_text(
        re.sub(r"\A(\[broker\]\nport = \d+\n)?", f"[broker]\nport = {broker.port}\n", config.read_text(), count=1)
    )
    radios = [Radio(name, i) for i, name in enumerate(("radio1", "radio2"))]
    for service in ("fetcher", "featurizer", "inference"):
        dashboard.send(status(service, model="genre-sounds"))
    stop = threading.Event()

    def play() -> None:
        while not stop.wait(0.1):
            for radio in radios:
                things = (radio.next(), ledger(radio.name, radio.at_s), event(radio.name, "gap", seconds=1.0))
                for message in sent(dashboard.topics, *things):
                    dashboard.mqtt.publish(message)

    thread = threading.Thread(target=play)
    thread.start()
    wait_for(lambda: dashboard.state("radio2") in ("playing", "unsure"), "it plays")

    def addressed(text: str) -> str:
        text = text.replace("edge-box.local:8080", dashboard.url.removeprefix("http://"))
        return text.replace("edge-box.local", "127.0.0.1").replace("1883", str(broker.port))

    yield addressed
    stop.set()
    thread.join()


@pytest.mark.timeout(400)  # some forty programs, one after another
def test_every_command_runs(box: Callable[[str], str], folder: Path) -> None:
    needed = [name for name in ("mosquitto_sub", "jq", "curl") if shutil.which(name) is None]
    problems, ran = [], 0
    for page in PAGES:
        for text in blocks(page, "sh"):
            for line in text.replace("\\\n", " ").splitlines():
                if not line.strip() or any(re.search(rf"\b{name}\b", line) for name in needed):
                    continue
                env = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
                done = subprocess.run(["bash", "-o", "pipefail", "-c", box(line)], cwd=folder, env=env,
                                      capture_output=True, text=True, timeout=60)  # fmt: skip
                ran += 1
                # SIGPIPE (141) is how `... | head` ends.
                if done.returncode not in (0, 141):
                    problems.append(f"{page}: {line}: exit {done.returncode}: {done.stderr[-300:]}")
    assert problems == []
    assert ran > 15
    if needed:
        pytest.skip(f"all but those that need {', '.join(needed)} ran")


@pytest.mark.parametrize("index", range(len(blocks("dashboard-builder.md", "python"))))
def test_every_python_example_prints_results(box: Callable[[str], str], folder: Path, index: int) -> None:
    text = box(blocks("dashboard-builder.md", "python")[index])
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.kill()
    assert all(line.strip() for line in lines), process.communicate()[1]


@pytest.mark.parametrize("text", every("toml"))
def test_every_configuration_example_is_valid(text: str) -> None:
    import tomlkit

    assert loading.checked(tomlkit.parse(text).unwrap(), "example")


@pytest.mark.parametrize("text", every("json"))
def test_every_node_red_flow_is_whole(text: str) -> None:
    nodes = json.loads(text)
    ids = {node["id"] for node in nodes}
    for node in nodes:
        assert node["type"] in ("tab", "mqtt-broker", "mqtt in", "switch", "change", "debug")
        for target in (target for wire in node.get("wires", []) for target in wire):
            assert target in ids
        assert node.get("broker", "ge-broker") in (*ids, "edge-box.local")


@pytest.mark.parametrize("text", every("yaml"))
def test_every_home_assistant_example_is_yaml_with_templates_that_render(text: str) -> None:
    yaml = pytest.importorskip("yaml")
    jinja2 = pytest.importorskip("jinja2")
    found = yaml.safe_load(text)
    assert isinstance(found, dict) and ("mqtt" in found or {"triggers", "actions"} <= set(found))

    def templates(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from templates(each)
        elif isinstance(value, str) and "{{" in value:
            yield value

    colours = found["actions"][0].get("variables", {}).get("colours", {}) if "actions" in found else {}
    now = {"genre": "jazz", "state": "online", "confidence": 0.8, "title": "", "artist": ""}
    for template in templates(found):
        rendered = (
            jinja2.Environment(undefined=jinja2.StrictUndefined)
            .from_string(template)
            .render(value_json=now, colours=colours, states=lambda entity: "jazz")
        )
        assert rendered in ("jazz", "online", "[255, 160, 30]")
    assert not colours or set(colours) == set(LABELS)


def test_discovery_templates_say_what_home_assistant_shows() -> None:
    jinja2 = pytest.importorskip("jinja2")
    from services.contract.topics import Topics
    from services.dashboard.home_assistant import device

    labels = (*LABELS, "it's", 'a "b"')
    parts = json.loads(device("ha", Topics(), "radio1", labels, "1", "1", None))["components"]

    def shown(part: str, **changes: object) -> str:
        now = {
            "genre": "jazz",
            "confidence": 0.876,
            "title": "So What",
            "artist": "Miles",
            "state": "playing",
            **changes,
        }
        text: str = jinja2.Environment().from_string(parts[part]["value_template"]).render(value_json=now)
        return text

    assert shown("genre") == "jazz"
    assert shown("genre", genre="it's") == "it's"
    assert shown("genre", genre=None) == shown("genre", genre="{{ 7*7 }}") == "None"
    assert shown("confidence") == "87.6"
    assert shown("track") == "Miles - So What" and shown("track", artist="") == "So What"
    assert len(shown("track", title="x" * 999)) == 255
    assert (shown("problem"), shown("problem", state="stopped")) == ("OFF", "ON")


@pytest.mark.parametrize("model", [Result, Now, Event, Ledger, Status, Dead])
def test_every_field_of_every_message_is_explained_in_the_contracts_words(model: type[Result]) -> None:
    text = (DOCS / "dashboard-builder.md").read_text()
    for name, info in model.model_fields.items():
        assert f"| `{name}` | {info.description} |" in text, f"{model.__name__}.{name}"


def test_the_asyncapi_document_is_valid_by_its_own_parser() -> None:
    web, script = ROOT / "build" / "web", ROOT / "tests" / "dashboard" / "web" / "asyncapi.mjs"
    if shutil.which("node") is None or not (web / "node_modules" / "@asyncapi").is_dir():
        pytest.skip("needs node and @asyncapi/parser: run 'make test-web'")
    (web / script.name).write_text(script.read_text())  # node looks for packages beside the script
    argv = ["node", str(web / script.name), str(DOCS / "contract" / "asyncapi.json")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid: 10 channels" in done.stdout


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", (DOCS / page).read_text()):
            assert (DOCS / target).exists(), f"{page}: {target}"
