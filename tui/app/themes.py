"""Themes beside Textual's own: one of high contrast, one for people who do not tell red from green.

Invariant: foreground on background has a contrast of 4.5 to 1 at least in both.
"""

from __future__ import annotations

from textual.theme import Theme

HIGH_CONTRAST = Theme(
    name="high-contrast",
    primary="#7fd4ff",
    secondary="#ffd75f",
    accent="#ffff00",
    success="#5fff87",
    warning="#ffd700",
    error="#ff9f9f",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1c1c1c",
    dark=True,
    text_alpha=1.0,
    variables={"text-muted": "#e0e0e0", "text-disabled": "#b0b0b0", "border-blurred": "#b0b0b0"},
)

BLUE_ORANGE = Theme(
    name="blue-orange",
    primary="#56b4e9",
    secondary="#cc79a7",
    accent="#f0e442",
    success="#56b4e9",
    warning="#f0e442",
    error="#e69f00",
    foreground="#f2f2f2",
    background="#101418",
    surface="#161b21",
    panel="#202830",
    dark=True,
)
"""The colours of Okabe and Ito (2008) for all kinds of colour vision: good is blue, bad is orange."""

THEMES = (HIGH_CONTRAST, BLUE_ORANGE)
