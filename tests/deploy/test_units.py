"""Units, package and scripts without a boot: linted, scored, consistent."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker.systemd_units import UNITS, drop_ins, login_env
from services.errors import UsageError
from services.process.scale import instances, parse, steps
from services.settings import loading

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ROOT / "deploy" / "systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return program


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_exposure_is_at_most_2_0(unit: Path, analyze: str) -> None:
    command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("unit", [*SERVICES, SYSTEMD / "genre.target"], ids=lambda unit: unit.name)
def test_systemd_understands_every_line(unit: Path, analyze: str) -> None:
    command = [analyze, "verify", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if unit.stem.split("@")[0] in line]
    # The programs are where the package puts them, not here.
    assert [line for line in lines if "is not executable" not in line and "not-found" not in line] == []


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_says_ready_is_watched_and_always_returns(unit: Path) -> None:
    assert values(unit, "Type") == ["notify"]
    assert values(unit, "Restart") == ["always"]
    assert values(unit, "StartLimitIntervalSec") == ["0"]
    assert int(values(unit, "WatchdogSec")[0]) <= 60
    assert values(unit, "MemoryMax") and values(unit, "TasksMax") and values(unit, "CPUWeight")
    # Ordered, never required: a broker that is down must not take a service down.
    assert values(unit, "Requires") == values(unit, "BindsTo") == []


def test_services_read_the_installed_configuration() -> None:
    ours = [unit for unit in SERVICES if unit.name != "genre-triton.service"]
    assert all("--config /etc/genre-edge/genre.toml" in values(unit, "ExecStart")[0] for unit in ours)


def test_a_hung_fetcher_is_back_before_a_live_playlist_of_18_s_has_moved_on() -> None:
    unit = SYSTEMD / "genre-fetcher.service"
    assert int(values(unit, "WatchdogSec")[0]) + int(values(unit, "RestartSec")[0]) < 18


def test_each_service_has_an_account_of_its_own() -> None:
    users = [values(unit, "User")[0] for unit in SERVICES]
    made = re.findall(r"^u (\S+)", (ROOT / "deploy/deb/sysusers.conf").read_text(), re.MULTILINE)
    assert sorted(users) == sorted(made)


def test_only_the_fetcher_reaches_the_public_internet() -> None:
    free = [unit.name for unit in SERVICES if values(unit, "IPAddressDeny") != ["any"]]
    assert free == ["genre-fetcher.service"]


def test_the_packaged_configuration_is_valid() -> None:
    config = loading.load(ROOT / "deploy/genre.toml")
    assert config.inference.backend == "onnx"
    card = ROOT / "models" / config.inference.model / "card.json"
    assert card.exists()


@pytest.mark.parametrize("script", ["genre", "genre-edge-setup", "postinst", "prerm", "postrm"])
def test_shell_scripts_are_sound(script: str) -> None:
    path = ROOT / "deploy/deb" / script
    subprocess.run(["sh", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-s", "sh", str(path)], check=True)


def test_without_a_python_the_setup_says_what_to_read_and_the_package_stays_installed(tmp_path: Path) -> None:
    """JetPack 4.6 and 5 have none that is new enough: theirs is unpacked after the package."""
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    shutil.copy2(ROOT / "deploy/find-python", home / "find-python")
    for name in ("sh", "dirname", "basename"):
        (programs / name).symlink_to(shutil.which(name) or "")
    script = tmp_path / "genre-edge-setup"
    script.write_text((ROOT / "deploy/deb/genre-edge-setup").read_text().replace("/usr/lib/genre-edge", str(home)))
    done = subprocess.run(
        ["/bin/sh", str(script)], env={"PATH": str(programs)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "install.md" in done.stderr) == (3, True), done.stderr
    assert "genre-edge-setup || [ $? -eq 3 ]" in (ROOT / "deploy/deb/postinst").read_text()


def test_drop_ins_carry_no_secret(tmp_path: Path) -> None:
    made = drop_ins(Path("/etc/genre-edge/broker"), "edge.local", 8883)
    assert set(made) == {f"{unit}.d/broker.conf" for unit in UNITS.values()} | {
        "mosquitto.service.d/genre-network.conf"
    }
    text = made["genre-inference@.service.d/broker.conf"]
    assert "LoadCredential=inference:/etc/genre-edge/broker/passwords/inference" in text
    # password_file's own name is the credential's: $CREDENTIALS_DIRECTORY/inference is found.
    assert "GENRE_BROKER__PASSWORD_FILE=/etc/genre-edge/broker/passwords/inference" in text
    assert "PASSWORD=" not in login_env(tmp_path, "edge.local", 8883).replace("PASSWORD_FILE=", "")


def test_drop_ins_carry_the_root_and_home_assistants_prefix_of_the_set_up() -> None:
    made = drop_ins(Path("/b"), "edge.local", 8883, "attic/genre", "ha/discovery")
    told = "Environment=GENRE_DASHBOARD__HOME_ASSISTANT_PREFIX=ha/discovery"
    assert [name for name, text in made.items() if told in text] == ["genre-dashboard.service.d/broker.conf"]
    assert all("GENRE_BROKER__ROOT=attic/genre" in text for name, text in made.items() if name.startswith("genre-"))


def test_a_later_drop_in_of_mosquitto_wins_over_the_packages() -> None:
    packaged = next((SYSTEMD / "mosquitto.service.d").iterdir()).name
    written = next(name for name in drop_ins(Path("/b"), "h", 1) if name.startswith("mosquitto")).split("/")[1]
    assert written > packaged


@pytest.mark.parametrize(
    ("wanted", "running", "calls"),
    [
        (1, [1], []),
        (3, [1], [("enable", "--now", "genre-featurizer@2.service", "genre-featurizer@3.service")]),
        (1, [1, 2, 3], [("disable", "--now", "genre-featurizer@2.service", "genre-featurizer@3.service")]),
        (
            2,
            [3],
            [
                ("start", "genre-featurizer@1.service"),
                ("enable", "--now", "genre-featurizer@2.service"),
                ("disable", "--now", "genre-featurizer@3.service"),
            ],
        ),
    ],
)
def test_scaling_starts_new_ones_before_it_stops_old_ones(
    wanted: int, running: list[int], calls: list[tuple[str, ...]]
) -> None:
    assert steps("featurizer", wanted, running) == calls


def test_instances_are_read_from_systemctls_words() -> None:
    listing = "genre-featurizer@2.service loaded active running x\ngenre-featurizer@10.service enabled enabled\n"
    assert instances(listing) == [2, 10]
    assert instances("") == []


@pytest.mark.parametrize(
    "word", ["featurizer", "featurizer=0", "featurizer=65", "featurizer=x", "mosquitto=2", "=3", "featurizer=²"]
)
def test_a_bad_scale_is_named(word: str) -> None:
    with pytest.raises(UsageError):
        parse(word)


@pytest.mark.timeout(400)
def test_the_package_passes_lintian_and_holds_what_it_must(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy/deb/build"), "--out", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    package = done.stdout.strip()
    listing = subprocess.run(["dpkg-deb", "-c", package], check=True, capture_output=True, text=True).stdout
    files = {line.split()[5]: line.split()[0] for line in listing.splitlines()}
    for name in (
        "./etc/genre-edge/genre.toml",
        "./lib/systemd/system/genre.target",
        "./usr/lib/genre-edge/requirements/jetpack4.txt",
        "./usr/lib/genre-edge/models/genre-sounds/card.json",
        "./usr/lib/sysusers.d/genre-edge.conf",
    ):
        assert files[name] == "-rw-r--r--", name
    assert files["./usr/bin/genre"] == "-rwxr-xr-x"
    assert not [name for name in files if "__pycache__" in name or "/tests/" in name or name.startswith("./opt")]
    conffiles = subprocess.run(["dpkg-deb", "-I", package, "conffiles"], check=True, capture_output=True, text=True)
    assert set(conffiles.stdout.split()) == {"/etc/genre-edge/genre.toml", "/etc/genre-edge/mosquitto.conf"}
    if shutil.which("lintian"):
        found = subprocess.run(["lintian", "--fail-on", "error", package], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout
