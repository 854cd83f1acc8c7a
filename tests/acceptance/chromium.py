"""A page as a person sees it: Debian's Chromium without a window, one process for each look.

Virtual time runs ahead while nothing is loaded, so that a page has filled its tables by scripts
when the look is taken.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_VIRTUAL_SECONDS = 10
_SECONDS = 120
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # CI runs as root, whom Chromium's sandbox refuses
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
)


def is_installed() -> bool:
    """Whether there is a browser to look with."""
    return shutil.which("chromium") is not None


def dom(url: str) -> str:
    """The document at a URL after its scripts have run, as HTML."""
    return _look(url, "--dump-dom")


def screenshot(url: str, png: Path, *, width: int = 1400, height: int = 900) -> Path:
    """A picture of the page at a URL; returns its file."""
    look(url, png, width=width, height=height)
    return png


def look(url: str, png: Path, *, width: int = 1400, height: int = 900) -> str:
    """Both at once: the document, and its picture in a file."""
    html = _look(url, "--dump-dom", f"--screenshot={png}", f"--window-size={width},{height}")
    assert png.stat().st_size > 0
    return html


def _look(url: str, *options: str) -> str:
    """Run the browser; the test is skipped where there is none (`apt-get install chromium`)."""
    if not is_installed():
        pytest.skip("chromium is not installed")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = ["chromium", *_OPTIONS, f"--user-data-dir={profile}"]
        command += [f"--virtual-time-budget={1000 * _VIRTUAL_SECONDS}", *options, url]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
