"""What commands print: names and reasons of others as they are, and harmless."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from producer.commands.screen import say, tell_error
from producer.commands.summary import print_enqueued, tell_waiting
from producer.ledger.enqueue import Enqueued
from tests.compose import ROOT

HOSTILE = "a\x1b[31m\x9b2J\u202e[red]b[/red] :smile: [/]\r\n.fits"
HARMLESS = "a?[31m?2J?[red]b[/red] :smile: [/]??.fits"
COMMANDS = sorted((ROOT / "producer/commands").rglob("*.py"))


def test_a_hostile_name_is_shown_as_it_is_without_what_would_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say(f"{HOSTILE}: 3 rows")
    assert capsys.readouterr().out == f"{HARMLESS}: 3 rows\n"
    say(HOSTILE, style="yellow")
    assert capsys.readouterr().out == f"{HARMLESS}\n"


def test_further_lines_of_an_error_are_set_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell_error("a\x1bb:\n  [c]\td")
    assert capsys.readouterr().err == "Error: a?b:\n      [c]   d\n"


def test_files_that_are_missing_and_reasons_are_harmless(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_enqueued(Enqueued(1, 1, 1, 0, 0, 1, (HOSTILE,)), skipped=False)
    tell_waiting(f"Redis says {HOSTILE}.")
    printed = capsys.readouterr()
    assert f"named but not there (each ends as a row that says so): {HARMLESS}" in printed.out
    assert f"Redis says {HARMLESS}. The spectra wait" in printed.err


@pytest.mark.parametrize("module", COMMANDS, ids=lambda path: path.stem)
def test_all_text_goes_through_the_one_function(module: Path) -> None:
    """Consoles print tables and the like alone: of text they would take brackets for markup."""
    texts = [
        call.lineno
        for call in ast.walk(ast.parse(module.read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith("console.print")
        and isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp | ast.Attribute)
    ]
    assert texts == []
