"""What leaves by the log: whatever a record quotes, it steers no terminal and forges no line."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

from worker.text import printable, set_back

_FORMATTER = logging.Formatter()


class PrintableRecord(logging.LogRecord):
    """A record whose message is one line without control characters, its traceback set back."""

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        if self.exc_info:
            self.exc_text = set_back(_FORMATTER.formatException(self.exc_info))

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """The message, as any formatter and handler asks for it."""
        return printable(" ".join(super().getMessage().splitlines()))


def escape_what_is_logged() -> None:
    """Have all records of this process, its warnings and a last traceback escaped."""
    logging.setLogRecordFactory(PrintableRecord)
    logging.captureWarnings(capture=True)
    sys.excepthook = _tell_traceback


def _tell_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(set_back(text) + "\n")
