"""``astronn-stream plot``: pictures of results, and the page of one spectrum."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from producer.commands.options import ResultsTable, ResultsTag, ResultsWhere
from producer.commands.screen import progress_bar, say, telling_interruption
from producer.sources.paths import catalogue_path, check_inside, place_of
from worker.atomic_file import check_folder
from worker.errors import FatalError, SpectrumError, UsageError
from worker.identity import COADD
from worker.labels import LABEL_NAMES, told_not_learnt
from worker.settings import Settings, get_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

    from worker.pictures.sample import Sample
    from worker.pictures.spectrum_row import Which
    from worker.pictures.style import Theme


#: What files pictures become.
Format = Literal["png", "pdf", "both"]


def plot(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the pictures go.")],
    table: ResultsTable = None,
    tag: ResultsTag = None,
    where: ResultsWhere = None,
    spectrum: Annotated[
        str | None,
        typer.Option(
            "--spectrum",
            metavar="SPECTRUM",
            help="Draw the page of one spectrum: FILE (its coadd), FILE:MEMBER, or a spectrum_pk.",
        ),
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Draw light on dark.")] = False,
    kind: Annotated[Format, typer.Option("--format", help="What files to write.")] = "png",
) -> None:
    """Draw results: where the stars are, uncertainties, visit-to-visit scatter and flags.

    With --spectrum the page of one spectrum: normalised flux, masked pixels, the windows of the
    elements, and its labels. Above 5000 points pictures show their density.
    """
    from worker.pictures.style import DARK, LIGHT

    theme = DARK if dark else LIGHT
    kinds = ("png", "pdf") if kind == "both" else (kind,)
    if table is not None and (tag is not None or where is not None):
        raise UsageError(
            "--tag and --where choose rows of the database; `export` takes them, too, and writes "
            "such a table."
        )
    if spectrum is not None and where is not None:
        raise UsageError("--where chooses rows for pictures of many; --spectrum is one.")
    check_folder(out)
    with telling_interruption("pictures that were written are whole"):
        if spectrum is not None:
            _draw_spectrum(spectrum, table, tag, out, kinds, theme)
        else:
            _draw_all(_sample(table, tag, where), out, kinds, theme)


def _sample(table: Path | None, tag: str | None, where: str | None) -> Sample:
    from worker.database.session import existing
    from worker.pictures.sample import Sample
    from worker.results.read import RowSelection
    from worker.results.where import condition

    if table is not None:
        return Sample.of_file(table)
    wanted = RowSelection(tag=tag, where=None if where is None else condition(where))
    with existing(get_settings().database_url) as database:
        return Sample.of_database(database, wanted)


def _draw_all(sample: Sample, out: Path, kinds: tuple[str, ...], theme: Theme) -> None:
    from worker.pictures.gallery import GALLERY
    from worker.pictures.style import NothingToDrawError

    if not len(sample):
        raise UsageError("There are no such results; there is nothing to draw.")
    unknown = [name for name in LABEL_NAMES if name not in sample.known]
    lines = [told_not_learnt(unknown)] if 0 < len(unknown) < len(LABEL_NAMES) else []
    with progress_bar("Drawing", len(GALLERY)) as advance:
        for name, picture in GALLERY.items():
            try:
                written = _write(picture.draw(sample, theme), out / name, kinds, theme)
                lines += [f"{path}: {picture.caption}" for path in written]
            except NothingToDrawError as reason:
                lines.append(f"{name}: not drawn. {reason}")
            advance(1)
    for line in lines:
        say(line)


def _draw_spectrum(
    text: str, table: Path | None, tag: str | None, out: Path, kinds: tuple[str, ...], theme: Theme
) -> None:
    from worker.pictures.spectrum import read_seen, spectrum_page
    from worker.pictures.spectrum_row import Which

    settings = get_settings()
    which = _which(text, settings)
    row = _row(which, table, tag, settings)
    if which.pk is not None:
        if row is None:
            raise UsageError(f"These results have no spectrum {which}.")
        which = Which(path=str(row["path"]), member=str(row["member"]))
    root = Path(os.path.realpath(settings.data_root))
    try:
        seen = read_seen(root, which.path, which.member, settings.coadd_mask)
    except SpectrumError as error:
        raise FatalError(
            f"There is no spectrum to draw: {error} It was looked for in the data root, {root}."
        ) from error
    name = Path(which.path).name.removesuffix(".gz").removesuffix(".fits")
    name += f"-{Path(which.member).name.removesuffix('.fits')}"
    figure = spectrum_page(seen, _heading(which, row), row, theme)
    for path in _write(figure, out / name, kinds, theme):
        say(str(path))


def _which(text: str, settings: Settings) -> Which:
    from worker.pictures.spectrum_row import Which

    if text.isdecimal() and not Path(text).exists():
        return Which(pk=int(text))
    file, member = Path(text), COADD
    if not file.exists():
        before, _, after = text.rpartition(":")
        file, member = (Path(before), after) if before else (file, COADD)
    if not file.is_file():
        raise UsageError(f"--spectrum {text}: there is no such file, and it is no spectrum_pk.")
    root = settings.data_root.resolve()
    place = place_of(file, root)
    check_inside(file, place, root)
    return Which(path=catalogue_path(place, root), member=member)


def _row(
    which: Which, table: Path | None, tag: str | None, settings: Settings
) -> Mapping[str, Any] | None:
    from worker.database.session import existing, exists
    from worker.pictures.spectrum_row import row_in_database, row_in_file

    if table is not None:
        return row_in_file(table, which)
    if which.pk is None and not exists(settings.database_url):
        return None  # the flux can be shown all the same
    with existing(settings.database_url) as database:
        return row_in_database(database, which, tag)


def _heading(which: Which, row: Mapping[str, Any] | None) -> str:
    name, member = Path(which.path).name, which.member
    if row is None:
        return f"{name}    {member}"
    snr = f"    S/N {float(row['snr']):.0f}" if float(row["snr"]) > 0 else ""
    return f"{row['obj'] or name}    {member}{snr}"


def _write(figure: Figure, stem: Path, kinds: tuple[str, ...], theme: Theme) -> list[Path]:
    """Write a picture as each kind of file; gives the files."""
    from worker.pictures.style import save

    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for path in paths:
            save(figure, path, theme)
    except OSError as error:
        reason = error.strerror or error
        raise FatalError(f"The pictures in {stem.parent} cannot be written: {reason}.") from error
    return paths
