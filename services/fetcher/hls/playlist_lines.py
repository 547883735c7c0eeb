"""The lines of a playlist, before m3u8 reads them: the grammar of each tag, variables replaced, broken lines left out.

Pure text in, text out; one bad tag never costs a list. What the tags say is playlist.py. Start at `repaired`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from urllib.parse import parse_qs, quote, urlsplit

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
    "EXT-X-KEY": (),
    "EXT-X-MAP": ("URI",),
    "EXT-X-START": ("TIME-OFFSET",),
    "EXT-X-SERVER-CONTROL": (),
    "EXT-X-SKIP": ("SKIPPED-SEGMENTS",),
    "EXT-X-MEDIA": ("TYPE", "GROUP-ID"),
    "EXT-X-STREAM-INF": (),
}
# What their values are without quotes; whether they stand in quotes is looked at by nobody: encoders err both ways.
_ATTRIBUTES = {
    "BANDWIDTH": r"\d{1,12}",
    "METHOD": r"[A-Za-z0-9-]+",
    "URI": r".+",
    "IV": r"0[xX][0-9A-Fa-f]{1,32}|[0-9A-Fa-f]{32}",
    "KEYFORMAT": r".*",
    "BYTERANGE": r"\d{1,15}(@\d{1,15})?",
    "TIME-OFFSET": r"-?\d{1,9}(\.\d*)?",
    "HOLD-BACK": r"\d{1,9}(\.\d*)?",
    "SKIPPED-SEGMENTS": r"\d{1,9}",
    "TYPE": r"[A-Za-z-]+",
    "GROUP-ID": r".*",
    "NAME": r".*",
    "LANGUAGE": r".*",
    "CHARACTERISTICS": r".*",
    "DEFAULT": "(?i:YES|NO)",
    "AUTOSELECT": "(?i:YES|NO)",
    "CODECS": r".*",
    "AUDIO": r".*",
    "RESOLUTION": r"\d{1,6}x\d{1,6}",
}
# What m3u8 expects in quotes, and what RFC 8216 enumerates in capitals.
_QUOTED = {"URI", "KEYFORMAT", "BYTERANGE", "GROUP-ID", "NAME", "LANGUAGE", "CHARACTERISTICS", "CODECS", "AUDIO"}
_CAPITALS = {"METHOD", "TYPE", "DEFAULT", "AUTOSELECT"}
# A clock that was never set says 1970 or 0001, a broken one 9999.
EARLIEST_YEAR, LATEST_YEAR = 2000, 2100
MOST_LETTERS = 65_536
"""Of a line, unless it is a segment itself (a data: URI)."""
UNREADABLE = "UNREADABLE"
"""The METHOD of a key that can't be understood: never taken for clear."""
_TAG_GRAMMAR = {tag: re.compile(rf"(?:{grammar})\Z") for tag, grammar in _TAGS.items()}
_ATTRIBUTE_GRAMMAR = {name: re.compile(rf"(?:{grammar})\Z") for name, grammar in _ATTRIBUTES.items()}
_ATTRIBUTE = re.compile(
    r"""([A-Z0-9-]{1,64})\s*=\s*("(?:[^"\\]|\\.)*"(?=\s*(?:,|\Z))|"[^"]*"|'[^']*'(?=\s*(?:,|\Z))|[^",]*)"""
)
# What Python, and with it m3u8, takes for the end of a line, and RFC 8216 (4.1) does not.
_NO_LINE_ENDS = re.compile("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_AROUND = " \t\r\0\ufeff"
# Some servers forget EXTM3U; a list that names segments or variants is one all the same.
TELLING = re.compile(r"^\s*#(EXTM3U|EXTINF:|EXT-X-STREAM-INF:)", re.MULTILINE | re.IGNORECASE)
_VARIABLE = re.compile(r"\{\$([A-Za-z0-9_-]{1,64})\}")


def text_of(body: bytes) -> str:
    """Decode a playlist: UTF-8, as RFC 8216 has it, UTF-16 where it says so; a line that is neither is ISO-8859-1."""
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return body.decode("utf-16", "replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return "\n".join(map(_line_text, body.split(b"\n")))


def _line_text(line: bytes) -> str:
    """Decode one line; in a URI the server's own bytes count, not their letters."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        if line.lstrip()[:1] != b"#":
            return "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in line)
        return line.decode("latin-1")


def lines_of(text: str) -> list[str]:
    """Cut a playlist into lines: at LF or CRLF (RFC 8216, 4.1); at CR where there is no LF at all."""
    lines = text.split("\n" if "\n" in text else "\r")
    return [_capital(line.strip(_AROUND)) for line in lines]


def _capital(line: str) -> str:
    """Return a tag in capitals: read past, a key in small letters would leave its segments clear."""
    if line[:4].upper() != "#EXT":
        return line
    tag, colon, value = line.partition(":")
    return line if tag.isupper() else tag.upper() + colon + value


def _one_line(line: str) -> str:
    """Return a line that is one for m3u8 too."""
    if line.startswith("#"):
        return _NO_LINE_ENDS.sub(" ", line)
    return _NO_LINE_ENDS.sub(lambda match: quote(match[0]), line)


def variables_of(text: str, uri: str) -> dict[str, str]:
    """Return the variables that a multivariant playlist defines (EXT-X-DEFINE), for the media playlists to import."""
    variables: dict[str, str] = {}
    for _ in defined(lines_of(text), uri, {}, variables):
        pass
    return variables


def defined(
    lines: list[str], uri: str, imported: dict[str, str], defined: dict[str, str] | None = None
) -> Iterator[str]:
    """Yield the lines with {$NAME} replaced (EXT-X-DEFINE, RFC 8216bis 4.4.2.3); unknown names stay."""
    variables = {} if defined is None else defined
    for line in lines:
        if len(line) > MOST_LETTERS and not line.startswith("data:"):
            continue
        if variables and "{$" in line:
            line = _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), line)[:MOST_LETTERS]
        if line.startswith("#EXT-X-DEFINE:"):
            found = {name: _unquoted(value) for name, value in _ATTRIBUTE.findall(line)}
            if "NAME" in found and "VALUE" in found:
                variables[found["NAME"]] = found["VALUE"]
            elif found.get("IMPORT") in imported:
                variables[found["IMPORT"]] = imported[found["IMPORT"]]
            elif "QUERYPARAM" in found:
                variables[found["QUERYPARAM"]] = parse_qs(urlsplit(uri).query).get(found["QUERYPARAM"], [""])[0]
        else:
            yield line


def repaired(lines: Iterator[str]) -> Iterator[str]:
    """Yield only lines that m3u8 reads as RFC 8216 means them.

    A segment without EXTINF gets the target duration seen so far, and a key that we can't use does not hide one of
    the same run that we can (section 4.3.2.4: several keys of different KEYFORMAT stand for one another).
    """
    target, extinf, variant, identity_key = "10", None, False, False
    for line in map(_one_line, lines):
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
                if not _understood(value, attributes):
                    attributes = {"METHOD": UNREADABLE}
                if attributes.get("KEYFORMAT", '""') in ('"identity"', '""'):
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


def attributes_of(line: str) -> dict[str, str]:
    """Return the attributes of a line that `repaired` gave, without quotes."""
    return {name: _unquoted(value) for name, value in _ATTRIBUTE.findall(line.partition(":")[2])}


def _attributes(text: str) -> dict[str, str]:
    """Return the well-formed attributes of an attribute list, with quotes where they belong."""
    found = {}
    for name, value in _ATTRIBUTE.findall(text):
        plain = _unquoted(value)
        grammar = _ATTRIBUTE_GRAMMAR.get(name)
        if grammar is None or not grammar.match(plain):
            continue
        if name in _CAPITALS:
            plain = plain.upper()
        if name == "IV" and plain[:2] not in ("0x", "0X"):
            plain = f"0x{plain}"
        # m3u8 takes a quote inside for the end.
        found[name] = '"' + plain.replace('"', "'") + '"' if name in _QUOTED else plain
    return found


def _unquoted(value: str) -> str:
    """Take quotes off, and the backslashes before quotes inside."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1].replace('\\"', '"')
    return value


def _understood(text: str, attributes: dict[str, str]) -> bool:
    """Say whether an EXT-X-KEY says how to decrypt: a METHOD, and nothing else that could not be read."""
    named = {name for name, _ in _ATTRIBUTE.findall(text)}
    if attributes.get("METHOD") == "NONE":
        return True
    return "METHOD" in attributes and not (named & {"METHOD", "URI", "IV", "KEYFORMAT"}) - attributes.keys()


def whole_target(line: str) -> str:
    """Round a target duration up for m3u8, which reads whole seconds only; encoders write fractions too."""
    tag, _, value = line.partition(":")
    return f"{tag}:{math.ceil(float(value))}" if tag == "#EXT-X-TARGETDURATION" else line


def _date(text: str) -> bool:
    """Say whether this is a date that m3u8 can read on this Python, and of a year in which a stream can be heard."""
    try:
        return EARLIEST_YEAR <= datetime.fromisoformat(text).year < LATEST_YEAR
    except ValueError:
        return False
