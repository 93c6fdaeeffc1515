"""The one function between what a model wrote and a terminal.

Model text is hostile: an escape sequence drives the terminal, a bidirectional override shows other words than
were said, an invisible character hides some. Each such character becomes a visible token: `<ESC>`,
`<U+202E>`. Ordinary text of any script passes unchanged, joiners included where a script or an emoji needs
them.

Invariant: what `visible` returns holds no control, no bidirectional control and no lone surrogate; the only
characters of it that move the cursor are newline and tab. Cleaning text that is clean already changes
nothing.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST = 20_000
"""Characters of one text that are shown; a note tells how many more there are."""

_NAMES = {
    0x00: "NUL",
    0x07: "BEL",
    0x08: "BS",
    0x0B: "VT",
    0x0C: "FF",
    0x0D: "CR",
    0x1A: "SUB",
    0x1B: "ESC",
    0x7F: "DEL",
}
_CONTROL_LIKE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories that show nothing: controls, format characters, surrogates, line and paragraph separators."""
_SEEN = frozenset("\n\t\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Members of those categories that are layout or have a glyph of their own (Arabic and Kaithi number signs).
"""
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\ufffe\uffff")
"""Of other categories, and yet showing nothing: fillers, Mongolian selectors, blank Braille, non-characters.
"""

_JOINERS = "\u200c\u200d"
_EMOJI = "\u00a9\u00ae\u2190-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff"
_JOINING = "\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u17ff\ufb50-\ufdff\ufe70-\ufefc"
"""Scripts whose spelling uses the joiners: Arabic, the Indic ones, Tibetan, Burmese, Khmer."""
_SHOWN_JOINER = re.compile(f"(?<=[{_EMOJI}])\u200d(?=[{_EMOJI}])|(?<=[{_JOINING}])[{_JOINERS}](?=[{_JOINING}])")
_SHOWN_VARIATION = re.compile(
    "(?<=[#*0-9\u00a9\u00ae\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff])[\ufe0e\ufe0f]"
)
_PLAIN = re.compile(r"[\n\t -~]*")


def visible(text: str, *, longest: int | None = LONGEST) -> str:
    """Text that is safe to print, cut after `longest` characters of it with a note; None cuts nothing."""
    left_out = 0 if longest is None else len(text) - longest
    shown = text[:longest] if left_out > 0 else text
    if not _PLAIN.fullmatch(shown):
        kept = {m.start() for p in (_SHOWN_JOINER, _SHOWN_VARIATION) for m in p.finditer(shown)}
        shown = "".join(c if i in kept else _shown(c) for i, c in enumerate(shown))
    return shown if left_out <= 0 else f"{shown} ... [{left_out:,} more characters]"


def in_place(text: str) -> str:
    """Text that is safe to print and has a character for each of its own: for editors, whose cursor counts them."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(c if _shown(c) == c or c in _JOINERS else _stand_in(ord(c)) for c in text)


def one_line(text: str, width: int = 80) -> str:
    """The beginning of a text as one safe line of at most `width` characters."""
    flat = " ".join(visible(text, longest=4 * width).split())
    return flat if len(flat) <= width else flat[: max(width - 4, 0)].rstrip() + " ..."


def _shown(character: str) -> str:
    if character in _SEEN:
        return character
    code = ord(character)
    hides = unicodedata.category(character) in _CONTROL_LIKE or character in _BLANK or _is_variation(code)
    if not hides and code & 0xFFFE != 0xFFFE:
        return character
    return f"<{_NAMES[code]}>" if code in _NAMES else f"<U+{code:04X}>"


def _stand_in(code: int) -> str:
    """One visible character in place of one that is none: of controls the picture of their name."""
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def _is_variation(code: int) -> bool:
    return 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
