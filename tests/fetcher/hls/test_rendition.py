"""Which rendition is heard: the cheapest whose audio is good enough."""

from __future__ import annotations

from typing import Any

import pytest

from services.errors import UsageError
from services.fetcher.hls.playlist import MultivariantPlaylist, parse
from services.fetcher.hls.rendition import Choice, choose
from tests.shared_data import shared


def chosen(*lines: str, **more: Any) -> Choice:
    playlist = parse("#EXTM3U\n" + "\n".join(lines), "http://h/main.m3u8")
    assert isinstance(playlist, MultivariantPlaylist)
    return choose(playlist, **more)


def variant(bandwidth: int, codecs: str, uri: str, audio: str = "") -> str:
    group = f',AUDIO="{audio}"' if audio else ""
    return f'#EXT-X-STREAM-INF:BANDWIDTH={bandwidth},CODECS="{codecs}"{group}\n{uri}'


def rendition(group: str, name: str, language: str, uri: str = "", more: str = "") -> str:
    own = f',URI="{uri}"' if uri else ""
    return f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="{group}",NAME="{name}",LANGUAGE="{language}"{own}{more}'


def names(choice: Choice) -> list[str]:
    return [candidate.uri.rpartition("/")[2] for candidate in choice.candidates]


LADDER = [
    variant(3_000_000, "avc1.42,mp4a.40.2", "hi", "g"),
    variant(400_000, "avc1.42,mp4a.40.2", "lo", "g"),
    variant(128_000, "mp4a.40.2", "audio-only"),
    variant(24_000, "mp4a.40.29", "poor"),
]


def test_an_audio_rendition_with_its_own_uri_goes_first() -> None:
    choice = chosen(
        rendition("g", "English", "en", "english", ",DEFAULT=YES"), rendition("g", "French", "fr", "french"), *LADDER
    )
    assert names(choice)[0] == "english" and choice.dearest == 3_000_000


def test_without_one_a_variant_without_video_and_not_below_the_floor() -> None:
    assert names(chosen(*LADDER, min_audio_bps=40_000)) == ["audio-only", "poor", "lo", "hi"]
    assert names(chosen(LADDER[3], min_audio_bps=40_000)) == ["poor"]


def test_else_the_lowest_bandwidth_with_the_video_dropped() -> None:
    choice = chosen(*LADDER[:2])
    assert names(choice) == ["lo", "hi"] and "video dropped" in choice.candidates[0].why


def test_a_rendition_without_uri_is_in_the_variant_itself() -> None:
    assert names(chosen(rendition("g", "English", "en"), *LADDER[:2])) == ["lo", "hi"]


@pytest.mark.parametrize(
    ("prefer", "first"), [("French", "french"), ("fr", "french"), ("best", "english"), ("g", "english")]
)
def test_prefer_overrides(prefer: str, first: str) -> None:
    lines = [rendition("g", "English", "en", "english", ",DEFAULT=YES"), rendition("g", "French", "fr", "french")]
    assert names(chosen(*lines, *LADDER, prefer=prefer))[0] == first


def test_prefer_best_takes_the_dearest_audio() -> None:
    assert names(chosen(*LADDER, prefer="best"))[0] == "audio-only"
    assert names(chosen(*LADDER[:2], prefer="best"))[0] == "hi"


def test_prefer_that_names_nothing_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match="English"):
        chosen(rendition("g", "English", "en", "english"), *LADDER, prefer="Klingon")


def test_what_cant_be_decoded_is_not_chosen() -> None:
    lines = [
        variant(90_000, "mhm1.0x0D", "mpegh"),
        variant(900_000, "avc1.42", "silent-film"),
        variant(400_000, "avc1.42,ec-3", "dolby"),
    ]
    assert names(chosen(*lines)) == ["dolby"]


def test_the_shared_fmp4_master_gives_its_cheapest_audio() -> None:
    text = shared("data", "hls-playlists", "master-fmp4.m3u8").read_text()
    playlist = parse(text, "http://h/main.m3u8")
    assert isinstance(playlist, MultivariantPlaylist)
    assert "audio rendition" in choose(playlist).candidates[0].why


@pytest.mark.parametrize("codec", ["mp4a.40.42", "mp4a.a9", "mp4a.AC", "mp4a.40.36", "dtsc", "vorbis", "ac-4.02.01.00"])
def test_a_codec_that_is_not_decoded_is_no_choice(codec: str) -> None:
    assert names(chosen(variant(48_000, codec, "odd"), variant(96_000, "mp4a.40.2", "lc"))) == ["lc"]
    groups = [rendition("x", "X", "en", "x", ",DEFAULT=YES"), rendition("lc", "Y", "en", "lc", ",DEFAULT=YES")]
    variants = [variant(10**6, f"avc1.4,{codec}", "v", "x"), variant(2 * 10**6, "avc1.4,mp4a.40.2", "w", "lc")]
    assert names(chosen(*groups, *variants)) == ["lc", "w"]


@pytest.mark.parametrize(
    "codec", ["mp4a.40.02", "mp4a.40.2", "mp4a.40.5", "mp4a.40.29", "mp4a.40.34", "mp4a.6B", "mp4a"]
)
def test_names_of_what_is_decoded_are_known_in_every_spelling(codec: str) -> None:
    assert names(chosen(variant(48_000, codec, "a"))) == ["a"]


def test_the_floor_holds_without_codecs_too_where_a_list_has_no_video() -> None:
    ladder = [f"#EXT-X-STREAM-INF:BANDWIDTH={kbit}000\n{kbit}" for kbit in (24, 48, 96)]
    assert names(chosen(*ladder, min_audio_bps=40_000)) == ["48", "96", "24"]
    assert names(chosen(*ladder)) == ["24", "48", "96"]


def test_a_description_for_the_blind_is_not_heard_before_the_programme() -> None:
    more = ',AUTOSELECT=YES,CHARACTERISTICS="public.accessibility.describes-video"'
    described, plain = rendition("a", "AD", "en", "ad", more), rendition("a", "Main", "en", "main")
    assert names(chosen(described, plain, variant(800_000, "avc1.4,mp4a.40.2", "v", "a"))) == ["main", "ad", "v"]
