"""AstroNN itself, which our own code is held against wherever it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

from worker.errors import FatalError

_NEEDED = (
    "This needs astroNN, which is not installed; install with the extra `astronn`, as by "
    "`pip install '.[astronn]'`, or take `uv run` in the checkout."
)


def require_astronn() -> None:
    """Make sure that astroNN is there, without the seconds that its import takes.

    Raises
    ------
    FatalError
        It is not installed; the text says what to install.
    """
    if importlib.util.find_spec("astroNN") is None:
        raise FatalError(_NEEDED)


def astronn_apogee() -> Any:
    """The module ``astroNN.apogee``.

    Raises
    ------
    FatalError
        It is not installed; the text says what to install.
    """
    require_astronn()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources
        import astroNN.apogee

    return astroNN.apogee
