"""Hostile streams never crash, hang or blow up the fetcher; here a short run, `make fuzz` is the long one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fetcher_fuzz import watched
from services.fetcher.continuous.detection import what_is
from services.fetcher.continuous.icy import IcyFilter, tags_of
from services.fetcher.continuous.ogg_links import MOST_PAGE_BYTES, OggLinks
from services.fetcher.continuous.station_list import MOST_MIRRORS, mirrors_of
from services.fetcher.media.id3 import Tags
from tests.fetcher.builders import needs_ffmpeg


@needs_ffmpeg
def test_hostile_streams_are_heard_or_end_and_the_positions_add_up() -> None:
    outcome = watched("stations", 0, 150, seed=3)
    assert outcome.inputs == 150 and not outcome.failures


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_have_a_name_or_wait_for_more(data: bytes, complete: bool) -> None:
    found = what_is(data, complete)
    assert found is not None or not complete
    if found:
        assert found.words.isprintable()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.integers(1, 50), st.lists(st.integers(1, 40), max_size=30))
def test_metadata_is_taken_out_the_same_however_the_bytes_are_cut(data: bytes, interval: int, cuts: list[int]) -> None:
    whole = list(IcyFilter(interval).feed(data))
    one, parts, at = IcyFilter(interval), [], 0
    for cut in [*cuts, len(data)]:
        parts += one.feed(data[at : at + cut])
        at += cut
    audio = [b"".join(p for p in each if isinstance(p, bytes)) for each in (whole, parts)]
    assert audio[0] == audio[1]
    assert [p for p in whole if isinstance(p, Tags)] == [p for p in parts if isinstance(p, Tags)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"OggS", b"\0\2", b"\0\0", b"\xff" * 300, b"x" * 40_000, bytes(24)]), max_size=40))
def test_pages_come_out_whole_and_nothing_is_kept_without_bound(parts: list[bytes]) -> None:
    links, out = OggLinks(), bytearray()
    for part in parts:
        links.feed(part)
        while (page := links.next_page()) is not None:
            if page == b"":
                links.next_link()
            out += page
        assert len(links._waiting) <= 2 * MOST_PAGE_BYTES
    assert b"".join(parts).startswith(out)


@pytest.mark.parametrize("kind", ["m3u", "pls", "xspf", "asx"])
@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=400))
def test_any_list_names_at_most_so_many_mirrors(kind: str, data: bytes) -> None:
    entry = {"m3u": b"http://h/%d\n", "pls": b"File=http://h/%d\n", "xspf": b"<location>http://h/%d</location>"}
    body = data + b"\n" + b"".join(entry.get(kind, b"<ref href='http://h/%d'/>") % n for n in range(40))
    mirrors, other = mirrors_of(body, kind, "http://h/list")
    assert len(mirrors) <= MOST_MIRRORS and len(other) <= MOST_MIRRORS
    assert all(url.startswith(("http://", "https://")) for url in mirrors)


@pytest.mark.parametrize(
    ("block", "artist", "title"),
    [
        (b"StreamTitle='A - B';StreamUrl='http://h';\0\0", "A", "B"),
        (b"StreamTitle='A - B'", "A", "B"),
        (b"StreamTitle='It's; here - isn't it';", "It's; here", "isn't it"),
        (b"StreamTitle='just a title';", "", "just a title"),
        ("StreamTitle='Bj\xf6rk - J\xf3ga';".encode("latin-1"), "Björk", "Jóga"),
        ("StreamTitle='Björk - Jóga';".encode(), "Björk", "Jóga"),
        (b"StreamTitle='';", "", ""),
        (b"StreamUrl='x';", "", ""),
        (b"\xff\xfe garbage", "", ""),
    ],
)
def test_titles_of_icy_metadata(block: bytes, artist: str, title: str) -> None:
    assert tags_of(block) == Tags(None, title, artist)
