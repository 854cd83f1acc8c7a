"""``astronn-stream compare``: tables of results against tables of known labels."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from producer.commands.screen import say, telling_interruption
from producer.commands.summary import print_labels
from producer.sources.files import Wanted
from worker.atomic_file import check_folder, check_place
from worker.errors import UsageError
from worker.settings import get_settings
from worker.training.provenance import command_line

if TYPE_CHECKING:
    from worker.comparison.matching import Matched
    from worker.comparison.statistics import Numbers
    from worker.reports.comparison import Account

_ALL_STARS = (
    "The noise model is fitted to all stars, so the parts within 1, 2 and 3 sigma are those of the "
    "fit and no test of it."
)


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="LABELS...", help="Results as `run` and `export` write them; several are added."
        ),
    ],
    known: Annotated[
        list[Path],
        typer.Option(
            "--with",
            metavar="TABLE",
            help="Known labels: .fits, .ecsv, .csv, .vot or .parquet, by `path`, or by star "
            "(`obj`, `apogee_id`). Again for more: the first that knows a spectrum counts.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The report; LABELS_comparison."),
    ] = None,
    noise_model: Annotated[
        Path | None,
        typer.Option(
            "--noise-model", metavar="OUT.json", help="Also fit a noise model, for --corrections."
        ),
    ] = None,
    all_stars: Annotated[
        bool,
        typer.Option(
            "--all-stars", help="Fit it to all stars, and not to half of them to test it on others."
        ),
    ] = False,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Only these results, by any column: `snr > 100 and kind == 'coadd'`.",
        ),
    ] = None,
    kind: Annotated[
        Wanted, typer.Option("--kind", help="Compare coadds, visits, or both.")
    ] = "both",
) -> None:
    """Compare results with known labels: bias, scatter, uncertainties, pictures and outliers.

    Writes a report by S/N and by part of the Hertzsprung-Russell diagram. With --noise-model the
    uncertainties are those of a noise model that is fitted to half of the stars and tested on
    the others; without it they are those of the results.
    """
    out = out or Path(f"{results[0].stem}_comparison")
    _check(out, noise_model, all_stars)
    with telling_interruption("the report may be incomplete"):
        matched = _matched(results, known, kind, where, raw=noise_model is not None)
        _tell_compared(matched)
        settings = {"kind": kind, "where": where or "every row"}
        account = _account(matched, results, known, settings)
        if noise_model is None:
            numbers = _report(out, account, matched)
        else:
            numbers = _report_fit(out, account, matched, noise_model, all_stars=all_stars)
    print_labels("Against known labels", _short(numbers))
    if noise_model is not None:
        say(f"{noise_model}: the noise model, for --corrections.")
    say(f"{out / 'report.md'}: tables, pictures and outliers.")


def _check(out: Path, noise_model: Path | None, all_stars: bool) -> None:
    """Make sure, before the work is done, that its outcome can be written.

    Raises
    ------
    UsageError
        It cannot, or the options contradict each other.
    """
    if noise_model is None and all_stars:
        raise UsageError("--all-stars is for the fit of --noise-model.")
    if noise_model is not None:
        if noise_model.suffix != ".json":
            raise UsageError(f"--noise-model {noise_model}: it is written as a .json file.")
        check_place(noise_model)
    check_folder(out)


def _matched(
    results: list[Path], known: list[Path], kind: Wanted, where: str | None, *, raw: bool
) -> Matched:
    from worker.comparison.matching import match
    from worker.comparison.results import read_results
    from worker.training.label_table import read_label_table

    tables = [read_label_table(path) for path in known]
    rows = read_results(results, None if kind == "both" else kind, where, raw=raw)
    return match(rows, tables, get_settings().data_root)


def _tell_compared(matched: Matched) -> None:
    say(f"Compared: {matched}.")
    for what, count in matched.left_out.items():
        if count:
            say(f"  left out: {count} {what}")
    for note in matched.notes:
        say(note)


def _account(
    matched: Matched, results: list[Path], known: list[Path], settings: dict[str, str]
) -> Account:
    from worker.comparison.evaluation import NOTES
    from worker.reports.comparison import Account

    made_by = (f"{name} ({count})" for name, count in matched.results.made_by.most_common())
    return Account(
        command=command_line(sys.argv[1:]),
        settings=settings,
        data={
            "results": ", ".join(path.name for path in results),
            "weights": ", ".join(made_by),
            "known labels": ", ".join(path.name for path in known),
            "compared": str(matched),
            **matched.left_out,
            **({"of the known labels": " ".join(matched.notes)} if matched.notes else {}),
        },
        losses=[],
        best_epoch=0,
        notes=(*NOTES[:2], "The known labels are taken for the truth, whatever their own errors."),
        title="Results against known labels",
        lacking="not there on both sides",
    )


def _report(out: Path, account: Account, matched: Matched) -> dict[str, Numbers]:
    """Write the report for the uncertainties of the results; gives the numbers of each label."""
    from worker.comparison.outliers import furthest
    from worker.comparison.statistics import numbers_with
    from worker.reports.comparison import write_report

    evaluated, e_labels = matched.as_found(), matched.results.e_labels
    numbers = numbers_with(evaluated, e_labels)
    outliers = furthest(evaluated, e_labels, matched.results)
    write_report(out, account, evaluated, numbers, outliers)
    return numbers


def _report_fit(
    out: Path, account: Account, matched: Matched, file: Path, *, all_stars: bool
) -> dict[str, Numbers]:
    """Write a noise model and the report for its uncertainties; gives the numbers of each label."""
    from worker.comparison.evaluation import NOTES
    from worker.comparison.noise import fit_noise_model, write_noise_model
    from worker.comparison.outliers import furthest
    from worker.comparison.statistics import label_numbers
    from worker.reports.comparison import write_report

    evaluated = matched.to_calibrate(all_stars=all_stars)
    noise_model = fit_noise_model(evaluated)
    write_noise_model(file, noise_model)
    note = NOTES[2]
    if all_stars:
        note = _ALL_STARS
        evaluated = replace(evaluated, calibrating=np.zeros_like(evaluated.calibrating))
    numbers = label_numbers(evaluated, noise_model)
    e_labels = noise_model.apply(evaluated.e_predicted, evaluated.snr)
    outliers = furthest(evaluated, e_labels, matched.results)
    account = replace(account, notes=(*account.notes, note))
    write_report(out, account, evaluated, numbers, outliers)
    return numbers


def _short(numbers: dict[str, Numbers]) -> list[tuple[str, ...]]:
    from worker.reports.comparison_tables import short_rows

    return short_rows({name: of_label["by_snr"]["all"] for name, of_label in numbers.items()})
