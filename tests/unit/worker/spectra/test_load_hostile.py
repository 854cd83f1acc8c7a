"""Paths that nobody should follow, and files that are not what they seem."""

from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.inputs.apstar_files import write_apstar
from tests.unit.worker.spectra.formats.test_apstar_damaged import watchdog
from worker.identity import Place
from worker.spectra.formats import apstar
from worker.spectra.load import Loaded, load_spectra


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a good file in it, and a secret beside it."""
    write_apstar(tmp_path / "secret.fits")
    write_apstar(tmp_path / "root" / "good.fits")
    return tmp_path / "root"


def load(root: Path, path: str) -> Loaded[Place]:
    with watchdog(30):
        return load_spectra([Place(path, "coadd")], root)


def assert_fails(root: Path, path: str) -> str:
    """The spectrum ends as one failure; returns its one sentence, which names the file."""
    loaded = load(root, path)
    assert loaded.spectra == ()
    ((_, reason),) = loaded.failures
    assert Path(path).name in reason
    assert reason.endswith(".")
    assert "\n" not in reason
    return reason


def test_the_good_file_is_read(root: Path) -> None:
    assert load(root, "good.fits").failures == ()


@pytest.mark.parametrize(
    "path",
    [
        *("../secret.fits", "x/../../secret.fits", "./.././secret.fits", "{outside}/secret.fits"),
        *("/etc/passwd", "/dev/zero", "out.fits", "folder/secret.fits", "relative.fits"),
        *("device.fits", "process.fits", "twice.fits"),
    ],
)
def test_what_lies_outside_the_data_root_is_not_read(root: Path, path: str) -> None:
    links = {
        "out.fits": root.parent / "secret.fits",
        "folder": root.parent,
        "relative.fits": "../secret.fits",
        "device.fits": "/dev/zero",
        "process.fits": "/proc/self/environ",
        "twice.fits": root / "out.fits",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    assert "outside the data root" in assert_fails(root, path.format(outside=root.parent))


@pytest.mark.parametrize("path", ["dev/zero", "dev/null", "dev/full", "proc/self/mem"])
def test_devices_are_not_read_where_the_root_is_everything(path: str) -> None:
    assert_fails(Path("/"), path)


def test_a_path_with_a_nul_is_told_without_it(root: Path) -> None:
    loaded = load(root, "good.fits\0.txt")
    assert "good.fits\\x00.txt" in loaded.failures[0][1]


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_fifo(path: Path) -> None:
    (path.parent / "folder").mkdir()
    os.mkfifo(path.parent / "folder" / path.name)
    path.symlink_to(path.parent / "folder" / path.name)


def unix_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def grown(path: Path, content: bytes) -> None:
    """A file without end, as far as anybody can read: what follows is a hole."""
    path.write_bytes(content)
    os.truncate(path, 1 << 40)


def packed(path: Path) -> None:
    """Images that are packed in tables, from which a few bytes may become any number."""
    rows = np.zeros((3, 8575), dtype=np.int16)
    images = [fits.CompImageHDU(rows, compression_type="RICE_1") for _ in range(3)]
    fits.HDUList([fits.PrimaryHDU(), *images, *map(fits.ImageHDU, [None] * 8)]).writeto(path)


GOOD = "good.fits"
ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda _path: None, "does not exist"),
    "FIFO": (os.mkfifo, "no regular file"),
    "socket": (unix_socket, "no regular file"),
    "directory": (Path.mkdir, "is a directory"),
    "link to itself": (link_to_itself, "not a usable path"),
    "link to a FIFO": (link_to_fifo, "no regular file"),
    "hole": (lambda path: grown(path, b""), "larger than 256 MiB"),
    "hole after a good file": (
        lambda path: grown(path, (path.parent / GOOD).read_bytes()),
        "larger than 256 MiB",
    ),
    "hole in a header": (
        lambda path: grown(path, (path.parent / GOOD).read_bytes()[:2880]),
        "larger than 256 MiB",
    ),
    "packed images": (packed, "packed in tables, as fpack does it"),
}


@pytest.mark.parametrize(("make", "reason"), ODD.values(), ids=ODD)
def test_what_is_no_plain_file_fails_at_once(
    root: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(root / "odd.fits")
    assert reason in assert_fails(root, "odd.fits")
    assert load(root, GOOD).failures == ()


def test_a_gz_that_unpacks_to_too_much_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (root / GOOD).read_bytes()
    monkeypatch.setattr(apstar, "_LARGEST_FILE", len(content))
    (root / "good.fits.gz").write_bytes(gzip.compress(content))
    assert load(root, "good.fits.gz").failures == ()
    (root / "bomb.fits.gz").write_bytes(gzip.compress(content + bytes(1)))
    assert "larger than" in assert_fails(root, "bomb.fits.gz")


def test_a_gz_with_zeros_behind_it_is_read(root: Path) -> None:
    content = gzip.compress((root / GOOD).read_bytes())
    (root / "padded.fits.gz").write_bytes(content + bytes(64 << 20))
    with watchdog():
        loaded = load_spectra([Place("padded.fits.gz", "coadd")], root)
    np.testing.assert_array_equal(loaded.flux, load(root, GOOD).flux)


def test_a_gz_that_is_too_large_is_not_unpacked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "large.fits.gz").write_bytes(gzip.compress((root / GOOD).read_bytes()) + bytes(999_999))
    monkeypatch.setattr(apstar, "_LARGEST_FILE", 999_999)
    assert "larger than" in assert_fails(root, "large.fits.gz")
