"""What is read of a playlist: every shared fixture as its expected result says, and the grammar's dark corners."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urljoin

import pytest

from services.fetcher.hls.playlist import MediaPlaylist, MultivariantPlaylist, PlaylistError, parse
from services.fetcher.hls.playlist_lines import variables_of
from services.fetcher.segment import ByteRange
from tests.fetcher.builders import media_playlist
from tests.shared_data import SHARED, shared

FIXTURES = sorted(path.stem for path in (SHARED / "data" / "hls-playlists").glob("*.m3u8")) or ["(absent)"]
# Where this reader is not what the expected result says, and why.
REFUSED = {
    "empty": "an empty response is a failed load (kept: the old list), not a playlist without segments",
    "iFramesOnly": "I-frames carry no audio",
}
TARGET_DURATION = {
    "manifestExtTTargetdurationNegative": "-10 is no duration; the longest EXTINF stands in: reloads need a pace",
}
NO_DURATION = {
    "multipleTargetDurations": "before any target duration is known a segment counts 10 s, so that a gap has a length",
}


def media(text: str, uri: str = "https://h.example/a/list.m3u8", **more: Any) -> MediaPlaylist:
    playlist = parse(text, uri, **more)
    assert isinstance(playlist, MediaPlaylist)
    return playlist


@pytest.mark.parametrize("name", FIXTURES)
def test_a_shared_playlist_reads_as_expected(name: str) -> None:
    text = shared("data", "hls-playlists", f"{name}.m3u8").read_text()
    expected = json.loads(shared("data", "hls-playlists", f"{name}.json").read_text())
    if name in REFUSED:
        with pytest.raises(PlaylistError):
            parse(text, "http://h/x.m3u8")
        return
    playlist = parse(text, "http://h/x.m3u8")
    if isinstance(playlist, MultivariantPlaylist):
        assert [v.uri.endswith(e["uri"]) for v, e in zip(playlist.variants, expected["playlists"], strict=True)]
        assert [v.bandwidth for v in playlist.variants] == [
            e.get("attributes", {}).get("BANDWIDTH", 0) for e in expected["playlists"]
        ]
        audio = expected.get("mediaGroups", {}).get("AUDIO", {})
        assert {(r.group_id, r.name) for r in playlist.renditions} == {(g, n) for g in audio for n in audio[g]}
        return
    assert playlist.media_sequence == expected.get("mediaSequence", 0)
    assert playlist.endlist == expected.get("endList", False)
    if name not in TARGET_DURATION:
        assert playlist.target_duration == expected["targetDuration"]
    assert len(playlist.segments) == len(expected["segments"])
    for number, (ours, theirs) in enumerate(zip(playlist.segments, expected["segments"], strict=True)):
        assert ours.uri.endswith(theirs["uri"])
        if not (name in NO_DURATION and number == 0):
            assert ours.duration == theirs["duration"]
        assert ours.discontinuity_sequence == theirs["timeline"]
        span = theirs.get("byterange")
        assert ours.byterange == (ByteRange(span["length"], span["offset"]) if span else None)
        if "map" in theirs:
            assert ours.map is not None and ours.map.uri.endswith(theirs["map"]["uri"])
        if "programDateTime" in theirs:
            assert ours.program_date_time == pytest.approx(theirs["programDateTime"] / 1000, abs=0.001)
        key = theirs.get("key")
        assert (ours.key is None) == (key is None)
        if key and ours.key:
            assert (ours.key.method, ours.key.uri) == (key["method"], key["uri"])
            if "iv" in key:
                assert ours.key.iv == b"".join(word.to_bytes(4, "big") for word in key["iv"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("   \n", "empty"),
        ("<!DOCTYPE html><html>", "HTML"),
        ("hello", "no #EXTM3U"),
        ("\0\1\2", "no #EXTM3U"),
        ("#EXTM3U\n" + "s.ts\n" * 100_001, "more than 100,000 segments"),
    ],
)
def test_what_is_no_playlist_is_called_by_name(text: str, says: str) -> None:
    with pytest.raises(PlaylistError, match=says):
        parse(text, "http://h/x.m3u8")


def test_media_and_discontinuity_sequence_number_every_segment() -> None:
    text = media_playlist("abcd", first=7, before={1: "#EXT-X-DISCONTINUITY", 3: "#EXT-X-DISCONTINUITY"})
    text = text.replace("#EXTINF", "#EXT-X-DISCONTINUITY-SEQUENCE:5\n#EXTINF", 1)
    assert [(s.media_sequence, s.discontinuity_sequence) for s in media(text).segments] == [
        (7, 5),
        (8, 6),
        (9, 6),
        (10, 7),
    ]


def test_relative_uris_resolve_against_where_the_list_came_from() -> None:
    uris = [
        s.uri for s in media(media_playlist(["b.ts", "/c.ts", "//i.example/d.ts", "https://j.example/e.ts"])).segments
    ]
    assert uris == [
        "https://h.example/a/b.ts",
        "https://h.example/c.ts",
        "https://i.example/d.ts",
        "https://j.example/e.ts",
    ]


def test_a_byte_range_without_offset_follows_the_one_before() -> None:
    text = media_playlist(
        ["x", "x", "x"], before={0: "#EXT-X-BYTERANGE:10@5", 1: "#EXT-X-BYTERANGE:7", 2: "#EXT-X-BYTERANGE:3"}
    )
    assert [s.byterange for s in media(text).segments] == [ByteRange(10, 5), ByteRange(7, 15), ByteRange(3, 22)]


def test_keys_change_stop_and_carry_their_iv() -> None:
    key = '#EXT-X-KEY:METHOD=AES-128,URI="k{}"'
    before = {0: key.format(1), 2: key.format(2) + ",IV=0x1F", 3: "#EXT-X-KEY:METHOD=NONE"}
    keys = [s.key for s in media(media_playlist("abcd", before=before)).segments]
    assert [k.uri.rpartition("/")[2] if k else None for k in keys] == ["k1", "k1", "k2", None]
    assert [k.iv if k else None for k in keys] == [None, None, (31).to_bytes(16, "big"), None]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_several_keys_for_one_segment_the_one_that_can_be_used_counts(order: tuple[int, int]) -> None:
    tags = ['#EXT-X-KEY:METHOD=AES-128,URI="k"', '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://x",KEYFORMAT="com.apple.x"']
    (segment,) = media(media_playlist("a", before={0: "\n".join(tags[i] for i in order)})).segments
    assert segment.key is not None and segment.key.method == "AES-128"


def test_a_map_holds_until_the_next_and_keeps_the_key_it_stood_under() -> None:
    before = {
        0: '#EXT-X-MAP:URI="i.mp4",BYTERANGE="720@0"',
        2: '#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0x1',
        3: '#EXT-X-MAP:URI="j.mp4"',
    }
    maps = [s.map for s in media(media_playlist("abcd", before=before)).segments]
    assert [m.uri.rpartition("/")[2] for m in maps if m] == ["i.mp4", "i.mp4", "i.mp4", "j.mp4"]
    assert [m.key is not None for m in maps if m] == [False, False, False, True]
    assert maps[0] is not None and maps[0].byterange == ByteRange(720, 0)


def test_program_dates_run_on_by_the_durations_in_between() -> None:
    text = media_playlist("abc", before={0: "#EXT-X-PROGRAM-DATE-TIME:2024-01-01T00:00:00Z"})
    assert [s.program_date_time for s in media(text).segments] == [1704067200.0, 1704067202.0, 1704067204.0]


def test_variables_are_replaced_wherever_they_stand() -> None:
    text = media_playlist(
        ["{$host}/{$other}.ts"],
        head='#EXT-X-DEFINE:NAME="host",VALUE="https://c.example"\n#EXT-X-DEFINE:IMPORT="other"',
    )
    (segment,) = media(text, variables={"other": "o"}).segments
    assert segment.uri == "https://c.example/o.ts"
    query = media_playlist(["{$t}.ts"], head='#EXT-X-DEFINE:QUERYPARAM="t"')
    assert media(query, "http://h/l.m3u8?t=42").segments[0].uri == "http://h/42.ts"
    assert variables_of('#EXTM3U\n#EXT-X-DEFINE:NAME="a",VALUE="b"\n', "http://h/") == {"a": "b"}


def test_low_latency_tags_and_a_delta_update_do_not_disturb() -> None:
    head = '#EXT-X-SKIP:SKIPPED-SEGMENTS=3\n#EXT-X-PART-INF:PART-TARGET=0.3\n#EXT-X-PART:DURATION=0.3,URI="p.mp4"'
    tail = '#EXT-X-PRELOAD-HINT:TYPE=PART,URI="q.mp4"\n#EXT-X-RENDITION-REPORT:URI="../r",LAST-MSN=1\n'
    playlist = media(media_playlist(["d", "e"], first=10, head=head, end=False) + tail)
    assert [s.media_sequence for s in playlist.segments] == [13, 14] and playlist.media_sequence == 10


BAD_TAGS = """#EXT-X-KEY:
#EXT-X-MAP:
#EXT-X-BYTERANGE:x@y
#EXT-X-START:TIME-OFFSET=soon
#EXT-X-PROGRAM-DATE-TIME:2024-13-45T99:99:99Z
#EXT-X-KEY:METHOD=AES-128,URI=unquoted
#EXT-X-DISCONTINUITY-SEQUENCE:-1
#EXT-X-STREAM
#EXTINF:abc,x
#EXT-X-TARGETDURATION:1e999"""


@pytest.mark.parametrize("line", BAD_TAGS.splitlines())
def test_one_bad_tag_never_costs_the_list(line: str) -> None:
    assert len(media(media_playlist("abc", before={1: line})).segments) == 3


def test_every_name_resolves_as_the_rfc_says() -> None:
    bases = [
        "http://h/a/b/list.m3u8?t=1/2#f",
        "https://h",
        "http://h/../x/./y/list.m3u8",
        "http://h/a;b/c;d?e",
    ]
    names = [
        "1.ts",
        "a/b/1.ts",
        "a/../1.ts",
        "./1.ts",
        "../1.ts",
        "/1.ts",
        "//o/1.ts",
        "a//1.ts",
        "1.ts?x=1&y=-2",
        "a..b",
        "1.ts#f",
    ]
    for base in bases:
        for name in names:
            text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{name}\n"
            read = parse(text, base)
            assert isinstance(read, MediaPlaylist)
            assert [segment.uri for segment in read.segments] == [urljoin(base, name)]
