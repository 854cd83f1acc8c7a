"""Text from files and errors, made safe for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A line of such text without control characters, which would steer the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def set_back(text: str) -> str:
    """Lines of such text, indented so that none of them passes for one that others begin."""
    return "\n".join(f"    {printable(line)}" for line in text.splitlines())


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many or one + 's'}"
