from __future__ import annotations

import builtins
import copyreg
import io
import os
import pickle
import pickletools
import posix
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import shared
from tests.unit.corrections_files import refusal
from worker.errors import FatalError
from worker.labels import LABEL_NAMES
from worker.results.noise_model import identity, read_noise_model

Factors = dict[str, dict[str, Any]]

#: Functions by which hostile files run commands; the tests see to it that none is called.
DOORS = ((posix, "system"), (os, "system"), (os, "popen"), (subprocess, "Popen"))


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The dangerous functions that were called; the calls do nothing."""
    called: list[str] = []

    def record(name: str) -> Callable[..., int]:
        return lambda *_arguments, **_names: called.append(name) or 0

    with monkeypatch.context() as patch:
        for module, name in DOORS:
            patch.setattr(module, name, record(f"{module.__name__}.{name}"))
        yield called


def factors(**changes: Any) -> Factors:
    """Factors for every label, with some of them replaced; None leaves a label out."""
    plain: Factors = {
        name: {"scale": 1 + n / 8, "offset": n / 100} for n, name in enumerate(LABEL_NAMES)
    }
    return {name: entry for name, entry in (plain | changes).items() if entry is not None}


def test_the_evil_pickle_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: list[str]
) -> None:
    evil = shared("corrections", "evil_corrections.pkl")
    texts = [
        value for _, value, _ in pickletools.genops(evil.read_bytes()) if isinstance(value, str)
    ]
    assert texts[texts.index("posix") + 1] == "system"
    tool, target = shlex.split(texts[texts.index("posix") + 2])
    assert tool == "touch"
    monkeypatch.chdir(tmp_path)  # the command writes beside whoever loads the file
    assert "posix.system" in refusal(evil)
    assert trap == []
    assert not Path(target).exists()
    assert list(tmp_path.iterdir()) == []


class Call:
    """Unpickles as a call of ``function``, its result given a ``state``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def looked_up(module: str, name: str, argument: str = "touch pwned") -> bytes:
    """A pickle that calls ``module.name(argument)``, the name looked up by STACK_GLOBAL."""

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


def with_persistent_id() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, each: Any) -> str | None:
            return "touch pwned" if each == "persistent" else None

    stream = io.BytesIO()
    Pickler(stream).dump(("persistent", {}))
    return stream.getvalue()


HOSTILE = {
    "eval": pickle.dumps(Call(builtins.eval, "open('pwned', 'w')")),
    "exec": pickle.dumps(Call(builtins.exec, "open('pwned', 'w')")),
    "getattr": pickle.dumps(Call(getattr, "", "join")),
    "os.system": looked_up("os", "system"),
    "posix.system": looked_up("posix", "system"),
    "GLOBAL": b"cos\nsystem\n(S'touch pwned'\ntR.",
    "INST": b"(S'touch pwned'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch pwned'\no.",
    "subprocess": looked_up("subprocess", "getoutput"),
    "numpy.load": looked_up("numpy", "load", "pwned"),
    "numpy.fromfile": looked_up("numpy", "fromfile", "pwned"),
    "runstring": looked_up("numpy.testing._private.utils", "runstring"),
    "copyreg": looked_up("copyreg", "__newobj__"),
    "constructor": looked_up("copyreg", "_reconstructor"),
    "nested in ndarray": looked_up("numpy", "ndarray.tofile"),
    "nested in dtype": looked_up("numpy", "dtype.__class__"),
    "numpy through numpy": looked_up("numpy", "core.multiarray.fromfile"),
    "module of numpy": looked_up("numpy.core.multiarray", "scalar.__class__"),
    "other capitals": looked_up("Numpy", "ndarray"),
    "empty name": looked_up("", ""),
    "builtins.set": pickle.dumps(({1}, {}), 2),
    "complex": pickle.dumps((1j, {}), 4),
    "our own class": pickle.dumps(identity()),
    "persistent id": with_persistent_id(),
    "object array": pickle.dumps((np.array([Call(os.system, "touch pwned")]), {})),
    "state": pickle.dumps((factors(), {"later": Call(os.system, "touch pwned")})),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: list[str], content: bytes
) -> None:
    path = tmp_path / "corrections.pkl"
    path.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert "refused: the pickle asks for" in refusal(path)
    assert trap == []
    assert list(tmp_path.iterdir()) == [path]


