"""Command lines that stand in files, checked without running them."""

from __future__ import annotations

from typing import Any

import typer

from producer.commands.main import command_line


def parsed(words: list[str]) -> dict[str, Any] | None:
    """The parameters of an `astronn-stream` command line; None where there is no such command.

    An option that the command does not have raises the command line's own error.
    """
    command: Any = typer.main.get_command(command_line(words))
    arguments = list(words)
    while hasattr(command, "commands"):
        command = command.commands.get(arguments.pop(0))
    if command is None:
        return None
    parameters: dict[str, Any] = command.make_context(" ".join(words), arguments).params
    return parameters
