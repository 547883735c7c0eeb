"""What a stream goes through in a month: origins that go away, lists that end and live on, ids that come once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.fetcher.delivery.checkpoint import Checkpoints
from services.settings.schema import Stream
from tests.fetcher.builders import media_playlist, needs_ffmpeg
from tests.fetcher.lives import Life
from tests.fetcher.origin import Reply, ScriptedOrigin

pytestmark = needs_ffmpeg
Lives = Callable[..., Life]


class Station:
    """A live list of a folder's segments at the origin."""

    def __init__(self, origin: ScriptedOrigin, folder: Path) -> None:
        self.origin = origin
        self.names = [line for line in (folder / "list.m3u8").read_text().splitlines() if line and line[0] != "#"]
        origin.serve(folder)
        self.stream = Stream(name="radio", url=origin.url("/live.m3u8"))

    def show(self, first: int, last: int, end: bool = False, offset: int = 0, target: float = 0.1) -> None:
        text = media_playlist(self.names[first : last + 1], first=first + offset, end=end, target=target)
        self.origin.put("/live.m3u8", text)


@pytest.fixture
def station(origin: ScriptedOrigin, made: Any) -> Station:
    return Station(origin, made("ts-aac", seconds=16.0))


@pytest.fixture
def life(tmp_path: Path, station: Station) -> Iterator[Lives]:
    lives: list[Life] = []

    def begin(stream: Stream | None = None, **changes: Any) -> Life:
        lives.append(Life(tmp_path, stream or station.stream, **changes))
        return lives[-1]

    yield begin
    for one in lives:
        one.end()
        assert not one.task.alive


def test_an_origin_that_is_away_for_long_is_alarmed_and_heard_again_when_it_is_back(
    station: Station, life: Lives
) -> None:
    station.show(0, 2)
    one = life(dead_after_s=0.3)
    one.until(lambda: one.sender.chunks, "the first chunk")
    station.origin.put("/live.m3u8", Reply(b"maintenance", 503))
    one.until(lambda: "503" in one.ledger.failed, "the alarm")
    assert not one.ledger.ended and one.task.alive
    before = station.origin.count("/live.m3u8")
    one.until(lambda: station.origin.count("/live.m3u8") > before + 4, "more tries")
    assert one.kinds().count("error") <= 2, "said when it changes, not at every try"
    station.show(1, 5)
    one.until(lambda: one.ledger.timeline > 9 * 22_050, "what came after it")
    assert "resumed" in one.kinds() and "ended" not in one.kinds()
    assert one.ledger.gap == 0, "all of it was still listed"


def test_a_list_that_stalls_for_long_fails_and_a_restart_listens_again(station: Station, life: Lives) -> None:
    station.show(0, 3)
    one = life(dead_after_s=0.3)
    one.until(lambda: one.ledger.failed, "the alarm")
    one.end()
    again = life(dead_after_s=30.0)
    station.show(1, 5)
    again.until(lambda: again.ledger.timeline > 8 * 22_050, "what came after it")
    assert again.ledger.gap == again.ledger.lost == 0 and not again.ledger.ended


def test_a_list_that_stays_stalled_stays_alarmed_through_every_try(station: Station, life: Lives) -> None:
    """Hearing the same tail again is no recovery."""
    station.show(0, 3)
    one = life(dead_after_s=0.2)
    one.until(lambda: one.ledger.failed, "the alarm")
    before = station.origin.count("/live.m3u8")
    one.until(lambda: station.origin.count("/live.m3u8") > before + 12, "three more tries")
    assert one.ledger.failed and "resumed" not in one.kinds() and one.kinds().count("error") == 1


def test_a_list_that_ended_and_lives_again_is_heard_again(station: Station, life: Lives) -> None:
    station.show(0, 2)
    one = life()
    one.until(lambda: one.sender.chunks, "the first chunk")
    station.show(0, 3, end=True)
    one.until(lambda: one.ledger.ended, "the end")
    ended = one.ledger
    station.show(0, 5)
    one.until(lambda: not one.ledger.ended and one.ledger.timeline > ended.timeline, "what follows")
    assert one.ledger.gap == 0 and one.ledger.timeline_id == ended.timeline_id
    station.show(0, 5, end=True)
    one.until(lambda: one.ledger.ended, "the second end")
    assert one.kinds() == ["started", "ended", "started", "ended"]
    assert len(one.ids) == len(set(one.ids))


