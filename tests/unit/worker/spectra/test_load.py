from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.inputs.apstar_files import ERAS, WINDOWS, Era, Planes, Written, write_apstar
from worker.identity import Place
from worker.spectra import load
from worker.spectra.continuum import continuum_pixels, normalise, uncertainties
from worker.spectra.formats.apstar import read_header, read_spectra
from worker.spectra.formats.format import SpectrumArrays
from worker.spectra.load import Loaded, load_spectra

Edit = Callable[[Planes], None]


@dataclass(frozen=True)
class Numbered(Place):
    """A place that bears a number, as a message's spectrum does: it comes back as it was given."""

    number: int


def places(*wanted: tuple[str, str]) -> list[Numbered]:
    """Places of (path, member), numbered 100, 101, ..."""
    return [Numbered(*each, 100 + number) for number, each in enumerate(wanted)]


def load_all(root: Path, *wanted: tuple[str, str], coadd_mask: str = "and") -> Loaded[Numbered]:
    loaded = load_spectra(places(*wanted), root, coadd_mask)
    assert loaded.flux.dtype == np.float32
    assert loaded.flux.shape == (len(loaded.spectra), 7514)
    assert loaded.flux.flags.c_contiguous
    assert np.isfinite(loaded.flux).all()
    assert (loaded.flux >= 0).all()
    assert len(loaded.spectra) + len(loaded.failures) == len(wanted)
    return loaded


def reason_of(root: Path, path: str, member: str = "coadd") -> str:
    """The reason for which this spectrum alone fails."""
    loaded = load_all(root, (path, member))
    ((spectrum, reason),) = loaded.failures
    assert spectrum == Numbered(path, member, 100)
    return reason


def numbers(loaded: Loaded[Numbered]) -> tuple[list[int], list[int]]:
    """The numbers of the spectra that were loaded, and of those that failed."""
    return [each.number for each in loaded.spectra], [each.number for each, _ in loaded.failures]


def expected_flux(path: Path, member: str) -> NDArray[np.float32]:
    (row,) = read_spectra(path, [member])
    assert isinstance(row, SpectrumArrays)
    error = uncertainties(row.error)
    normalised = normalise(row.flux[None], error[None], row.mask[None])
    flux: NDArray[np.float32] = normalised[0].astype(np.float32)
    return flux


@pytest.fixture
def two(tmp_path: Path) -> tuple[Written, Written]:
    return (
        write_apstar(tmp_path / "a.fits", seed=1, n_visits=2),
        write_apstar(tmp_path / "deep/er/b.fits.gz", era="dr17", seed=2, n_visits=3),
    )


# Good spectra


def test_spectra_keep_their_order_and_are_what_was_asked_for(
    tmp_path: Path, two: tuple[Written, Written]
) -> None:
    a, b = two
    wanted = [
        ("deep/er/b.fits.gz", b.visits[2]),
        ("deep/er/b.fits.gz", "coadd"),
        ("deep/er/b.fits.gz", b.visits[0]),
        ("a.fits", "coadd"),
        ("a.fits", a.visits[1]),
        ("a.fits", a.visits[0]),
    ]
    loaded = load_all(tmp_path, *wanted)
    assert loaded.failures == ()
    assert list(loaded.spectra) == places(*wanted)
    for row, (path, member) in zip(loaded.flux, wanted, strict=True):
        np.testing.assert_allclose(row, expected_flux(tmp_path / path, member), rtol=1e-6)
    assert len(np.unique(loaded.flux, axis=0)) == len(wanted)


def test_interleaved_paths_are_loaded_like_sorted_ones(
    tmp_path: Path, two: tuple[Written, Written]
) -> None:
    a, b = two
    in_turn = [
        ("a.fits", "coadd"),
        ("deep/er/b.fits.gz", "coadd"),
        ("a.fits", a.visits[0]),
        ("deep/er/b.fits.gz", b.visits[1]),
        ("a.fits", "coadd"),
    ]
    loaded = load_all(tmp_path, *in_turn)
    assert list(loaded.spectra) == places(*in_turn)
    by_file = sorted(range(5), key=lambda number: in_turn[number][0])
    side_by_side = load_all(tmp_path, *(in_turn[number] for number in by_file))
    np.testing.assert_allclose(loaded.flux[by_file], side_by_side.flux, rtol=1e-6)


@pytest.mark.parametrize("era", ERAS)
def test_spectra_of_every_era_load(tmp_path: Path, era: Era) -> None:
    written = write_apstar(tmp_path / "star.fits", era=era, n_visits=1)
    loaded = load_all(tmp_path, ("star.fits", "coadd"), ("star.fits", written.visits[0]))
    assert loaded.failures == ()
    np.testing.assert_array_equal(loaded.flux[0], loaded.flux[1])
    assert abs(np.median(loaded.flux) - 1) < 0.05


