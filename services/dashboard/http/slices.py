"""Where hours and days begin for the person who looks: a local day has 23, 24 or 25 hours. Pure; start at `borders`."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

HOUR_S = 3600.0
LONGEST_ZONE_NAME = 64


def zone_of(name: str | None, offset_s: float | None) -> tzinfo | None:
    """Return a time zone; None, which is this machine's own, where nothing is said.

    Args:
        name: of the IANA database, e.g. Europe/Berlin.
        offset_s: east of UTC, for a name that is not known here: right except on days when the clocks change.

    Raises:
        ValueError: there is no such zone.
    """
    if name:
        try:
            return ZoneInfo(name[:LONGEST_ZONE_NAME])
        except (KeyError, ValueError, OSError):
            if offset_s is not None:
                return zone_of(None, offset_s)
            raise ValueError(f"there is no time zone {name[:LONGEST_ZONE_NAME]!r}") from None
    return timezone(timedelta(seconds=offset_s)) if offset_s is not None else None


def borders(by: str, count: int, now: float, zone: tzinfo | None) -> list[float]:
    """Return the Unix times between the last `count` hours or days, the present one included: count + 1 of them."""
    local = datetime.fromtimestamp(now, zone)
    if by == "hour":
        begin = local.replace(minute=0, second=0, microsecond=0).timestamp()
        # Of the two hours that one name stands for when the clocks are set back, the later one.
        begin += (now - begin) // HOUR_S * HOUR_S
        return [begin + (number + 1 - count) * HOUR_S for number in range(count + 1)]
    first = local.date() - timedelta(days=count - 1)
    midnights = (first + timedelta(days=number) for number in range(count + 1))
    return [datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() for day in midnights]
