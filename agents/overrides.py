"""Words of a command line over a configuration file: KEY=VALUE, where a dotted key leads into tables.

Invariant: tables are merged, everything else is replaced; what is given comes over what a file says.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any


def setting(word: str) -> tuple[str, Any]:
    """KEY=VALUE of a command line; the value is read as TOML, or as text if it is none. Raises ValueError."""
    key, sign, text = word.partition("=")
    if not sign or not key.strip():
        raise ValueError(f"{word!r} is not of the form KEY=VALUE, such as lora.rank=8")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text


def as_word(key: str, value: object) -> str:
    """The KEY=VALUE that `setting` reads as this key and value."""
    return f"{key}={as_toml(value)}"


def as_toml(value: object) -> str:
    """A value of JSON's kinds as TOML on one line. Raises TypeError for what TOML has no word for, such as None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_toml(str(key))} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    raise TypeError(f"TOML has no word for {value!r}")


def overlaid(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A file's values with what is given by dotted keys over them."""
    merged = dict(values)
    for key, value in given.items():
        merged = over(merged, _nested(key.split("."), value))
    return merged


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = over(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)
