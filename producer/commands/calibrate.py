"""``astronn-stream calibrate`` and ``recalibrate``: the noise model from repeat visits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from producer.commands.options import ResultsTable, ResultsTag, ResultsWeights
from producer.commands.screen import console, progress_bar, say, telling_interruption
from worker.atomic_file import check_folder, check_place, replacing
from worker.errors import UsageError
from worker.labels import LABELS, told_not_learnt
from worker.settings import get_settings
from worker.text import counted
from worker.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.calibration.calibration import LabelCalibration
    from worker.calibration.read_repeats import ResultSet
    from worker.calibration.repeats import Visits
    from worker.calibration.widths import LabelPulls

#: Between bins of S/N, the ratio of widths from which one factor is not enough.
_UNEVEN = 1.3


def calibrate(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The noise model, .json.")
    ] = Path("corrections.json"),
    table: ResultsTable = None,
    tag: ResultsTag = None,
    weights: ResultsWeights = None,
    by_snr: Annotated[
        bool, typer.Option("--by-snr", help="Also fit factors by S/N; only .json can hold them.")
    ] = False,
    pickle: Annotated[
        Path | None,
        typer.Option("--pickle", metavar="FILE", help="Also write it in the peers' format, .pkl."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Also write tables and pictures.")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", min=20, max=10_000, help="Drawings for the intervals.")
    ] = 400,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all that is random.")] = 0,
) -> None:
    """Derive scale and offset of the uncertainties from repeat visits.

    Visits of one star have one truth, so their labels differ by noise alone. For each label a
    scale and an offset are fitted with which the differences are as large as the uncertainties
    say. The file is for `--corrections`, and for `recalibrate`.
    """
    _check_outputs(out, pickle, report)
    with telling_interruption("nothing was written"):
        chosen, visits = _read(table, weights, tag, seed)
        about, labels, pulls = _calibrate(chosen, visits, times=bootstrap, seed=seed, by_snr=by_snr)
        _write_files(out, pickle, about, labels, pulls)
    with telling_interruption("the noise model is written, its report is not complete"):
        page = None if report is None else _write_report(report, about, labels, pulls)
    _print_labels(labels, pulls)
    if not by_snr:
        _tell_uneven(pulls)
    _tell_outputs(out, pickle, page, by_snr=by_snr)


def _check_outputs(out: Path, pickle: Path | None, report: Path | None) -> None:
    for option, path, ending in (("--out", out, ".json"), ("--pickle", pickle, ".pkl")):
        if path is None:
            continue
        if path.suffix != ending:
            raise UsageError(f"{option} {path}: it is written as a {ending} file.")
        check_place(path)
    if report is not None:
        check_folder(report)


def _read(
    table: Path | None, weights: str | None, tag: str | None, seed: int
) -> tuple[ResultSet, Visits]:
    from worker.calibration.read_repeats import (
        choose_set,
        read_database,
        read_results_table,
        result_sets,
    )
    from worker.database.session import existing

    if table is not None:
        return read_results_table(table, weights, tag, seed)
    with existing(get_settings().database_url) as database:
        chosen = choose_set(result_sets(database), weights, tag)
        return chosen, read_database(database, chosen, seed)


def _calibrate(
    chosen: ResultSet, visits: Visits, *, times: int, seed: int, by_snr: bool
) -> tuple[dict[str, Any], list[LabelCalibration], list[LabelPulls]]:
    """What is said of a calibration, and for each label what was found."""
    from worker.calibration import calibration
    from worker.calibration.repeats import pairs_of
    from worker.calibration.widths import all_pulls

    repeats, stars = _comparable(chosen, visits)
    pairs = pairs_of(repeats, np.random.default_rng(seed))
    labels = []
    with progress_bar("Calibrating", len(LABELS)) as advance:
        for each in calibration.calibrate(repeats, pairs, times=times, seed=seed, by_snr=by_snr):
            labels.append(each)
            advance(1)
    about = {
        "software": f"astronn-stream {__version__}",
        "weights_sha256": chosen.weights_sha256,
        "weights_name": chosen.weights_name,
        "tag": chosen.tag,
        "visits": len(repeats),
        "stars": stars,
        "bootstrap": times,
        "seed": seed,
    }
    return about, labels, list(all_pulls(repeats, pairs, calibration.noise_model_of(labels)))


def _write_files(
    out: Path,
    pickle: Path | None,
    about: Mapping[str, Any],
    labels: list[LabelCalibration],
    pulls: list[LabelPulls],
) -> None:
    from worker.calibration.files import corrections_json, corrections_pickle

    _write(out, corrections_json(labels, pulls, about).encode())
    if pickle is not None:
        _write(pickle, corrections_pickle(labels, pulls))


def _write_report(
    folder: Path,
    about: Mapping[str, Any],
    labels: list[LabelCalibration],
    pulls: list[LabelPulls],
) -> Path:
    from worker.reports.calibration import PAGE, write_report

    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in about.items()]
    write_report(folder, lines, labels, pulls)
    return folder / PAGE


def _comparable(chosen: ResultSet, visits: Visits) -> tuple[Visits, int]:
    """The visits that may be compared, and of how many stars they are."""
    from worker.calibration.repeats import comparable
    from worker.results.snr import LEAST_FREEDOM

    repeats = comparable(visits)
    stars = len(np.unique(repeats.star))
    if len(repeats) - stars < LEAST_FREEDOM:
        raise UsageError(
            f"{counted(stars, 'star')} with {counted(len(repeats), 'unflagged visit')} say too "
            f"little: there must be at least {LEAST_FREEDOM} visits more than stars."
        )
    say(f"{chosen}: {len(repeats)} unflagged visits of {stars} stars.")
    return repeats, stars


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _print_labels(labels: list[LabelCalibration], pulls: list[LabelPulls]) -> None:
    from worker.calibration.calibration import not_learnt

    table = Table("label", title="Width of z before and after; 1 is right", title_justify="left")
    for heading in ("pairs", "scale", "offset", "z before", "after"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, each, of_label in zip(LABELS, labels, pulls, strict=True):
        if not each.learnt:
            continue
        digits = 1 if label.unit == "K" else 4
        _, before, after = of_label.widths().get("all", (0, float("nan"), float("nan")))
        table.add_row(
            f"{label.name} ({label.unit})",
            str(each.pairs),
            _with_error(each.scale, each.scale_error, 3),
            _with_error(each.offset, each.offset_error, digits),
            f"{before:.2f}",
            f"{after:.2f}",
        )
    console.print(table)
    for label, each in zip(LABELS, labels, strict=True):
        if each.learnt and each.note:
            say(f"{label.name}: {each.note}.")
    if unknown := not_learnt(labels):
        say(told_not_learnt(unknown))


def _with_error(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _tell_uneven(pulls: list[LabelPulls]) -> None:
    """Say so where one scale and offset do not serve all S/N."""
    uneven = 0
    for each in pulls:
        widths = [after for name, (_, _, after) in each.widths().items() if name != "all"]
        uneven += len(widths) > 1 and max(widths) > _UNEVEN * min(widths)
    known = sum(len(each.after) > 0 for each in pulls)
    if uneven > known // 2:  # of a few it may be chance
        say(
            f"For {counted(uneven, 'label')} the width of z depends on S/N, so that "
            "uncertainties are too small at one end and too large at the other; --by-snr fits "
            "that too.",
            style="yellow",
        )


def _tell_outputs(out: Path, pickle: Path | None, page: Path | None, *, by_snr: bool) -> None:
    lines = [f"{out}: the noise model, for --corrections and for `astronn-stream recalibrate`."]
    if pickle is not None:
        without = ", without the factors by S/N, which it cannot hold" if by_snr else ""
        lines.append(f"{pickle}: the same as the peers' pickle{without}.")
    if page is not None:
        lines.append(f"{page}: tables and pictures.")
    lines.append(
        "Under it e says how far visits of one star differ. Errors that they share, such as the "
        "network's own, are not in it."
    )
    for line in lines:
        say(line)
