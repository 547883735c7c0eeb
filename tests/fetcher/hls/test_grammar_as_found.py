"""Playlists as servers write them: line ends, quotes, letters, keys that can't be understood, missing numbers."""

from __future__ import annotations

import pytest

from services.fetcher.continuous.detection import what_is
from services.fetcher.hls.continuation import continued
from services.fetcher.hls.encryption import refusal
from services.fetcher.hls.playlist import MediaPlaylist, MultivariantPlaylist, parse
from services.fetcher.hls.playlist_lines import lines_of, text_of
from tests.fetcher.builders import media_playlist


def media(text: str) -> MediaPlaylist:
    playlist = parse(text, "http://h/list.m3u8")
    assert isinstance(playlist, MediaPlaylist)
    return playlist


@pytest.mark.parametrize("odd", ["\u0085", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"])
def test_a_line_ends_at_lf_or_crlf_and_nowhere_else(odd: str) -> None:
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,Air - All{odd}I Need\na{odd}b.ts\n#EXTINF:2,\r\nc.ts\r\n"
    one, two = media(text).segments
    assert one.title.split() == ["Air", "-", "All", "I", "Need"] and two.uri == "http://h/c.ts"
    assert one.uri.startswith("http://h/a%") and one.uri.endswith("b.ts")


def test_letters_that_are_no_utf_8_are_iso_8859_1_and_a_uri_keeps_its_bytes() -> None:
    body = b"#EXTM3U\n#EXTINF:2,Bj\xf6rk - J\xf3ga\nJ\xf3ga.ts\n#EXTINF:2,B\xc3\xa9la - x\nb.ts\n"
    one, two = media(text_of(body)).segments
    assert (one.title, one.uri) == ("Björk - Jóga", "http://h/J%F3ga.ts") and two.title == "Béla - x"
    assert len(media(text_of(media_playlist("ab").encode("utf-16"))).segments) == 2
    assert lines_of("#EXTM3U\r#EXTINF:2,\ra.ts\0\0") == ["#EXTM3U", "#EXTINF:2,", "a.ts"]


def test_tags_in_small_letters_are_tags() -> None:
    text = media_playlist("ab", before={1: '#EXT-X-KEY:METHOD=AES-128,URI="K"'})
    small = "\n".join(
        line.lower() if "KEY" not in line else "#Ext-X-Key:METHOD=AES-128,URI=K" for line in text.split("\n")
    )
    playlist = media(small)
    one, two = playlist.segments
    assert (one.uri, one.duration, one.key) == ("http://h/a", 2.0, None) and playlist.endlist
    assert two.key is not None and two.key.uri == "http://h/K"
    found = what_is(small.encode(), complete=True)
    assert found is not None and found.kind == "hls"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("seg-12:30:05.ts", "http://h/d/seg-12:30:05.ts"),
        ("radio:7.ts?at=1:2", "http://h/d/radio:7.ts?at=1:2"),
        ("day\\1\\a.ts?q=\\", "http://h/d/day/1/a.ts?q=\\"),
        ("HTTP://o/a.ts", "http://o/a.ts"),
        ("//o/a.ts", "http://o/a.ts"),
        ("ftp://o/a.ts", "ftp://o/a.ts"),
        ("data:audio/aac;base64,AA\\", "data:audio/aac;base64,AA\\"),
    ],
)
def test_a_uri_is_what_browsers_make_of_it(written: str, meant: str) -> None:
    [segment] = parse(media_playlist([written]), "http://h/d/list.m3u8").segments  # type: ignore[union-attr]
    assert segment.uri == meant


IV = "0x000000000000000000000000000000ff"


@pytest.mark.parametrize(
    "attributes",
    [
        f'METHOD=AES-128,URI="k",IV={IV}',
        f'METHOD="AES-128",URI="k",IV="{IV}"',
        f"METHOD=AES-128,URI=k,IV={IV}",
        f"METHOD=AES-128,URI='k',IV='{IV}'",
        f'METHOD=aes-128 , URI="k" , IV={IV.upper()}',
        f'METHOD=AES-128,URI="k",IV={IV[2:]},KEYFORMAT=""',
        f'METHOD=AES-128,URI="k",IV={IV},KEYFORMAT=identity,KEYFORMATVERSIONS="1"',
    ],
)
def test_quotes_in_a_key_are_understood_as_players_do(attributes: str) -> None:
    (segment,) = media(media_playlist("a", before={0: f"#EXT-X-KEY:{attributes}"})).segments
    key = segment.key
    assert key is not None and refusal(key) is None
    assert (key.method, key.uri, key.iv) == ("AES-128", "http://h/k", (255).to_bytes(16, "big"))


