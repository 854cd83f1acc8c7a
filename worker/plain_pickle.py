"""A pickle of a stranger's, read without running what it may hold, in time of its length.

The names that a pickle asks for get stand-ins of the reader's own, or are refused. What is left
to fear are a few steps that cost far more than the byte they take, and these are bounded here: a
key whose hash never ends (tuples of tuples), and a call with very many arguments, made again and
again.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

_MOST_ARGUMENTS = 16
#: The hash of a longer number takes longer.
_LARGEST_KEY = 2**63

Step = Callable[[Any], None]


class RefusedError(Exception):
    """The pickle asks for what no such file needs."""


def _refusing(what: str) -> Step:
    def step(_unpickler: Any) -> NoReturn:
        raise RefusedError(what)

    return step


def _is_key(key: object) -> bool:
    return type(key) is str or (type(key) is int and -_LARGEST_KEY < key < _LARGEST_KEY)


def _with_plain_keys(step: Step, keys: slice = slice(None, None, 2)) -> Step:
    """A step of the unpickler that makes entries of a dict of what lies on its stack."""

    def checked(unpickler: Any) -> None:
        if not all(map(_is_key, unpickler.stack[keys])):
            raise RefusedError("a key that is no text")
        step(unpickler)

    return checked


def _calling(step: Step) -> Step:
    def checked(unpickler: Any) -> None:
        arguments = unpickler.stack[-1]
        if type(arguments) is not tuple or len(arguments) > _MOST_ARGUMENTS:
            raise RefusedError("a call with very many arguments")
        step(unpickler)

    return checked


# The unpickler that is written in Python, for its steps can be replaced one by one.
_STEPS: dict[int, Step] = pickle._Unpickler.dispatch
_REFUSED = {
    "a set": (pickle.ADDITEMS, pickle.FROZENSET),  # its members are hashed too
    "a bytearray": (pickle.BYTEARRAY8,),  # made in the size that the file claims
    "an object": (pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST),
}


class PlainUnpickler(pickle._Unpickler):
    """The steps of an unpickler; which names it knows, and what they stand for, is its heirs'."""

    dispatch: ClassVar[dict[int, Step]] = {
        **_STEPS,
        pickle.DICT[0]: _with_plain_keys(_STEPS[pickle.DICT[0]]),
        pickle.SETITEMS[0]: _with_plain_keys(_STEPS[pickle.SETITEMS[0]]),
        pickle.SETITEM[0]: _with_plain_keys(_STEPS[pickle.SETITEM[0]], slice(-2, None, 2)),
        pickle.REDUCE[0]: _calling(_STEPS[pickle.REDUCE[0]]),
        **{step[0]: _refusing(what) for what, steps in _REFUSED.items() for step in steps},
    }

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        """Refuse the name."""
        raise RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002 - even its repr may have no end
        """Refuse what lies outside the pickle."""
        raise RefusedError("a persistent object")
