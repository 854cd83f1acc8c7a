"""Text that others wrote, on its way to a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A line of text that others wrote, without what would steer the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)