def test_an_encoder_that_ended_its_list_and_begins_anew_is_heard_even_after_a_restart(
    station: Station, life: Lives
) -> None:
    station.show(0, 3, end=True, offset=300)
    one = life()
    one.until(lambda: one.ledger.ended, "the end")
    ended = one.end()
    again = life()
    before = station.origin.count("/live.m3u8")
    again.until(lambda: station.origin.count("/live.m3u8") > before + 2, "some looks at the list")
    assert again.ledger.ended and not again.sender.chunks, "the same list is not heard twice"
    station.show(4, 7)
    again.until(lambda: again.ledger.timeline > ended.timeline + 3 * 22_050, "the new list")
    assert not again.ledger.ended and not set(one.ids) & set(again.ids)


def test_a_recorded_list_is_not_looked_at_again(station: Station, life: Lives) -> None:
    text = media_playlist(station.names, head="#EXT-X-PLAYLIST-TYPE:VOD")
    station.origin.put("/live.m3u8", text)
    one = life()
    one.until(lambda: one.ledger.ended and not one.task.alive, "the end")


def test_coming_back_to_a_list_that_went_on_puts_every_second_in_a_column(station: Station, life: Lives) -> None:
    station.show(0, 2)
    one = life(most=1)
    one.until(lambda: not one.task.alive, "its end after one chunk")
    one.end()
    station.show(6, 8, target=2)
    again = life()
    again.until(lambda: again.ledger.timeline > 13 * 22_050, "the list's end")
    ledger = again.ledger
    assert ledger.adds_up and set(ledger.causes) == {"expired"} and ledger.gap > 7 * 22_050


def test_ids_go_on_over_restarts_and_a_renewed_token_and_never_begin_again(
    station: Station, life: Lives, tmp_path: Path
) -> None:
    station.show(0, 5)
    token = {"url": station.origin.url("/live.m3u8?token=one")}
    one = life(station.stream.model_copy(update=token), most=1)
    one.until(lambda: not one.task.alive, "its end after one chunk")
    first = one.end()
    assert "token" not in (tmp_path / "radio.cursor.json").read_text()
    renewed = life(station.stream.model_copy(update={"url": token["url"].replace("one", "two")}))
    renewed.until(lambda: renewed.ledger.timeline > first.timeline, "it goes on")
    assert renewed.ledger.timeline_id == first.timeline_id and not set(one.ids) & set(renewed.ids)
    renewed.end()
    (tmp_path / "radio.cursor.json").write_bytes(b"torn")
    torn = life()
    torn.until(lambda: torn.sender.chunks, "the first chunk of a new timeline")
    assert torn.ledger.timeline_id != first.timeline_id
    assert not set(torn.ids) & {*one.ids, *renewed.ids}, "the same places, other ids"
    assert torn.ids[0].split("/")[2:] == one.ids[0].split("/")[2:]


def test_the_timeline_is_on_disk_before_its_first_chunk_goes_out(station: Station, life: Lives, tmp_path: Path) -> None:
    """Killed at once after it, the stream goes on in the same timeline, where the first chunk began."""
    station.show(0, 5)
    one = life(most=0)
    one.until(lambda: not one.task.alive, "the kill at the first chunk")
    saved = Checkpoints(tmp_path).load("radio", station.stream.url)
    assert saved is not None and saved.ledger.timeline_id == one.ledger.timeline_id
    assert saved.ledger.timeline == 0 and saved.resume_point is not None and saved.resume_point.first_sample == 0


def test_an_encoder_that_began_anew_meanwhile_is_heard_from_its_first_sample(station: Station, life: Lives) -> None:
    """The chunk before the stop reached beyond its resume point: nothing of the new audio may count as heard then."""
    station.show(0, 2, offset=5_000)
    one = life(most=1)
    one.until(lambda: not one.task.alive, "its end after one chunk")
    before = one.end()
    station.show(4, 7, end=True)
    again = life()
    again.until(lambda: again.ledger.ended, "the end")
    first = again.sender.chunks[0].chunk.header
    assert first.first_sample == before.timeline and first.epoch == 1
    heard = again.ledger.timeline - before.timeline
    assert abs(heard - 4 * 2 * 22_050) < 2_000 and again.ledger.gap == again.ledger.lost == 0