@pytest.mark.parametrize(
    "tag",
    [
        "#EXT-X-KEY:",
        "#EXT-X-KEY",
        '#EXT-X-KEY:URI="k"',
        '#EXT-X-KEY:METHOD=,URI="k"',
        '#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0xNOHEX',
        '#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0x' + "0" * 40,
        '#EXT-X-KEY:METHOD=AES 128!,URI="k"',
        '#EXT-X-KEY:method=AES-128,uri="k"',
    ],
)
def test_a_key_that_cant_be_understood_is_never_taken_for_clear(tag: str) -> None:
    first, second = media(media_playlist("ab", before={1: tag})).segments
    assert first.key is None and second.key is not None
    assert "can't be understood" in (refusal(second.key) or "")


def test_a_map_is_under_the_key_at_its_tag_whatever_its_segments_are_under() -> None:
    def keys(head: str) -> list[tuple[str | None, str | None]]:
        return [
            (s.map.key.uri[9:] if s.map and s.map.key else None, s.key.uri[9:] if s.key else None)
            for s in media(media_playlist("ab", head=head)).segments
        ]

    key, other = (f'#EXT-X-KEY:METHOD=AES-128,URI="{name}",IV=0x1' for name in "kl")
    section = '#EXT-X-MAP:URI="i.mp4"'
    assert keys(f"{section}\n{key}") == [(None, "k")] * 2
    assert keys(f"{key}\n{section}") == [("k", "k")] * 2
    assert keys(f"{key}\n{section}\n{other}") == [("k", "l")] * 2
    assert keys(f"{key}\n{section}\n#EXT-X-KEY:METHOD=NONE") == [("k", None)] * 2


def test_unquoted_and_quoted_attributes_of_renditions_and_variants() -> None:
    text = """#EXTM3U
#EXT-X-MEDIA:TYPE="audio",GROUP-ID=g,NAME=He said \\"hi\\",LANGUAGE=en,DEFAULT="yes",URI=a.m3u8
#EXT-X-STREAM-INF:BANDWIDTH="64000",CODECS=mp4a.40.2,AUDIO=g
v.m3u8
"""
    playlist = parse(text.replace('NAME=He said \\"hi\\"', 'NAME="He said \\"hi\\""'), "http://h/")
    assert isinstance(playlist, MultivariantPlaylist)
    (rendition,), (variant,) = playlist.renditions, playlist.variants
    assert (rendition.group_id, rendition.uri, rendition.default) == ("g", "http://h/a.m3u8", True)
    assert rendition.name == "He said 'hi'" and rendition.language == "en"
    assert (variant.bandwidth, variant.codecs, variant.audio) == (64_000, ("mp4a.40.2",), "g")


@pytest.mark.parametrize("date", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2100-01-01"])
def test_a_date_that_cannot_be_is_none(date: str) -> None:
    text = media_playlist("ab", before={0: f"#EXT-X-PROGRAM-DATE-TIME:{date}"})
    assert [s.program_date_time for s in media(text).segments] == [None, None]


def test_a_discontinuity_that_leaves_a_list_without_its_sequence_number_changes_nothing() -> None:
    before = media(media_playlist("abcd", before={1: "#EXT-X-DISCONTINUITY"}, end=False))
    after = media(media_playlist("cde", first=2, end=False))
    assert [s.discontinuity_sequence for s in after.segments] == [0, 0, 0]
    assert [s.discontinuity_sequence for s in continued(after, before).segments] == [1, 1, 1]
    another = media(media_playlist("xyz", first=2, end=False))
    assert [s.discontinuity_sequence for s in continued(another, before).segments] == [0, 0, 0]


def test_a_delta_update_keeps_the_map_and_the_key_of_what_it_skips() -> None:
    head = '#EXT-X-MAP:URI="i.mp4"\n#EXT-X-KEY:METHOD=AES-128,URI="k"'
    whole = media(media_playlist("abcd", head=head, end=False))
    skip = "#EXT-X-SKIP:SKIPPED-SEGMENTS=3"
    delta = continued(media(media_playlist("def", head=skip, end=False)), whole)
    assert [s.media_sequence for s in delta.segments] == [3, 4, 5]
    assert [(s.map, s.key) for s in delta.segments] == [(whole.segments[3].map, whole.segments[3].key)] * 3
    clear = media(media_playlist("def", head=skip, before={1: "#EXT-X-KEY:METHOD=NONE"}, end=False))
    assert [s.key is None for s in continued(clear, whole).segments] == [False, True, True]
