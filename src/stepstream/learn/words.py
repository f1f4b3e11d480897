"""Numbers as people read them."""

from __future__ import annotations


def counted(n: int, what: str) -> str:
    """1 sequence, 1,000 sequences."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def verb(n: int, one: str, many: str) -> str:
    """Of one, or of several."""
    return one if n == 1 else many


def percent(share: float) -> str:
    """Whole percents, and a digit more near none and all, which are said of none and all alone."""
    if share in {0, 1} or 0.01 <= share <= 0.99:
        return f"{share:.0%}"
    if share < 0.0005:
        return "under 0.1%"
    return "over 99.9%" if share > 0.9995 else f"{share:.1%}"


def fixed(value: float, digits: int) -> str:
    """With so many digits behind the point; what rounds to nothing has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"
