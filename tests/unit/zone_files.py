"""What the zone files themselves say (RFC 8536), read without zoneinfo."""

import struct
from datetime import datetime, timedelta
from importlib import resources

from clockjack import zones


def changes_differ(zone: str, years: range) -> str:
    """Where `zones.changes_of` and the zone's file (RFC 8536) disagree in these years; "" if nowhere.

    The file lists changes up to some instant; from then on a rule in its last line makes two a year, or none.
    """
    data = resources.files("tzdata").joinpath(f"zoneinfo/{zone}").read_bytes()
    start = 0
    for size in (4, 8):  # the second part has the 64-bit times
        utc_flags, std_flags, leaps, times, types, letters = struct.unpack_from(">6l", data, start + 20)
        body, start = start + 44, start + 44 + times * (size + 1) + types * 6 + letters + leaps * (size + 4)
        start += std_flags + utc_flags
    offsets = [struct.unpack_from(">l", data, body + 9 * times + 6 * kind)[0] for kind in range(types)]
    instants = [datetime(1970, 1, 1) + timedelta(seconds=s) for s in struct.unpack_from(f">{times}q", data, body)]
    listed = [offsets[0], *(offsets[kind] for kind in data[body + 8 * times : body + 9 * times])]
    expected = [change for change in zip(instants, listed, listed[1:], strict=False) if change[1] != change[2]]
    last = instants[-1] if instants else datetime.min
    for year in years:
        found = [change for change in zones.changes_of(zone, year)[1:] if change.at.year == year]
        seconds = [(at, before.total_seconds(), after.total_seconds()) for at, before, after in found if at <= last]
        if seconds != [change for change in expected if change[0].year == year]:
            return f"{zone} in {year}: listed changes"
        if year > last.year and len(found) != (2 if b"," in data.splitlines()[-1] else 0):
            return f"{zone} in {year}: {len(found)} changes by rule"
    return ""
