"""Reading what a model was asked to write in a form: strictly, or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_FENCE = re.compile(r"^```(?:json)?\s*\n(.*)\n```$", re.DOTALL)


class Unreadable(Exception):
    """The answer does not have the form that was asked for."""


def read_object(text: str) -> dict[str, object]:
    """The JSON object that an answer consists of; a code fence around it is allowed, other words are not.

    Raises Unreadable.
    """
    stripped = text.strip()
    fenced = _FENCE.match(stripped)
    try:
        value = json.loads(fenced.group(1) if fenced else stripped)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Unreadable(f"a JSON {type(value).__name__}, not an object")
    return value


def read_strings(text: str, field: str) -> list[str]:
    """A field of an answer's JSON object that is a list of texts. Raises Unreadable."""
    values = read_object(text).get(field)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise Unreadable(f"the field {field!r} is not a list of texts")
    return [value.strip() for value in values if value.strip()]


def read_label(text: str, field: str, labels: Sequence[str]) -> str:
    """A field of an answer's JSON object that is one of the labels. Raises Unreadable."""
    value = read_object(text).get(field)
    if value not in labels:
        raise Unreadable(f"the field {field!r} is {value!r}, not one of {', '.join(labels)}")
    return str(value)
