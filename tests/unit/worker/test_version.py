"""What a process says its software is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import worker.version
from worker.commit import clean_commit
from worker.version import __version__, software_version

ROOT = Path(__file__).parents[3]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository that holds some of the code."""
    for package, part in (("producer", "ledger"), ("worker", "stages")):
        shutil.copytree(ROOT / package / part, tmp_path / package)
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    git(tmp_path, *who, "commit", "--quiet", "--message", "First")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def version_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(worker.version, "_ROOT", folder)
    monkeypatch.setattr(worker.version, "_COMMIT_FILE", folder / "worker/commit.txt")
    return software_version.__wrapped__()


def test_a_clone_says_its_commit(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(clone, "rev-parse", "HEAD")
    (clone / "README.md").write_text("No code.")
    assert clean_commit(clone) == head
    assert version_of(clone, monkeypatch) == f"{__version__}+g{head[:12]}"


def test_code_that_is_no_commits_says_its_own_hash(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / "worker/new.py").write_text("x = 1\n")
    first = version_of(clone, monkeypatch)
    assert first.startswith(f"{__version__}+c")
    (clone / "worker/new.py").write_text("x = 2\n")
    assert version_of(clone, monkeypatch) != first
    (clone / "worker/new.py").write_text("x = 1\n")
    shutil.rmtree(clone / ".git")
    assert version_of(clone, monkeypatch) == first, "the same code"


def test_a_package_says_the_commit_of_its_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker/commit.txt").write_text("ab" * 20 + "\n")
    assert version_of(tmp_path, monkeypatch) == f"{__version__}+gabababababab"
