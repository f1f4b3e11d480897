"""JSON from outside: size, depth and number of elements are known before a single object is made."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from stepstream import limits
from stepstream.arrays import short
from stepstream.errors import InputError, ModelFileError, StepstreamError

# A string to its end, or to the end of the text; possessive, so that no text takes more than one pass.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]|,', re.DOTALL)


def parse(
    data: bytes | str, where: str, error: type[StepstreamError] = ModelFileError, most: int = limits.MAX_JSON_BYTES
) -> dict[str, Any]:
    """A JSON object. where: how messages name its place. Raises error, whatever the text is."""
    found = value(data, where, error, most)
    if not isinstance(found, dict):
        raise error(f"{where}: expected a JSON object, got {type(found).__name__}")
    return found


def value(
    data: bytes | str, where: str, error: type[StepstreamError] = ModelFileError, most: int = limits.MAX_JSON_BYTES
) -> Any:
    """Any JSON value; otherwise as `parse`."""
    try:
        return _parse(data, most)
    except _Refused as e:
        raise error(f"{where}: {e}") from e
    except (ValueError, RecursionError, MemoryError) as e:
        raise error(f"{where}: expected JSON, got something else ({str(e)[:120]}); save it again") from e


def canonical(data: Any, where: str) -> str:
    """JSON values as the one text that they have here. Raises InputError."""
    check(data, where)
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def check(data: Any, where: str) -> None:
    """Raises InputError naming the place of what is no JSON."""
    if (found := _no_json(data, 0)) is not None:
        raise InputError(f"{where}{found[0][:200]}: {found[1]}")


def _no_json(data: Any, depth: int) -> tuple[str, str] | None:
    """What is no JSON: where in the value, and why; None where all is."""
    if data is None or isinstance(data, str | int):
        return None
    if isinstance(data, float):
        return None if math.isfinite(data) else ("", f"expected finite numbers, as in JSON, got {data}; use None")
    if depth > limits.MAX_JSON_DEPTH:
        return "", f"expected JSON at most {limits.MAX_JSON_DEPTH} levels deep, got more"
    if isinstance(data, Mapping):
        if wrong := [name for name in data if not isinstance(name, str)]:
            return "", f"expected texts as names of JSON, got {short(wrong[0])}"
        items: Iterable[tuple[Any, Any]] = data.items()
    elif isinstance(data, list | tuple):
        items = enumerate(data)
    else:
        return "", f"expected JSON (texts, numbers, lists, dicts, None), got {type(data).__name__}"
    for key, inner in items:
        if (found := _no_json(inner, depth + 1)) is not None:
            return f"[{key!r}]{found[0]}", found[1]
    return None


def parse_model(data: bytes | str, where: str) -> dict[str, Any]:
    """A model's configuration: a JSON object with a bounded number of layers. Raises ModelFileError.

    A layer and all that its configuration holds count as often as it is called: models inside each other, each called
    twice, grow as powers of two.
    """
    config = parse(data, where)
    layers = elements = 0
    stack: list[tuple[Any, int]] = [(config, 1)]
    while stack:
        value, times = stack.pop()
        elements += times * len(value)
        inner = None
        if isinstance(value, dict):
            calls, inner = value.get("inbound_nodes"), value.get("config")
            again = times * max(1, len(calls)) if isinstance(calls, list) else times
            if "class_name" in value and ("name" in value or (isinstance(inner, dict) and "name" in inner)):
                layers += again
            value = list(value.values())
        stack += [(v, again if v is inner else times) for v in value if isinstance(v, dict | list)]
        if layers > limits.MAX_LAYERS:
            raise ModelFileError(f"{where}: expected at most {limits.MAX_LAYERS} calls of layers, got more")
        if elements > limits.MAX_JSON_ELEMENTS:
            raise ModelFileError(
                f"{where}: expected at most {limits.MAX_JSON_ELEMENTS} elements in all calls of layers, got more"
            )
    return config


class _Refused(Exception):
    pass


def _parse(data: bytes | str, most: int) -> Any:
    if len(data) > most:
        raise _Refused(f"expected at most {most} bytes of JSON, got {len(data)}")
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    depth = elements = 0
    for token in _TOKEN.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            elements += 1
            if depth > limits.MAX_JSON_DEPTH:
                raise _Refused(f"expected JSON at most {limits.MAX_JSON_DEPTH} levels deep, got more")
        elif first in "]}":
            depth -= 1
        elif first == ",":
            elements += 1
        if elements > limits.MAX_JSON_ELEMENTS:
            raise _Refused(f"expected at most {limits.MAX_JSON_ELEMENTS} elements of JSON, got more")
    found = json.loads(
        text, parse_constant=_constant, parse_int=_integer, parse_float=_float, object_pairs_hook=_object
    )
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text: UnicodeEncodeError
    return found


def _constant(name: str) -> float:
    raise _Refused(f"expected numbers, got {name}, which JSON does not know")


def _integer(digits: str) -> int:
    if len(digits) > limits.MAX_JSON_DIGITS:
        raise _Refused(f"expected numbers of at most {limits.MAX_JSON_DIGITS} digits, got {len(digits)}")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits) if len(digits) <= limits.MAX_JSON_DIGITS else math.inf
    if math.isinf(value):
        raise _Refused(f"expected numbers that fit float64, got {digits[:20]}...")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise _Refused(f"expected every name once in an object, got {twice[:80]!r} twice")
    return value
