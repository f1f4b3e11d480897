"""Cells of a record as what they stand for: a number, a flag, a time, a key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from stepstream.errors import InputError
from stepstream.limits import MAX_KEY_BYTES

FLOAT32_MAX = float(np.finfo(np.float32).max)
MAX_SECONDS = 1e11  # the year 5138; in milliseconds it is March 1973
_TRUE = {"1", "true", "t", "yes", "y"}
_FALSE = {"0", "false", "f", "no", "n", ""}


def field(fields: Mapping[str, Any], name: str) -> Any:
    """The value of a column that has to be there."""
    if name not in fields:
        raise InputError(f"expected a column {name!r}, got {list(fields)}")
    return fields[name]


def number(value: Any, name: str) -> float:
    """A feature, as float32 can hold it: true and false, in any case, are 1 and 0; raises InputError."""
    try:
        result = _float(value)
    except (TypeError, ValueError, OverflowError):
        if (text := str(value).strip().lower()) in {"true", "false"}:
            return float(text == "true")
        raise InputError(f"expected a number in {name!r}, got {value!r}") from None
    if not abs(result) <= FLOAT32_MAX:  # NaN too
        raise InputError(f"expected a finite number in {name!r}, within float32, got {value!r}")
    return result


def flag(value: Any, name: str) -> bool:
    """True or false, in the usual spellings; empty is false."""
    text = "" if value is None else str(value).strip().lower()
    if text not in _TRUE | _FALSE:
        raise InputError(f"expected true or false in {name!r}, got {value!r}")
    return text in _TRUE


def key(value: Any, name: str) -> str:
    """A stream's key as text, as it is saved and printed, so that 1, 1.0 and "1" are one stream; raises InputError."""
    if type(value) is str and value.isascii() and 0 < len(value) <= MAX_KEY_BYTES and "\0" not in value:
        return value  # nearly all
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise InputError(f"expected a key in UTF-8 in {name!r}, got {value!r}") from None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # a column of integers with gaps arrives as floats
    if (
        value is None
        or isinstance(value, bool | list | dict)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        raise InputError(f"expected a key in {name!r}, a text or a number, got {'none' if value is None else value}")
    text = str(value)
    # many tools end a text at NUL, and a lone half of a surrogate pair has no UTF-8
    if not text or "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise InputError(f"expected a key in {name!r}, a text that can be saved, got {text!r}")
    if len(text) > MAX_KEY_BYTES or len(text.encode()) > MAX_KEY_BYTES:
        raise InputError(f"expected a key in {name!r} of at most {MAX_KEY_BYTES} bytes, got {text[:40]!r}...")
    return text


def seconds(value: Any) -> float:
    """Epoch seconds or ISO 8601 (without a zone: UTC) -> seconds since 1970; raises InputError.

    A plain number is always seconds, so that a date needs its dashes: 20260101 is a day in August 1970.
    """
    expected = f"expected a time in ISO 8601 or epoch seconds, got {str(value)[:60]!r}"
    try:
        result = value if isinstance(value, datetime) else _float(value)
    except OverflowError:
        raise InputError(expected) from None
    except (TypeError, ValueError):
        text = str(value).strip()
        try:
            # Python takes any character between date and time, unprintable ones too
            result = datetime.fromisoformat(text if text.isascii() else "")
        except ValueError:
            raise InputError(expected) from None
    if isinstance(result, datetime):
        return (result if result.tzinfo else result.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(result) or isinstance(value, bool):
        raise InputError(expected)
    if abs(result) > MAX_SECONDS:
        raise InputError(f"{expected}, which is beyond the year 5000; if these are milliseconds, divide them by 1000")
    return result


def _float(value: Any) -> float:
    """`float`, but "1_0" is no number outside a program."""
    text = value if type(value) is str else str(value) if isinstance(value, bytes) else ""
    if "_" in text:
        raise ValueError(value)
    return float(value)