def test_an_extension_code_of_copyreg_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: list[str]
) -> None:
    path = tmp_path / "corrections.pkl"
    path.write_bytes(b"\x80\x02\x83\xff\x7fU\x0btouch pwned\x85R.")  # EXT2
    monkeypatch.chdir(tmp_path)
    refusal(path)  # unknown to this process
    copyreg.add_extension("os", "system", 0x7FFF)
    try:
        assert "refused: the pickle asks for os.system" in refusal(path)
    finally:
        copyreg.remove_extension("os", "system", 0x7FFF)
    assert trap == []
    assert list(tmp_path.iterdir()) == [path]


# --- Hostile numpy objects: names that a corrections file needs, with states that none has --

SCALAR = np.float64(0).__reduce__()[0]
RECONSTRUCT = np.empty(0).__reduce__()[0]
#: Bytes that are no address of anything: whoever takes them for one crashes.
NO_ADDRESS = b"\x41" * 8


def dtype_with(code: str, *state: Any) -> Call:
    """A private copy of a dtype, overwritten by ``state``."""
    return Call(np.dtype, code, False, True, state=state)


def array_of(dtype: Any, shape: tuple[int, ...], content: Any) -> Call:
    state = (1, shape, dtype, False, content)
    return Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


#: Object pointers whose dtype claims to be plain numbers (the last number: its flags).
POINTER = dtype_with("O8", 3, "|", None, None, None, -1, -1, 0)
FAR_FIELDS = {name: (np.dtype("f8"), 2**30) for name in ("scale", "offset")}
FAR = dtype_with("V8", 3, "|", None, ("scale", "offset"), FAR_FIELDS, 8, 1, 0)
CRASHING = {
    "scalar of pointers": Call(SCALAR, POINTER, NO_ADDRESS),
    "array of pointers": {"scale": array_of(POINTER, (), NO_ADDRESS), "offset": 0.0},
    "fields far outside": Call(SCALAR, FAR, NO_ADDRESS),
    "array larger than its bytes": array_of(np.dtype("f8"), (2**40,), NO_ADDRESS),
}


@pytest.mark.parametrize("entry", CRASHING.values(), ids=CRASHING)
def test_forged_numpy_objects_are_refused_and_do_not_crash(tmp_path: Path, entry: Any) -> None:
    path = tmp_path / "corrections.pkl"
    path.write_bytes(pickle.dumps((factors(teff=entry), {}), protocol=4))
    program = f"""
from pathlib import Path
from worker.errors import FatalError
from worker.results.noise_model import read_noise_model
try:
    read_noise_model(Path({str(path)!r}))
except FatalError as error:
    raise SystemExit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, f"ended by signal {-done.returncode}"
    assert done.stderr.startswith("The corrections corrections.pkl"), done.stderr


# --- Damaged bytes -------------------------------------------------------------------------


def mutated(content: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    """Overwrite pieces of the content; positions count modulo its length."""
    changed = bytearray(content)
    for position, piece in edits:
        start = position % len(changed)
        changed[start : start + len(piece)] = piece
    return bytes(changed)


BITS_OF_PICKLES = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.sampled_from([b".", b"R", b"b", b"\x93", b"(", b"t", b"Q", b"i", b"c", b"\x85R", b"j\xff"]),
    st.sampled_from([b"posix", b"system", b"\x8c\x02os", b"ndarray", b"dtype", b"O8", b"V8"]),
)
SEED_PICKLE = pickle.dumps(
    (factors(teff={"scale": np.float64(2), "offset": np.float64(1)}), {"edges": np.arange(3.0)}),
    protocol=4,
)


@contextmanager
def little_more_memory() -> Iterator[None]:
    """A damaged length may ask for any memory: here it ends in MemoryError, not in the swap."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@given(st.lists(st.tuples(st.integers(0, 10**5), BITS_OF_PICKLES), max_size=5))
@example([])
@settings(
    max_examples=800,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_mutated_pickles_are_read_or_refused_and_run_nothing(
    tmp_path: Path, trap: list[str], edits: list[tuple[int, bytes]]
) -> None:
    path = tmp_path / "corrections.pkl"
    path.write_bytes(mutated(SEED_PICKLE, edits))
    model = None
    with suppress(FatalError), little_more_memory():
        model = read_noise_model(path)
    if model is not None:
        assert model.scale.shape == model.offset.shape == (22,)
        assert np.isfinite([model.scale, model.offset]).all()
    assert trap == []


def test_a_pickle_that_asks_for_gigabytes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "memory.pkl"
    path.write_bytes(b"\x80\x02Nr\x00\x00\x00\x10.")  # puts None into the memo's place 2**28
    assert "the memory of 268435456 objects" in refusal(path)
