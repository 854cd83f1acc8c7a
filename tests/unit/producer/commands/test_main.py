from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_group

from producer.commands.main import COMMANDS, command_line


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_there_when_its_module_alone_is_imported(name: str) -> None:
    assert name in get_group(command_line([name])).commands


@pytest.mark.parametrize("arguments", [[], ["--help"], ["no-such-command"]])
def test_all_commands_are_there_otherwise(arguments: list[str]) -> None:
    assert set(get_group(command_line(arguments)).commands) == set(COMMANDS)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("worker", "producer.commands.worker"),
        ("up", "producer.commands.up"),
        ("status", "producer.commands.status"),
    ],
)
def test_a_stack_imports_neither_spectra_nor_the_network(name: str, module: str) -> None:
    program = (
        "import sys; from producer.commands.main import command_line; "
        f"command_line([{name!r}]); print(*sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    assert module in said
    assert not {"astropy", "torch", "numba", "pandas", "matplotlib", "producer.running.run"} & set(
        said
    )
