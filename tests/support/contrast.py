"""Contrast of colours, as the Web Content Accessibility Guidelines define it."""

from __future__ import annotations

TEXT_CONTRAST = 4.5
"""Minimum contrast of text. Source: WCAG 2.2, success criterion 1.4.3, level AA."""


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours such as `#0a56a5`: 1 for the same, 21 for black on white.

    Source: WCAG 2.2, definitions of contrast ratio and relative luminance.
    """
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
