r"""File names as text that databases and messages can hold, and back.

A name on disk is bytes. Those that are no UTF-8 reach Python as lone surrogates, which neither
a database nor JSON takes, so each is written as ``\udcXX``. A backslash that stands before
what would read as such an escape is itself written as ``\x5c``; all other names stay as they
are. So each name has one text, and each text leads back to one name.
"""

from __future__ import annotations

import re

_AMBIGUOUS = re.compile(r"\\(?=udc[89a-f][0-9a-f]|x5c)")
_ESCAPE = re.compile(r"\\(?:u(dc[89a-f][0-9a-f])|x(5c))")


def name_as_text(name: str) -> str:
    """A name or path, as Python has it from the disk, in text that UTF-8 can hold."""
    return _AMBIGUOUS.sub(r"\\x5c", name).encode(errors="backslashreplace").decode()


def name_on_disk(text: str) -> str:
    """The name or path that :func:`name_as_text` made this text of."""
    return _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), text)
