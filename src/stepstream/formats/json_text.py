"""JSON from outside: size, depth and number of elements are known before a single object is made."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from stepstream.errors import ModelFileError, StepstreamError
from stepstream.formats import limits

# A string to its end, or to the end of the text; possessive, so that no text takes more than one pass.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]|,', re.DOTALL)

_KERAS = {"keras", "keras_core", "tf_keras", "tensorflow"}


def parse(
    data: bytes | str, where: str, error: type[StepstreamError] = ModelFileError, most: int = limits.MAX_JSON_BYTES
) -> dict[str, Any]:
    """A JSON object. where: how messages name its place. Raises error, whatever the text is."""
    try:
        return _parse(data, most)
    except _Refused as e:
        raise error(f"{where}: {e}") from e
    except (ValueError, RecursionError, MemoryError) as e:
        raise error(f"{where}: expected JSON, got something else ({str(e)[:120]}); save it again") from e


def parse_model(data: bytes | str, where: str) -> dict[str, Any]:
    """A model's configuration: a JSON object with a bounded number of layers. Raises ModelFileError.

    A user's own class that is called as one of Keras' is told by its module alone: Keras 3 writes `registered_name` as
    `class_name` for it, as for a few of its own. It becomes "module>class", as a registered class is written.
    """
    config = parse(data, where)
    layers, stack = 0, [config]
    while stack:
        value = stack.pop()
        stack += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not (isinstance(value, dict) and "class_name" in value and isinstance(value.get("config"), dict)):
            continue
        layers += "name" in value["config"]
        module = value.get("module")
        own = isinstance(module, str) and module.partition(".")[0] not in _KERAS
        if own and value.get("registered_name") == value["class_name"] and "name" in value["config"]:
            value["registered_name"] = f"{module}>{value['class_name']}"
    if layers > limits.MAX_LAYERS:
        raise ModelFileError(f"{where}: expected at most {limits.MAX_LAYERS} layers, got {layers}")
    return config


class _Refused(Exception):
    pass


def _parse(data: bytes | str, most: int) -> dict[str, Any]:
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
    value = json.loads(
        text, parse_constant=_constant, parse_int=_integer, parse_float=_float, object_pairs_hook=_object
    )
    if not isinstance(value, dict):
        raise _Refused(f"expected a JSON object, got {type(value).__name__}")
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text: UnicodeEncodeError
    return value


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
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"expected every name once in an object, got {twice[:80]!r} twice")
    return value
