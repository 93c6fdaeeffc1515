"""Text at the store's border: an escape for what SQLite text cannot hold, and the form in which text is searched.

Escape: U+001A (SUBSTITUTE) leads. NUL is `␚0`, U+001A itself is `␚␚` and a lone surrogate U+DXXX is
`␚uDXXX` (␚ stands for U+001A here). Everything else is stored as it is, so ordinary text is unchanged.
Invariant: `unescape(escape(text)) == text` for every Python string, and `escape(text)` is valid UTF-8 without NUL.

Search form: characters of scripts written without spaces stand apart, so that the words of Chinese, Japanese, Thai
and their kin are found as phrases of single characters, from one character on.
"""

from __future__ import annotations

import re

LEAD = "\x1a"
_TO_ESCAPE = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a(0|\x1a|u[0-9a-f]{4})")
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # Japanese kana and iteration marks
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\uff66-\uff9d"  # half-width kana
    "\U00020000-\U0003ffff"  # Han extensions
)
UNSPACED = re.compile(f"([{_UNSPACED}])")
"""A character of a script written without spaces."""
UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+")


def escape(text: str) -> str:
    """Text as SQLite can hold it; see the module's docstring."""
    if not _TO_ESCAPE.search(text):
        return text
    return _TO_ESCAPE.sub(_escape_one, text)


def _escape_one(match: re.Match[str]) -> str:
    character = match.group()
    if character == "\x00":
        return LEAD + "0"
    if character == LEAD:
        return LEAD + LEAD
    return f"{LEAD}u{ord(character):04x}"


def unescape(stored: str) -> str:
    """The text that `escape` was given."""
    if LEAD not in stored:
        return stored
    return _ESCAPED.sub(_unescape_one, stored)


def _unescape_one(match: re.Match[str]) -> str:
    code = match.group(1)
    if code == "0":
        return "\x00"
    return LEAD if code == LEAD else chr(int(code[1:], 16))


def search_form(text: str) -> str:
    """Text as the full-text index reads it."""
    return UNSPACED.sub(r" \1 ", escape(text))


def search_query(words: str) -> str:
    """An FTS5 query that asks for all the words a person typed, each as a phrase; quotes and operators mean nothing.

    Raises ValueError if there is no letter or digit to look for.
    """
    phrases = [" ".join(search_form(word).split()) for word in _WORD.findall(words)]
    if not phrases:
        raise ValueError(f"nothing to search for in {words!r}: give a word")
    return " ".join(f'"{phrase}"' for phrase in phrases)
