"""The columns of a table of results: one list, from which every format is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import InstrumentedAttribute

from worker.database.tables import LABEL_PREFIXES, AstroNN, Source, Spectrum
from worker.flags import ResultFlag
from worker.labels import LABELS


@dataclass(frozen=True)
class TableColumn:
    """One column of an exported table: where it comes from, its type, unit and meaning."""

    name: str
    source: Any
    dtype: str
    description: str
    unit: str | None = None


def _column(source: Any, dtype: str, description: str, unit: str | None = None) -> TableColumn:
    name = source.key if isinstance(source, InstrumentedAttribute) else source.__name__
    return TableColumn(name, source, dtype, description, unit)


def _label_columns() -> Iterator[TableColumn]:
    meanings = dict(
        zip(
            LABEL_PREFIXES,
            (
                "{}",
                "{}, uncertainty after the noise model",
                "{}, as the network gives it",
                "{}, uncertainty as the network gives it",
            ),
            strict=True,
        )
    )
    pairs = (("", "e_"), ("raw_", "raw_e_"))
    for prefixes in pairs:
        for label in LABELS:
            for prefix in prefixes:
                name = prefix + label.name
                text = meanings[prefix].format(label.description)
                yield TableColumn(name, getattr(AstroNN, name), "f4", text, label.unit)


def table_columns() -> list[TableColumn]:
    """The columns of an exported table, in order."""
    return [
        _column(Spectrum.obj, "str", "Name of the star"),
        _column(Source.ra, "f8", "Right ascension of the star, as first seen", "deg"),
        _column(Source.dec, "f8", "Declination of the star, as first seen", "deg"),
        _column(Spectrum.kind, "str", "Kind of spectrum: coadd or visit"),
        _column(Spectrum.telescope, "str", "Telescope"),
        _column(Spectrum.release, "str", "Data release, where the reduction tells it"),
        _column(Spectrum.apred, "str", "Version of the reduction"),
        _column(Spectrum.field, "str", "Field"),
        _column(Spectrum.healpix, "i4", "HEALPix number, nside 128"),
        _column(Spectrum.plate, "str", "Plate or configuration of a visit"),
        _column(Spectrum.mjd, "i4", "Modified Julian date of a visit", "d"),
        _column(Spectrum.fiber, "i4", "Fiber of a visit"),
        _column(Spectrum.n_visits, "i4", "Number of visits in a coadd"),
        _column(Spectrum.snr, "f4", "Signal-to-noise ratio as the reduction gives it"),
        _column(Spectrum.spectrum_flags, "i8", "STARFLAG of the coadd or FLAG of the visit"),
        _column(Spectrum.unread_cards, "str", "Cards of the header that could not be read"),
        _column(Spectrum.path, "str", "File, relative to the data root"),
        _column(Spectrum.member, "str", "coadd, or the apVisit file of the visit"),
        _column(AstroNN.spectrum_pk, "i8", "Key of the spectrum"),
        _column(AstroNN.source_pk, "i8", "Key of the star"),
        _column(AstroNN.task_pk, "i8", "Key of the job"),
        _column(AstroNN.tag, "str", "Tag of the run"),
        *_label_columns(),
        _column(
            AstroNN.p_training,
            "f4",
            "Share of the training spectra at this S/N that are as unlike the others as this one",
        ),
        _column(AstroNN.result_flags, "i8", "Bit field of quality flags"),
        _column(AstroNN.flag_warn, "bool", "Any flag is set"),
        _column(AstroNN.flag_bad, "bool", "Gravity, temperature and [Fe/H] are all uncertain"),
        TableColumn(
            ResultFlag.UNLIKE_TRAINING.column,
            getattr(AstroNN, ResultFlag.UNLIKE_TRAINING.column),
            "bool",
            "The spectrum is unlike those that the weights were trained on",
        ),
        _column(AstroNN.flag_no_result, "bool", "There are no labels"),
        _column(AstroNN.no_result_reason, "str", "Why there are no labels"),
        _column(AstroNN.software_version, "str", "Version of astronn-stream"),
        _column(AstroNN.weights_name, "str", "Name of the weights"),
        _column(AstroNN.weights_sha256, "str", "SHA-256 of the weights"),
        _column(AstroNN.corrections_sha256, "str", "SHA-256 of the noise model; none: identity"),
        _column(AstroNN.mc_samples, "i4", "Passes of MC dropout"),
        _column(AstroNN.seed, "i8", "Seed of MC dropout"),
        _column(AstroNN.created, "str", "When the row was first written, UTC"),
        _column(AstroNN.modified, "str", "When the row was last written, UTC"),
        _column(AstroNN.t_elapsed, "f4", "Share of loading and inference", "s"),
        _column(AstroNN.t_overhead, "f4", "Part of t_elapsed that is not inference", "s"),
    ]
