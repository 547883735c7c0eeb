"""Where one way in fails there is another: redundant variants, renditions that decode, sections and keys asked anew."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.errors import GenreError
from services.fetcher.events import Report
from services.fetcher.hls import spares
from services.fetcher.hls.data_uri import data_of
from services.fetcher.hls.rendition import Candidate
from services.fetcher.hls.spares import Spares
from services.fetcher.http.errors import FetchError
from tests.fetcher.builders import Listened, ffmpeg, listen, media_playlist, needs_ffmpeg
from tests.fetcher.hls.test_reader_live import QUICK, TARGET
from tests.fetcher.hls.test_traps import encrypted, names_in
from tests.fetcher.origin import Reply, ScriptedOrigin

pytestmark = needs_ffmpeg


def variant(uri: str, bandwidth: int = 128_000, codecs: str = "mp4a.40.2") -> str:
    named = f',CODECS="{codecs}"' if codecs else ""
    return f"#EXT-X-STREAM-INF:BANDWIDTH={bandwidth}{named}\n{uri}\n"


def multivariant(*variants: str) -> str:
    return "#EXTM3U\n" + "".join(variants)


def switches(heard: Listened) -> list[str]:
    return [report.reason for report in heard.of(Report) if report.kind == "switched"]


# --- redundant variants ---------------------------------------------------------------------------------------------


@pytest.fixture
def backup() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin() as running:
        yield running


@pytest.mark.parametrize(
    "failure", [Reply(b"", 404), Reply(b"", reset=True), Reply(b"<html>")], ids=["404", "reset", "page"]
)
def test_a_redundant_variant_takes_over_when_the_primary_dies_and_nothing_is_lost(
    failure: Reply, made: Any, origin: ScriptedOrigin, backup: ScriptedOrigin
) -> None:
    folder = made("ts-aac", seconds=16.0)
    names = names_in(folder)
    origin.serve(folder)
    backup.serve(folder)
    origin.put("/live.m3u8", [media_playlist(names[:3], target=TARGET, end=False), failure])
    backup.put("/live.m3u8", media_playlist(names[1:6], first=1, target=TARGET))
    origin.put("/main.m3u8", multivariant(variant("live.m3u8"), variant(backup.url("/live.m3u8"))))
    heard = listen(origin.url("/main.m3u8"), **QUICK)
    origin.put("/whole.m3u8", media_playlist(names[:6]))
    assert np.array_equal(heard.pcm(), listen(origin.url("/whole.m3u8")).pcm())
    assert heard.reasons == ["start"] and not heard.gaps and len(switches(heard)) == 1


def test_a_primary_whose_list_stands_still_gives_way_too(
    made: Any, origin: ScriptedOrigin, backup: ScriptedOrigin
) -> None:
    folder = made("ts-aac", seconds=16.0)
    names = names_in(folder)
    origin.serve(folder)
    backup.serve(folder)
    origin.put("/live.m3u8", media_playlist(names[:3], target=TARGET, end=False))
    backup.put("/live.m3u8", media_playlist(names[:5], target=TARGET))
    origin.put("/main.m3u8", multivariant(variant("live.m3u8"), variant(backup.url("/live.m3u8"))))
    heard = listen(origin.url("/main.m3u8"), **QUICK)
    assert heard.ended is not None and heard.reasons == ["start"] and "stalled" in heard.reports
    assert any("nothing new" in reason for reason in switches(heard))


def test_the_way_back_is_tried_later(
    made: Any, origin: ScriptedOrigin, backup: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, "FIRST_WAY_BACK_S", 0.0)
    folder = made("ts-aac", seconds=16.0)
    names = names_in(folder)
    origin.serve(folder)
    backup.serve(folder)
    lists = [media_playlist(names[:n], target=TARGET, end=n == 6) for n in (3, 4, 6)]
    origin.put("/live.m3u8", [lists[0], Reply(b"", 500), lists[2]])
    backup.put("/live.m3u8", lists[1])
    origin.put("/main.m3u8", multivariant(variant("live.m3u8"), variant(backup.url("/live.m3u8"))))
    heard = listen(origin.url("/main.m3u8"), **QUICK)
    assert len(switches(heard)) == 2 and switches(heard)[1].startswith("back to ")
    assert heard.reasons == ["start"] and not heard.gaps


def test_waits_before_the_way_back_double_and_what_was_rejected_is_never_tried() -> None:
    now = [0.0]
    same, other = Candidate("a", "variant", 1), Candidate("c", "variant", 2)
    left = Spares(clock=lambda: now[0])
    assert left.order([same, same, other], 0) == [1]
    left.failures = 3
    assert left.order([same, same, other], 0) == [1, 2]
    left.left()
    assert not left.due(1)
    tries = []
    for now[0] in range(0, 4000, 10):
        tries += [now[0]] if left.due(1) else []
    assert tries[:4] == [60, 180, 420, 900] and tries[5] - tries[4] == 600
    left.rejected.add(1)
    assert left.order([same, same, other], 0) == []


# --- renditions that can't be decoded -------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["video", "dts"])
def test_a_rendition_without_audio_that_decodes_gives_way_to_the_next(
    odd: str, made: Any, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    folder = made("ts-aac")
    origin.serve(folder, "/aac/")
    source = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=6" if odd == "video" else "sine=d=6:r=48000"]
    coder = ["-c:v", "mpeg2video"] if odd == "video" else ["-c:a", "dca", "-strict", "-2"]
    ffmpeg(*source, *coder, "-f", "hls", "-hls_time", "2", "-hls_list_size", "0", str(tmp_path / "list.m3u8"))
    origin.serve(tmp_path, "/odd/")
    main = multivariant(variant("odd/list.m3u8", 60_000, ""), variant("aac/list.m3u8", 140_000, ""))
    origin.put("/main.m3u8", main)
    heard = listen(origin.url("/main.m3u8"))
    assert np.array_equal(heard.pcm(), listen(origin.url("/aac/list.m3u8")).pcm())
    assert heard.reasons == ["start"] and not heard.gaps and len(switches(heard)) == 1
    origin.put("/alone.m3u8", multivariant(variant("odd/list.m3u8", 60_000, "")))
    with pytest.raises(GenreError, match="no audio"):
        listen(origin.url("/alone.m3u8"))


def test_segments_that_only_fail_to_come_reject_no_rendition(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac", seconds=16.0)
    names = names_in(folder)
    origin.serve(folder)
    before = dict.fromkeys(range(4), "#EXT-X-GAP")
    origin.put("/a.m3u8", media_playlist(names[:6], before=before))
    origin.put("/b.m3u8", media_playlist(names[:6]))
    origin.put("/main.m3u8", multivariant(variant("a.m3u8", 60_000), variant("b.m3u8", 140_000)))
    heard = listen(origin.url("/main.m3u8"))
    assert not switches(heard) and heard.reasons == ["gap"] and {gap.cause for gap in heard.gaps} == {"gap-tag"}


# --- initialization sections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["key, map", "map, key", "other key, map, key"])
def test_a_section_is_read_under_the_key_in_force_at_its_tag(order: str, made: Any, origin: ScriptedOrigin) -> None:
    folder = made("fmp4-aac")
    names, vector = names_in(folder), os.urandom(16)
    keys = {"key": os.urandom(16), "other key": os.urandom(16)}
    for name in names:
        origin.put("/" + name, encrypted((folder / name).read_bytes(), keys["key"], vector))
    before = order.split(", ")[order.split(", ").index("map") - 1] if not order.startswith("map") else ""
    section = (folder / "init.mp4").read_bytes()
    origin.put("/init.mp4", encrypted(section, keys[before], vector) if before else section)
    tags = {"map": '#EXT-X-MAP:URI="init.mp4"'}
    for name, key in keys.items():
        origin.put("/" + name.replace(" ", "-"), key)
        tags[name] = f'#EXT-X-KEY:METHOD=AES-128,URI="{name.replace(" ", "-")}",IV=0x{vector.hex()}'
    origin.put("/list.m3u8", media_playlist(names, head="\n".join(tags[name] for name in order.split(", "))))
    origin.serve(folder, "/plain/")
    assert np.array_equal(listen(origin.url("/list.m3u8")).pcm(), listen(origin.url("/plain/list.m3u8")).pcm())


@pytest.mark.parametrize("told", ["#EXT-X-DISCONTINUITY", ""], ids=["discontinuity", "untold"])
def test_another_encoders_section_under_the_same_name_is_asked_for(
    told: str, made: Any, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    """Told by a discontinuity, or only found out because the segments don't decode."""
    old = made("fmp4-aac")
    cut = ["-f", "hls", "-hls_time", "2", "-hls_list_size", "0", "-hls_segment_type", "fmp4"]
    ffmpeg("-f", "lavfi", "-i", "sine=d=6:r=32000", "-c:a", "aac", *cut, str(tmp_path / "list.m3u8"))
    parts = [(old / name).read_bytes() for name in names_in(old)[:2]]
    parts += [(tmp_path / name).read_bytes() for name in names_in(tmp_path)[:2]]
    origin.put("/init.mp4", [(old / "init.mp4").read_bytes(), (tmp_path / "init.mp4").read_bytes()])
    for number, part in enumerate(parts):
        origin.put(f"/{number}.m4s", part)
    head = '#EXT-X-MAP:URI="init.mp4"'
    text = media_playlist([f"{n}.m4s" for n in range(4)], head=head, before={2: told} if told else None)
    origin.put("/list.m3u8", text)
    heard = listen(origin.url("/list.m3u8"))
    assert heard.reasons == ["start", "discontinuity" if told else "map"] and not heard.gaps
    origin.serve(tmp_path, "/new/")
    alone = listen(origin.url("/new/list.m3u8")).pcm()[:80_000]
    assert np.array_equal(heard.pcm(1)[: len(alone)], alone)
    assert origin.count("/init.mp4") == 2


