"""A state folder of commit 7515900 is taken up: nothing is heard twice, and a stream that was declared dead lives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.settings.schema import Stream
from tests.fetcher.builders import media_playlist, needs_ffmpeg
from tests.fetcher.lives import Life
from tests.fetcher.origin import ScriptedOrigin

pytestmark = needs_ffmpeg
FOLDER = Path(__file__).parent / "state_of_7515900"
Taken = Callable[[str, str], Life]


@pytest.fixture
def taken(tmp_path: Path, origin: ScriptedOrigin, made: Any) -> Any:
    """Begin a life over one of the cursors; only the origin's port in it is another one."""
    origin.serve(made("ts-aac", seconds=16.0))
    lives: list[Life] = []

    def begin(name: str, path: str) -> Life:
        body = json.loads((FOLDER / f"{name}.cursor.json").read_text())
        text = body["cursor"].replace("http://127.0.0.1:38813", origin.url(""))
        sealed = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "cursor": text}
        (tmp_path / f"{name}.cursor.json").write_text(json.dumps(sealed))
        lives.append(Life(tmp_path, Stream(name=name, url=origin.url(path))))
        return lives[-1]

    yield begin
    for one in lives:
        one.end()


def test_a_recording_goes_on_where_it_was_with_an_identity_that_stays(taken: Taken, tmp_path: Path) -> None:
    one = taken("recorded", "/list.m3u8")
    one.until(lambda: one.ledger.ended, "the end")
    ledger = one.end()
    assert (ledger.timeline, ledger.classified, ledger.windows) == (353_792, 353_792, 10)
    assert one.sender.chunks[0].chunk.header.first_sample == 66_000, "two windows were settled before"
    saved = json.loads(json.loads((tmp_path / "recorded.cursor.json").read_text())["cursor"])
    assert saved["ledger"]["timeline_id"] == ledger.timeline_id and len(ledger.timeline_id) == 12


def test_a_stream_that_was_heard_to_its_end_is_not_heard_again(taken: Taken) -> None:
    one = taken("finished", "/list.m3u8")
    one.until(lambda: not one.task.alive, "its second end")
    assert one.ledger.ended and one.ledger.windows == 10 and not one.sender.chunks


def test_a_live_stream_that_was_ended_for_silence_is_taken_up_again(taken: Taken, origin: ScriptedOrigin) -> None:
    names = [f"list{number}.ts" for number in range(7)]
    origin.put("/live.m3u8", media_playlist(names, end=False, target=0.1))
    one = taken("dead", "/live.m3u8?token=two")
    one.until(lambda: one.ledger.timeline > 200_000, "what came since")
    assert not one.ledger.ended and one.ledger.gap == one.ledger.lost == 0
