"""Logs, warnings and the last traceback of a process, as they leave it."""

from __future__ import annotations

import subprocess
import sys

HOSTILE = "a\x1b[2J\x9b\u202e\u2028b\r\n[2026-01-01: CRITICAL/x] forged"
BEGINNING = """
import logging, warnings
from worker.log_records import escape_what_is_logged
escape_what_is_logged()
logging.basicConfig(format="[%(levelname)s] %(message)s")
log = logging.getLogger("x")
"""
PROGRAM = """
log.error(hostile)
log.error("of %s and %r: %d", hostile, hostile, 3)
log.error(ValueError(hostile))
warnings.warn(hostile)
try:
    raise ValueError(hostile)
except ValueError:
    log.exception("taken")
raise ValueError(hostile)
"""


def test_nothing_steers_the_terminal_or_begins_a_line_of_its_own() -> None:
    program = f"{BEGINNING}\nhostile = {HOSTILE!r}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    lines = done.stderr.decode().split("\n")
    assert done.stdout == b""
    assert all(line.isprintable() for line in lines)
    forged = "[2026-01-01: CRITICAL/x] forged"
    assert lines[0] == f"[ERROR] a?[2J?? b {forged}"
    assert sum(forged in line for line in lines) >= 6
    begun = [line[:9] for line in lines if line and not line.startswith("    ")]
    assert begun == ["[ERROR] a", "[ERROR] o", "[ERROR] a", "[WARNING]", "[ERROR] t"]
