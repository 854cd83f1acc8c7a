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
from tests.inputs.corrections_files import refusal
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
    assert done.stderr.startswith("The noise model corrections.pkl"), done.stderr


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


# --- Whole pickles out of hostile pieces ---------------------------------------------------

NAMES = [
    *(("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("os", "popen")),
    *(("numpy", "dtype"), ("numpy", "ndarray"), ("numpy.core.multiarray", "scalar")),
    *(("numpy._core.multiarray", "_reconstruct"), ("builtins", "getattr"), ("copyreg", "x")),
]
LOOKED_UP = [
    *(f"c{module}\n{name}\n".encode() for module, name in NAMES),  # GLOBAL
    *(f"V{module}\nV{name}\n".encode() + b"\x93" for module, name in NAMES),  # STACK_GLOBAL
    *(b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"),  # EXT1, 2, 4
]
PLAIN = [
    *(b"N", b"\x88", b"K\x01", b"J\xff\xff\xff\xff", b"\x8a\x02\x00\x80", b"I7\n", b"G" + bytes(8)),
    *(b"Vtouch pwned\n", b"Vf8\n", b"VO8\n", b"V<\n", b"S'scale'\n", b"C\x08" + bytes(8)),
    *(
        b")",
        b"]",
        b"}",
        b"\x8f",
        b"h\x00",
        b"g1\n",
        b"j\x02\x00\x00\x00",
    ),  # and what is in the memo
    *(b"Ppwned\n", b"\x97", b"\x96" + bytes(8)),
]


def combined(parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """One object made of others, by each opcode that calls, fills or repeats."""
    some = st.lists(parts, max_size=4).map(b"".join)
    looked_up = st.one_of(st.sampled_from(LOOKED_UP), parts)
    called = st.tuples(looked_up, some, st.sampled_from([b"R", b"\x81"])).map(
        lambda call: call[0] + b"(" + call[1] + b"t" + call[2]
    )
    marked = st.tuples(some, st.sampled_from([b"t", b"l", b"d", b"\x91", b"ios\nsystem\n"]))
    return st.one_of(
        called,
        st.tuples(called, parts).map(lambda pair: b"".join(pair) + b"b"),
        st.tuples(looked_up, parts, parts).map(lambda three: b"".join(three) + b"\x92"),
        st.tuples(looked_up, some).map(lambda pair: b"(" + b"".join(pair) + b"o"),
        marked.map(lambda pair: b"(" + b"".join(pair)),
        st.tuples(
            st.sampled_from([b"]", b"\x8f", b"}"]), some, st.sampled_from([b"e", b"\x90", b"u"])
        ).map(lambda fill: fill[0] + b"(" + fill[1] + fill[2]),
        st.tuples(
            parts, st.sampled_from([b"2\x86", b"\x94", b"q\x00", b"p1\n", b"Q", b"\x98"])
        ).map(b"".join),
    )


@pytest.fixture
def extension() -> Iterator[None]:
    """A process in which a hostile name has an extension code."""
    copyreg.add_extension("os", "system", 1)
    yield
    copyreg.remove_extension("os", "system", 1)


@given(st.recursive(st.sampled_from(PLAIN), combined, max_leaves=12))
@example(b"G" + bytes(8))
@settings(
    max_examples=1000,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.usefixtures("extension")
def test_pickles_of_hostile_pieces_are_read_or_refused_and_run_nothing(
    tmp_path: Path, trap: list[str], piece: bytes
) -> None:
    # In place of Teff's scale, among factors that are as they should be.
    before, after = pickle.dumps((factors(teff={"scale": "HERE", "offset": 0.0}), {}), 3).split(
        b"X\x04\x00\x00\x00HERE"
    )
    path = tmp_path / "corrections.pkl"
    path.write_bytes(before + piece + after)
    with suppress(FatalError), little_more_memory():
        assert np.isfinite(read_noise_model(path).scale).all()
    assert trap == []
    assert list(tmp_path.iterdir()) == [path]


@given(st.binary(max_size=200))
@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_bytes_that_are_no_pickle_are_refused(
    tmp_path: Path, trap: list[str], content: bytes
) -> None:
    path = tmp_path / "corrections.pkl"
    path.write_bytes(content)
    with little_more_memory():
        refusal(path)
    assert trap == []


# --- A few bytes that would keep Python busy for ever, end it, or fill the memory ----------

DOUBLED = b")" + b"2\x86" * 60  # a tuple of itself twice, sixty times
NESTED = b")" + b"\x85" * 1_000_000
BOMBS = {
    "hash without end": b"\x80\x04}" + DOUBLED + b"Ns.",
    "hash without end, many": b"\x80\x04}(" + DOUBLED + b"Nu.",
    "hash without end, old": b"\x80\x04(" + DOUBLED + b"Nd.",
    "set without end": b"\x80\x04\x8f(" + DOUBLED + b"\x90.",
    "frozen set without end": b"\x80\x04(" + DOUBLED + b"\x91.",
    "name without end": b"\x80\x04" + DOUBLED + b"Q.",
    "type without end": b"\x80\x04cnumpy\ndtype\n" + DOUBLED + b"\x85R.",
    "calls with many arguments": b"\x80\x04cnumpy\nndarray\n\x94("
    + b"N" * 500_000
    + b"t\x94"
    + b"h\x00h\x01R0" * 90_000
    + b".",
    "deep key": b"\x80\x04}" + NESTED + b"Ns.",
    "deep tuple": b"\x80\x04" + NESTED + b"N\x86.",
    "marks": b"\x80\x04" + b"(" * 1_000_000 + b".",
    "memo": b"\x80\x04N" + b"\x94" * 1_000_000 + b".",
    "memo's place 2**28": b"\x80\x02Nr\x00\x00\x00\x10.",
    "memo's place 10**18": b"Np1000000000000000000\n.",
    "equal hashes": b"\x80\x04}("
    + b"".join(
        b"\x8a\x0a" + (n * sys.hash_info.modulus).to_bytes(10, "little") + b"N"
        for n in range(70_000)
    )
    + b"u.",
    **{
        f"length of {name}": b"\x80\x05" + code + (2**40).to_bytes(8, "little") + b"abc."
        for name, code in [
            ("text", b"\x8d"),
            ("bytes", b"\x8e"),
            ("bytearray", b"\x96"),
            ("frame", b"\x95"),
        ]
    },
    "length of number": b"\x80\x04\x8b\xff\xff\xff\x7f.",
    "digits": b"L" + b"9" * 1_000_000 + b"L\n.",
}


def test_bombs_are_refused_before_they_go_off(tmp_path: Path) -> None:
    for name, content in BOMBS.items():
        assert len(content) <= 2**20
        (tmp_path / f"{name}.pkl").write_bytes(content)
    program = """
import resource, sys
from pathlib import Path
from worker.errors import FatalError
from worker.results.noise_model import read_noise_model
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
for path in sys.stdin.read().splitlines():
    try:
        read_noise_model(Path(path))
    except FatalError as error:
        print(str(error)[:200])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        input="\n".join(str(tmp_path / f"{name}.pkl") for name in BOMBS),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # one of them would take longer than the universe has
    )
    assert done.returncode == 0, f"after {done.stdout}: {done.stderr}"
    assert len(done.stdout.splitlines()) == len(BOMBS), done.stdout
    assert "memory" not in done.stdout
