"""The version of the software, as rows and tables bear it."""

from importlib.metadata import version

__version__ = version("astronn-stream")