@pytest.mark.usefixtures("two")
def test_coadd_mask_reaches_the_reader(tmp_path: Path) -> None:
    masks = {
        kind: load_all(tmp_path, ("a.fits", "coadd"), coadd_mask=kind).flux == 1.0
        for kind in ("and", "or")
    }
    assert 0 < masks["and"].sum() < masks["or"].sum()
    assert masks["or"][masks["and"]].all()


def test_real_spectra_load_without_a_failure(apstar_folder: Path) -> None:
    wanted = [
        (path.name, member)
        for path in sorted(apstar_folder.iterdir())
        for member in ("coadd", *read_header(path).visits)
    ]
    loaded = load_all(apstar_folder, *wanted)
    assert loaded.failures == ()
    assert len(loaded.flux) == 44


def test_nothing_gives_nothing(tmp_path: Path) -> None:
    loaded = load_all(tmp_path)
    assert (loaded.spectra, loaded.failures) == ((), ())


def test_each_file_is_opened_once(
    tmp_path: Path, two: tuple[Written, Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[str] = Counter()

    def counted(path: Path, members: Sequence[str], **options: Any) -> Any:
        opened[path.name] += 1
        return read_spectra(path, members, **options)

    monkeypatch.setattr(load, "read_spectra", counted)
    wanted = [
        (str(written.path.relative_to(tmp_path)), member)
        for written in two
        for member in ("coadd", *written.visits)
    ]
    assert len(load_all(tmp_path, *wanted).flux) == 7
    assert opened == {"a.fits": 1, "b.fits.gz": 1}


# Bad spectra beside good ones


def test_bad_file_does_not_touch_its_neighbours(
    tmp_path: Path, two: tuple[Written, Written]
) -> None:
    a, b = two
    (tmp_path / "text.fits").write_text("no spectrum")
    (tmp_path / "cut.fits").write_bytes(a.path.read_bytes()[:-2880])
    wanted = [
        ("a.fits", a.visits[0]),
        ("text.fits", "coadd"),
        ("text.fits", "apVisit-x.fits"),
        ("deep/er/b.fits.gz", "coadd"),
        ("cut.fits", "coadd"),
        ("absent.fits", "coadd"),
        ("deep/er/b.fits.gz", b.visits[1]),
    ]
    loaded = load_all(tmp_path, *wanted)
    assert numbers(loaded) == ([100, 103, 106], [101, 102, 104, 105])
    for place, reason in loaded.failures:
        assert Path(place.path).name in reason
    for row, number in zip(loaded.flux, (0, 3, 6), strict=True):
        path, member = wanted[number]
        np.testing.assert_allclose(row, expected_flux(tmp_path / path, member), rtol=1e-6)


def test_missing_visit_does_not_touch_the_others_of_its_file(
    tmp_path: Path, two: tuple[Written, Written]
) -> None:
    a, _ = two
    loaded = load_all(
        tmp_path,
        ("a.fits", a.visits[1]),
        ("a.fits", "apVisit-r6-1-2-3.fits"),
        ("a.fits", "coadd"),
    )
    assert numbers(loaded) == ([100, 102], [101])
    assert loaded.failures[0][1] == "a.fits does not hold the visit apVisit-r6-1-2-3.fits."
    np.testing.assert_allclose(loaded.flux[1], expected_flux(a.path, "coadd"), rtol=1e-6)


def fill(flux: float, error: float | None = None, chips: Sequence[str] = tuple(WINDOWS)) -> Edit:
    """Fills these chips of visit 1."""

    def edit(planes: Planes) -> None:
        for chip in chips:
            planes.flux[2, WINDOWS[chip]] = flux
            if error is not None:
                planes.error[2, WINDOWS[chip]] = error

    return edit


def weightless(planes: Planes) -> None:
    planes.error[2] = 0.0


def masked(*chips: str) -> Edit:
    def edit(planes: Planes) -> None:
        for chip in chips:
            planes.mask[2, WINDOWS[chip]] |= 1 << 3

    return edit


CONTINUUM = "A spectrum of star.fits has no usable flux in the continuum of the {}."
ALL_CHIPS = "blue and green and red chips"
USELESS: dict[str, tuple[Edit, str]] = {
    "dead chip": (fill(0.0, 1e10, ["green"]), CONTINUUM.format("green chip")),
    "dead chip of zeros": (fill(0.0, 0.0, ["red"]), CONTINUUM.format("red chip")),
    "two dead chips": (fill(0.0, 1e10, ["blue", "red"]), CONTINUUM.format("blue and red chips")),
    "all flux zero": (fill(0.0), CONTINUUM.format(ALL_CHIPS)),
    "all flux NaN": (fill(np.nan), CONTINUUM.format(ALL_CHIPS)),
    "all flux negative": (fill(-1.0), CONTINUUM.format(ALL_CHIPS)),
    "planes of zeros": (fill(0.0, 0.0), CONTINUUM.format(ALL_CHIPS)),
    "all errors zero": (weightless, CONTINUUM.format(ALL_CHIPS)),
    "masked chip": (
        masked("green"),
        "A spectrum of star.fits has every pixel masked in the green chip.",
    ),
    "masked throughout": (
        masked(*WINDOWS),
        f"A spectrum of star.fits has every pixel masked in the {ALL_CHIPS}.",
    ),
}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("edit", "reason"), USELESS.values(), ids=USELESS.keys())
def test_spectrum_without_information_fails_and_its_neighbours_do_not(
    tmp_path: Path, edit: Edit, reason: str, era: Era
) -> None:
    written = write_apstar(tmp_path / "star.fits", era=era, n_visits=2, edit=edit)
    first, second = written.visits
    loaded = load_all(tmp_path, ("star.fits", "coadd"), ("star.fits", first), ("star.fits", second))
    assert numbers(loaded) == ([100, 102], [101])
    assert loaded.failures[0][1] == reason
    np.testing.assert_allclose(loaded.flux[1], expected_flux(written.path, second), rtol=1e-6)


def test_hole_of_zeros_that_astropy_does_not_notice_fails(tmp_path: Path) -> None:
    # A file that was made long before it is filled: headers stand, the data do not.
    def hole(planes: Planes) -> None:
        planes.flux[:], planes.error[:], planes.mask[:] = 0, 0, 0

    written = write_apstar(tmp_path / "star.fits", edit=hole)
    for member in ("coadd", *written.visits):
        assert "star.fits has no usable flux" in reason_of(tmp_path, "star.fits", member)


@pytest.mark.parametrize("value", [1e60, 1e300, np.inf])
def test_damaged_pixel_is_never_infinite_in_float32(tmp_path: Path, value: float) -> None:
    # Outside the continuum, so that the fit does not feel it.
    pixel = 246 + int(np.flatnonzero(~continuum_pixels())[0])

    def hit(planes: Planes) -> None:
        planes.flux[0, pixel] = value

    written = write_apstar(tmp_path / "star.fits", era="dr17", edit=hit)
    # load_all checks that everything is finite.
    loaded = load_all(tmp_path, ("star.fits", "coadd"), ("star.fits", written.visits[0]))
    assert 101 in numbers(loaded)[0]


@pytest.mark.usefixtures("two")
def test_unexpected_error_is_a_reason_too_and_is_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def surprise(path: Path, members: Sequence[str], **options: Any) -> Any:
        if path.name == "a.fits":
            raise RuntimeError("never seen before")
        return read_spectra(path, members, **options)

    monkeypatch.setattr(load, "read_spectra", surprise)
    with caplog.at_level(logging.ERROR):
        loaded = load_all(tmp_path, ("a.fits", "coadd"), ("deep/er/b.fits.gz", "coadd"))
    assert numbers(loaded) == ([101], [100])
    assert "a.fits" in loaded.failures[0][1]
    assert "never seen before" in loaded.failures[0][1]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "a.fits" in record.getMessage()


# Paths


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A data root whose good file lies beside it, not in it."""
    write_apstar(tmp_path / "secret.fits")
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "link.fits").symlink_to(tmp_path / "secret.fits")
    (root / "inner" / "folder").symlink_to(tmp_path)
    return root


@pytest.mark.parametrize(
    "path",
    ["../secret.fits", "inner/../../secret.fits", "link.fits", "inner/folder/secret.fits", "/"],
)
def test_path_out_of_the_data_root_fails(outside: Path, path: str) -> None:
    reason = reason_of(outside, path)
    assert path in reason
    assert "outside the data root" in reason


def test_absolute_path_out_of_the_data_root_fails(outside: Path) -> None:
    path = str(outside.parent / "secret.fits")
    assert Path(path).exists()
    assert reason_of(outside, path) == f"{path} lies outside the data root."


def test_root_beside_another_whose_name_begins_alike_is_outside(outside: Path) -> None:
    write_apstar(outside.parent / "root2" / "star.fits")
    assert "outside the data root" in reason_of(outside, "../root2/star.fits")


@pytest.mark.parametrize("path", ["a\0b.fits", "\0", "loop.fits/x", "loop.fits", "x" * 300])
def test_unusable_path_fails_with_a_reason_that_a_database_can_keep(
    tmp_path: Path, path: str
) -> None:
    (tmp_path / "loop.fits").symlink_to(tmp_path / "loop.fits")
    reason = reason_of(tmp_path, path)
    assert "\0" not in reason
    assert path.replace("\0", "\\x00") in reason


def test_links_inside_the_data_root_and_a_linked_root_are_followed(tmp_path: Path) -> None:
    written = write_apstar(tmp_path / "root" / "real" / "star.fits")
    (tmp_path / "root" / "link.fits").symlink_to(Path("real") / "star.fits")
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    loaded = load_all(tmp_path / "alias", ("link.fits", "coadd"), ("real/star.fits", "coadd"))
    assert loaded.failures == ()
    for row in loaded.flux:
        np.testing.assert_allclose(row, expected_flux(written.path, "coadd"), rtol=1e-6)