# --- data: URIs, and keys that are odd ------------------------------------------------------------------------------


def as_data(body: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(body).decode()


def test_keys_sections_and_segments_may_be_data_uris(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("fmp4-aac")
    names, key, vector = names_in(folder), os.urandom(16), os.urandom(16)
    origin.serve(folder)
    plain = listen(origin.url("/list.m3u8")).pcm()
    parts = [(folder / name).read_bytes() for name in names]
    for number, part in enumerate(parts):
        origin.put(f"/e{number}", encrypted(part, key, vector))
    head = f'#EXT-X-MAP:URI="{as_data((folder / "init.mp4").read_bytes())}"\n'
    tag = f'#EXT-X-KEY:METHOD=AES-128,URI="{as_data(key)}",IV=0x{vector.hex()}'
    origin.put("/data.m3u8", media_playlist([f"e{n}" for n in range(len(parts))], head=head + tag))
    assert np.array_equal(listen(origin.url("/data.m3u8")).pcm(), plain)
    origin.put("/all.m3u8", media_playlist([as_data(part) for part in parts], head=head))
    assert np.array_equal(listen(origin.url("/all.m3u8")).pcm(), plain)


@pytest.mark.parametrize(
    ("uri", "body"),
    [
        ("data:,abc", b"abc"),
        ("data:;base64,YWJj", b"abc"),
        ("DATA:text/plain;base64,YW%4Aj%0A", b"abc"),
        ("data:application/octet-stream;base64,-_8", b"\xfb\xff"),
        ("data:text/plain;charset=utf-8,a%20b", b"a b"),
    ],
)
def test_a_data_uri_is_its_data(uri: str, body: bytes) -> None:
    assert data_of(uri) == body


@pytest.mark.parametrize("broken", ["data:;base64,SECRET*", "data:SECRET", "data:;base64,SECRETKEYSECRETKEYSECRETKEY"])
def test_no_key_is_ever_in_a_message(broken: str, made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac")
    origin.serve(folder)
    head = f'#EXT-X-KEY:METHOD=AES-128,URI="{broken}"'
    origin.put("/l.m3u8", media_playlist(names_in(folder)[:2], head=head))
    heard = listen(origin.url("/l.m3u8"))
    assert {gap.cause for gap in heard.gaps} <= {"bad-url", "decryption"} and heard.gaps
    assert "SECRET" not in repr(heard.items)
    with pytest.raises(FetchError) as error:
        data_of("data:;base64,SECRET*")
    assert "SECRET" not in repr(error.value)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_key_whose_server_ends_it_with_a_line_is_a_key(ending: bytes, made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac")
    names, key = names_in(folder), os.urandom(16)
    for name in names:
        origin.put("/" + name, encrypted((folder / name).read_bytes(), key, bytes(16)))
    origin.put("/k", key + ending)
    head = f'#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0x{bytes(16).hex()}'
    origin.put("/l.m3u8", media_playlist(names, head=head))
    heard = listen(origin.url("/l.m3u8"))
    assert not heard.gaps and heard.reasons == ["start"] and origin.count("/k") == 1


def test_multivariant_playlists_that_lead_to_one_another_are_followed_but_not_in_circles(
    made: Any, origin: ScriptedOrigin
) -> None:
    origin.serve(made("ts-aac"))
    origin.put("/outer.m3u8", multivariant(variant("inner.m3u8")))
    origin.put("/inner.m3u8", multivariant(variant("video.m3u8", 900_000, "avc1.4"), variant("list.m3u8")))
    heard = listen(origin.url("/outer.m3u8"))
    assert heard.ended and not heard.gaps and heard.pcm().tobytes() == listen(origin.url("/list.m3u8")).pcm().tobytes()
    origin.put("/circle.m3u8", multivariant(variant("circle.m3u8")))
    with pytest.raises(GenreError, match="where a media playlist should be"):
        listen(origin.url("/circle.m3u8"))
    assert origin.count("/circle.m3u8") == 4
