"""Numbers and names as people read them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Literal

Tone = Literal["good", "warn", "bad", "busy", "idle"]
"""How a fact feels: its colour, and the sign before it for those who do not see colours."""

DASH = "–"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


def percent(share: float | None, digits: int = 1) -> str:
    """0.9534 as `95.3 %`."""
    return DASH if share is None else f"{share * 100:.{digits}f} %"


def signed_points(gain: float | None) -> str:
    """A difference of shares as percentage points: `+1.2`."""
    return DASH if gain is None else f"{gain * 100:+.1f}"


def count(number: float | None) -> str:
    """Thousands with thin spaces: `12 345`."""
    return DASH if number is None else f"{number:,.0f}".replace(",", "\u202f")


def rate(per_second: float | None) -> str:
    if per_second is None:
        return DASH
    return f"{per_second:.1f}" if per_second < 100 else count(per_second)


def milliseconds(microseconds: float | None) -> str:
    """Microseconds as milliseconds with as many digits as matter."""
    if microseconds is None:
        return DASH
    value = microseconds / 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def short(digest: str | None) -> str:
    """The first characters of a digest."""
    return digest.removeprefix("sha256:")[:12] if digest else ""


def seconds(duration: str | float | None, default: float = 0.0) -> float:
    """`1h30m` as 5400; the resource's own spelling, already checked by the operator."""
    if duration is None or isinstance(duration, (int, float)):
        return default if duration is None else float(duration)
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(duration))


def span(length: float) -> str:
    """Seconds in the largest unit that fits: `45 s`, `12 min`, `5 h`, `3 d`."""
    if length < 120:
        return f"{length:.0f} s"
    if length < 7200:
        return f"{length / 60:.0f} min"
    if length < 172_800:
        return f"{length / 3600:.0f} h"
    return f"{length / 86_400:.0f} d"


def iso(milliseconds_since_1970: float) -> str:
    """RFC 3339 in UTC; what a `<time>` element carries."""
    moment = datetime.fromtimestamp(milliseconds_since_1970 / 1000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def epoch_ms(timestamp: str | None) -> int | None:
    """RFC 3339 back to milliseconds."""
    return int(datetime.fromisoformat(timestamp).timestamp() * 1000) if timestamp else None


def moment_of(request_id: str) -> str:
    """When a request was made: its id begins with the milliseconds."""
    return iso(int(request_id.partition("-")[0]))


def number(text: str | float | None) -> float | None:
    """A printed number of the status; None for what is none."""
    try:
        value = float(text) if text not in {None, "", "-"} else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def words(reason: str) -> str:
    """`TooFewLabels` as `Too few labels`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", reason)
    return spaced[:1] + spaced[1:].lower() if spaced else ""


def wilson(correct: int, labels: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); the whole range without labels."""
    if labels <= 0:
        return 0.0, 1.0
    share, square = correct / labels, z * z / labels
    middle, wide = share + square / 2, z * math.sqrt(share * (1 - share) / labels + square / labels / 4)
    return (middle - wide) / (1 + square), (middle + wide) / (1 + square)
