"""The environment wins over the file, section by section and key by key; what it says is checked like the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.errors import UsageError
from services.settings import loading
from services.settings.environment import over
from services.settings.schema import Settings


def made(values: dict[str, object], **environ: str) -> Settings:
    return loading.checked(over(values, environ, Settings), "test")


def test_a_variable_wins_over_the_file_and_leaves_the_keys_beside_it() -> None:
    found = made({"broker": {"host": "a", "port": 1884}}, GENRE_BROKER__HOST="b", GENRE_LOG__JSON_LINES="true")
    assert (found.broker.host, found.broker.port, found.log.json_lines) == ("b", 1884, True)


def test_numbers_paths_and_nested_sections_are_read_as_their_types() -> None:
    found = made({}, GENRE_HLS__SEGMENT_RETRY__ATTEMPTS="7", GENRE_FETCHER__MAX_AGE_S="2.5", GENRE_PATHS__STATE_DIR="/")
    assert (found.hls.segment_retry.attempts, found.fetcher.max_age_s) == (7, 2.5)
    assert found.paths.state_dir == Path("/")


def test_lists_and_sections_are_json_and_a_key_wins_over_its_section() -> None:
    found = made(
        {"broker": {"root": "mine"}},
        GENRE_BROKER__PORT="99", GENRE_BROKER='{"port": 1, "host": "b"}', GENRE_DASHBOARD__HOSTS='["a.b"]',
        GENRE_STREAMS='[{"name": "s", "url": "https://example.org/s.m3u8"}]',
    )  # fmt: skip
    assert (found.broker.root, found.broker.host, found.broker.port) == ("mine", "b", 99)
    assert found.dashboard.hosts == ("a.b",) and found.streams[0].name == "s"


def test_the_name_is_read_in_either_case_and_variables_of_others_are_left_alone() -> None:
    found = made({}, genre_broker__host="b", GENRE_CONFIG="/etc/genre.toml", GENRE_WEB="1", PATH="/bin")
    assert found == made({"broker": {"host": "b"}})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("GENRE_BROKER__PORT", "abc", r"broker\.port = 'abc': .*integer"),
        ("GENRE_BROKER__PRT", "1", r"broker\.prt: is not a setting; did you mean 'port'"),
        ("GENRE_BROKER__PORT__X", "1", r"broker\.port"),
        ("GENRE_BROKER", "localhost", r"GENRE_BROKER: is not JSON"),
        ("GENRE_STREAMS", '[{"na', r"GENRE_STREAMS: is not JSON"),
        ("GENRE_STREAMS", "3", r"streams = 3"),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        made({}, **{name: text})


def test_the_configuration_is_light_to_import() -> None:
    code = "import sys, services.settings; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"pydantic_settings", "asyncio", "numpy"} & set(done.stdout.split())
