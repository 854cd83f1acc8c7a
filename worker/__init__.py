"""How a spectrum is processed: load, infer, record."""

from importlib.metadata import version

__version__ = version("astronn-stream")
