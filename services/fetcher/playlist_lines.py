"""The lines of a playlist, before m3u8 reads them: the grammar of each tag, variables replaced, broken lines left out.

Pure text in, text out; one bad tag never costs a list. What the tags say is playlist.py. Start at `mended`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

# What is read of a playlist, and its grammar. A line that does not match is as good as absent; a tag that is not
# here (low-latency parts, ads, date ranges, images) says nothing that audio needs.
_TAGS = {
    "EXTM3U": "",
    "EXTINF": r"\d+(\.\d*)?|\.\d+",
    "EXT-X-TARGETDURATION": r"\d{1,9}(\.\d*)?",
    "EXT-X-MEDIA-SEQUENCE": r"-?\d{1,18}",
    "EXT-X-DISCONTINUITY-SEQUENCE": r"\d{1,18}",
    "EXT-X-DISCONTINUITY": "",
    "EXT-X-ENDLIST": "",
    "EXT-X-I-FRAMES-ONLY": "",
    "EXT-X-GAP": "",
    "EXT-X-PLAYLIST-TYPE": "VOD|EVENT",
    "EXT-X-BYTERANGE": r"\d{1,15}(@\d{1,15})?",
    "EXT-X-PROGRAM-DATE-TIME": r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?",
}
# Tags that are attribute lists: those attributes without which the tag says nothing.
_ATTRIBUTE_TAGS: dict[str, tuple[str, ...]] = {
    "EXT-X-KEY": ("METHOD",),
    "EXT-X-MAP": ("URI",),
    "EXT-X-START": ("TIME-OFFSET",),
    "EXT-X-SERVER-CONTROL": (),
    "EXT-X-SKIP": ("SKIPPED-SEGMENTS",),
    "EXT-X-MEDIA": ("TYPE", "GROUP-ID"),
    "EXT-X-STREAM-INF": (),
}
_ATTRIBUTES = {
    "BANDWIDTH": r"\d{1,12}",
    "METHOD": r"[A-Z0-9-]+",
    "URI": r'".+"',
    "IV": r"0[xX][0-9A-Fa-f]{1,32}",
    "KEYFORMAT": r'".*"',
    "BYTERANGE": r'"\d{1,15}(@\d{1,15})?"',
    "TIME-OFFSET": r"-?\d{1,9}(\.\d*)?",
    "HOLD-BACK": r"\d{1,9}(\.\d*)?",
    "SKIPPED-SEGMENTS": r"\d{1,9}",
    "TYPE": r"[A-Z-]+",
    "GROUP-ID": r'".*"',
    "NAME": r'".*"',
    "LANGUAGE": r'".*"',
    "DEFAULT": "YES|NO",
    "AUTOSELECT": "YES|NO",
    "CODECS": r'".*"',
    "AUDIO": r'".*"',
    "RESOLUTION": r"\d{1,6}x\d{1,6}",
}
_TAG_GRAMMAR = {tag: re.compile(rf"(?:{grammar})\Z") for tag, grammar in _TAGS.items()}
_ATTRIBUTE_GRAMMAR = {name: re.compile(rf"(?:{grammar})\Z") for name, grammar in _ATTRIBUTES.items()}
_ATTRIBUTE = re.compile(r'([A-Z0-9-]{1,64})\s*=\s*("[^"]*"|[^",]*)')
# Some servers forget EXTM3U; a list that names segments or variants is one all the same.
TELLING = re.compile(r"^\s*#(EXTM3U|EXTINF:|EXT-X-STREAM-INF:)", re.MULTILINE)
_VARIABLE = re.compile(r"\{\$([A-Za-z0-9_-]{1,64})\}")


def variables_of(text: str, uri: str) -> dict[str, str]:
    """Return the variables that a multivariant playlist defines (EXT-X-DEFINE), for the media playlists to import."""
    variables: dict[str, str] = {}
    for _ in defined(text.splitlines(), uri, {}, variables):
        pass
    return variables


def defined(
    lines: list[str], uri: str, imported: dict[str, str], defined: dict[str, str] | None = None
) -> Iterator[str]:
    """Yield the lines with {$NAME} replaced (EXT-X-DEFINE, RFC 8216bis 4.4.2.3); unknown names stay."""
    variables = {} if defined is None else defined
    for line in lines:
        if len(line) > 65_536:
            continue
        if variables and "{$" in line:
            line = _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), line)[:65_536]
        if line.startswith("#EXT-X-DEFINE:"):
            found = {name: value.strip('"') for name, value in _ATTRIBUTE.findall(line)}
            if "NAME" in found and "VALUE" in found:
                variables[found["NAME"]] = found["VALUE"]
            elif found.get("IMPORT") in imported:
                variables[found["IMPORT"]] = imported[found["IMPORT"]]
            elif "QUERYPARAM" in found:
                variables[found["QUERYPARAM"]] = parse_qs(urlsplit(uri).query).get(found["QUERYPARAM"], [""])[0]
        else:
            yield line


def mended(lines: Iterator[str]) -> Iterator[str]:
    """Yield only lines that m3u8 reads as RFC 8216 means them.

    A segment without EXTINF gets the target duration seen so far, and a key that we can't use does not hide one of
    the same run that we can (section 4.3.2.4: several keys of different KEYFORMAT stand for one another).
    """
    target, extinf, variant, identity_key = "10", None, False, False
    for line in map(str.strip, lines):
        if not line:
            continue
        if not line.startswith("#"):
            if not variant:
                yield extinf or f"#EXTINF:{target},"
            yield line
            extinf, variant, identity_key = None, False, False
            continue
        tag, _, value = line[1:].partition(":")
        tag, value = tag.strip(), value.strip()
        if tag in _ATTRIBUTE_TAGS:
            attributes = _attributes(value)
            if not all(name in attributes for name in _ATTRIBUTE_TAGS[tag]):
                continue
            if tag == "EXT-X-STREAM-INF":
                attributes.setdefault("BANDWIDTH", "0")
                variant = True
            if tag == "EXT-X-KEY":
                if attributes.get("KEYFORMAT", '"identity"') == '"identity"':
                    identity_key = True
                elif identity_key:
                    continue
            yield f"#{tag}:" + ",".join(f"{name}={value}" for name, value in attributes.items())
        elif tag == "EXTINF":
            duration, _, title = value.partition(",")
            duration = duration.strip() if _TAG_GRAMMAR[tag].match(duration.strip()) else target
            extinf = f"#EXTINF:{duration},{title.strip()}"
        elif tag in _TAG_GRAMMAR and _TAG_GRAMMAR[tag].match(value):
            if tag == "EXT-X-TARGETDURATION":
                target = value
            if tag == "EXT-X-PROGRAM-DATE-TIME" and not _date(value):
                continue
            yield f"#{tag}:{value}" if value else f"#{tag}"


def _attributes(text: str) -> dict[str, str]:
    """Return the well-formed attributes of an attribute list, quotes kept."""
    pairs = {name: value.strip() for name, value in _ATTRIBUTE.findall(text)}
    return {
        name: value
        for name, value in pairs.items()
        if _ATTRIBUTE_GRAMMAR.get(name, _VARIABLE).match(value) or name in ("VALUE", "IMPORT", "QUERYPARAM")
    }


def whole_target(line: str) -> str:
    """Round a target duration up for m3u8, which reads whole seconds only; encoders write fractions too."""
    tag, _, value = line.partition(":")
    return f"{tag}:{math.ceil(float(value))}" if tag == "#EXT-X-TARGETDURATION" else line


def _date(text: str) -> bool:
    """Say whether m3u8 can read this date on this Python."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
