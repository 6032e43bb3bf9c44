"""How durations and sizes are written in settings: a number and a unit, never a bare number of who-knows-what."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator

_MS_PER_UNIT = MappingProxyType({"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000})
_BYTES_PER_UNIT = MappingProxyType({"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3})
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB)", re.ASCII)
_LONGEST_MS = 36_500 * 86_400_000


def parse_duration_ms(text: object) -> int:
    """Milliseconds of `50ms`, `2s`, `1.5m`, `10h`, `1d`. Raises ValueError naming the form.

    >>> parse_duration_ms("50ms"), parse_duration_ms("1.5m")
    (50, 90000)
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("a duration with its unit, such as 50ms, 2s, 1m, 10h or 1d")
    milliseconds = float(match[1]) * _MS_PER_UNIT[match[2]]
    if milliseconds != int(milliseconds):
        raise ValueError("a whole number of milliseconds")
    if not 0 < milliseconds <= _LONGEST_MS:
        raise ValueError("a duration longer than 0 and at most 36500d")
    return int(milliseconds)


def format_duration_ms(milliseconds: int) -> str:
    """The shortest form that `parse_duration_ms` reads back.

    >>> format_duration_ms(90_000), format_duration_ms(120_000)
    ('90s', '2m')
    """
    for unit, factor in reversed(tuple(_MS_PER_UNIT.items())):
        if milliseconds % factor == 0:
            return f"{milliseconds // factor}{unit}"
    return f"{milliseconds}ms"


def parse_size_bytes(text: object) -> int:
    """Bytes of `64000B`, `256KiB`, `8MiB`. Raises ValueError naming the form."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("a size with its unit, such as 64000B, 256KiB or 8MiB")
    size = int(match[1]) * _BYTES_PER_UNIT[match[2]]
    if not 0 < size <= 1024**4:
        raise ValueError("a size greater than 0")
    return size


def format_size_bytes(size: int) -> str:
    """The shortest form that `parse_size_bytes` reads back."""
    for unit, factor in reversed(tuple(_BYTES_PER_UNIT.items())):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


class DurationMark:
    """Marks a field as milliseconds, for whoever prints it."""


class SizeMark:
    """Marks a field as bytes, for whoever prints it."""


DurationMs = Annotated[int, BeforeValidator(parse_duration_ms), DurationMark()]
SizeBytes = Annotated[int, BeforeValidator(parse_size_bytes), SizeMark()]
