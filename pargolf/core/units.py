"""Parse and print sizes and times as people write them: `250kB`, `16MB` (decimal), `1MiB`; `90s`, `10m`, `1h30m`.

The byte caps of Parameter Golf are decimal. A letter alone (`1M`) is ambiguous, so it is refused with both readings.
"""

import math
import re

from pargolf.core.errors import UserError

CAP = 16_000_000
"""The byte cap of Parameter Golf: code and compressed weights together."""
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_TIME = re.compile(r"\s*(?:([0-9.]+)\s*h)?\s*(?:([0-9.]+)\s*m)?\s*(?:([0-9.]+)\s*s?)?\s*", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """Parse `250kB`, `1.5MB`, `1MiB`, `16000000`, `16,000,000` to bytes. Raises `UserError` on anything else."""
    match = _SIZE.fullmatch(str(text))
    unit = match[2].lower() if match else ""
    if unit in ("k", "m", "g"):
        assert match is not None
        number, letter = match[1], unit.upper().replace("K", "k")
        decimal, binary = (round(float(number.replace(",", "")) * _SIZES[f"{unit}{end}"]) for end in ("b", "ib"))
        raise UserError(
            f"'{text}' may be {number}{letter}B, {decimal:,} bytes, or {number}{unit.upper()}iB, {binary:,}. Write one."
        )
    if match is None or unit not in _SIZES:
        raise UserError(f"'{text}' is no size. Write bytes as 250kB, 1MB or 16000000 (decimal), or 1MiB.")
    size = float(match[1].replace(",", "").replace("_", "")) * _SIZES[unit]
    if not 1 <= size <= 2**53 or size != round(size):
        raise UserError(f"'{text}' is no whole number of bytes from 1 up.")
    return round(size)


def parse_seconds(text: str | float, *, none: bool = False) -> float:
    """Parse `90`, `90s`, `10m`, `1h30m` to seconds. Raises `UserError` on anything else, and on 0 unless `none`."""
    match = _TIME.fullmatch(str(text))
    try:
        parts = [float(part) if part else 0.0 for part in match.groups()] if match and any(match.groups()) else []
    except ValueError:
        parts = []
    seconds = sum(part * unit for part, unit in zip(parts, (3600.0, 60.0, 1.0)))
    if not parts or not 0 <= seconds < math.inf or (seconds == 0 and not none):
        raise UserError(f"'{text}' is no time. Write seconds as 90s, 10m, 1h or 1h30m.")
    return seconds


def size_text(size: int) -> str:
    """Print a size in the largest decimal unit that is not above it: `250 kB`, `16 MB`."""
    for unit in ("GB", "MB", "kB"):
        scale = _SIZES[unit.lower()]
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"


def time_text(seconds: float) -> str:
    """Print a time: `45 s`, `10 min`, `1 h 30 min`."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{minutes} min" if not hours else f"{hours} h" + (f" {rest} min" if rest else "")
