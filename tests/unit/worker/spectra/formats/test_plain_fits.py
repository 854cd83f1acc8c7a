"""The lean reader beside astropy: equal where it reads, silent where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks.rig.mutants import disagreement, is_plain, mutants, sound_files
from producer.simulation.survey import Survey, write_survey
from producer.simulation.truth import Truth
from tests.inputs.apstar_files import ERAS, Era, write_apstar
from tests.unit.worker.spectra.formats.test_apstar_damaged import (
    DAMAGES,
    Damage,
    changed,
    changes,
    ends,
    header_starts,
    sound,
    watchdog,
)
from worker.spectra.formats.plain_fits import PlainFits, Unusual


def assert_read_as_by_astropy(path: Path) -> None:
    with watchdog(20):
        assert disagreement(path) is None


# Whole files


@pytest.mark.parametrize("n_visits", [1, 2, 5])
@pytest.mark.parametrize("era", ERAS)
def test_files_of_every_era_are_plain_and_read_as_by_astropy(
    tmp_path: Path, era: Era, n_visits: int
) -> None:
    path = write_apstar(tmp_path / "star.fits", era=era, n_visits=n_visits).path
    assert is_plain(path)
    assert_read_as_by_astropy(path)


def test_real_files_are_plain_and_read_as_by_astropy(apstar_folder: Path) -> None:
    for path in sorted(apstar_folder.iterdir()):
        assert is_plain(path), path.name
        assert_read_as_by_astropy(path)


def test_simulated_files_are_plain_and_read_as_by_astropy(tmp_path: Path) -> None:
    survey = Survey(6, visits=3, seed=5, layout="mixed")
    write_survey(survey, tmp_path, Truth.of(tmp_path, survey.settings()), 1, lambda _: None)
    paths = sorted(tmp_path.rglob("*.fits"))
    assert len(paths) == 6
    for path in paths:
        assert is_plain(path), path.name
        assert_read_as_by_astropy(path)


def test_every_image_is_what_astropy_reads(tmp_path: Path) -> None:
    path = write_apstar(tmp_path / "star.fits", era="dr17", n_visits=2).path
    with path.open("rb") as stream, fits.open(path, memmap=False) as hdus:
        plain = PlainFits(stream, path.stat().st_size)
        assert len(plain) == len(hdus) == 11
        for number in range(1, 4):
            data = hdus[number].data
            assert (plain.shape(number), plain.type(number)) == (data.shape, data.dtype)
            for row in range(len(data)):
                np.testing.assert_array_equal(plain.row(number, row), data[row])


def test_table_is_no_image(tmp_path: Path) -> None:
    path = write_apstar(tmp_path / "star.fits").path
    with path.open("rb") as stream:
        plain = PlainFits(stream, path.stat().st_size)
        for number in (0, 9, 10, -1):
            with pytest.raises(Unusual):
                plain.shape(number)


def test_file_that_is_cut_while_it_is_read_gives_no_row(tmp_path: Path) -> None:
    path = write_apstar(tmp_path / "star.fits").path
    with path.open("r+b") as stream:
        plain = PlainFits(stream, path.stat().st_size)
        stream.truncate(20_000)
        with pytest.raises(Unusual):
            plain.row(3, 3)


# Cards


def card(text: str) -> bytes:
    assert len(text) <= 80
    return text.ljust(80).encode()


def with_card(text: str, hdu: int = 0, *, before: str = "") -> Damage:
    """Puts a card at the end of a header, or ahead of the first card with a keyword."""

    def insert(content: bytes) -> bytes:
        start = header_starts(content)[hdu]
        end = content.index(b"END" + b" " * 77, start)
        # There must be room, so that nothing moves behind the header's last block.
        assert (end - start) % 2880 + 160 <= 2880
        at = content.index(card(before)[:8], start) if before else end
        assert at <= end
        return (
            content[:at]
            + card(text)
            + content[at:end]
            + content[end : end + 80]
            + (content[end + 160 :])
        )

    return insert


def replaced_card(keyword: str, text: str, hdu: int = 0) -> Damage:
    def replace(content: bytes) -> bytes:
        at = content.index(keyword.ljust(8).encode() + b"= ", header_starts(content)[hdu])
        return content[:at] + card(text) + content[at + 80 :]

    return replace


ODD: dict[str, Damage] = {
    "another SNR ahead": with_card("SNR     =                  1.0", before="SNR"),
    "another SNR behind": with_card("SNR     =                  1.0"),
    "SNR by HIERARCH": with_card("HIERARCH SNR = 1.0", before="SNR"),
    "SNR in small letters": with_card("snr     =                  1.0", before="SNR"),
    "SNR moved to the left": with_card("SNR= 1.0", before="SNR"),
    "SNR moved to the right": with_card("  SNR   = 1.0", before="SNR"),
    "SNR without a blank": with_card("SNR     =1.0", before="SNR"),
    "SNR of several values": replaced_card("SNR", "SNR     = 'AXIS.1: 2.0'"),
    "SNR with a D": replaced_card("SNR", "SNR     = 1.25D2 / S/N"),
    "SNR with an E": replaced_card("SNR", "SNR     = +1.25E-02/S/N"),
    "SNR without digits ahead": replaced_card("SNR", "SNR     = .5"),
    "SNR that is true": replaced_card("SNR", "SNR     =                    T"),
    "SNR that is complex": replaced_card("SNR", "SNR     = (1.0, 2.0)"),
    "SNR of two numbers": replaced_card("SNR", "SNR     = 1 2"),
    "SNR with leading zeros": replaced_card("SNR", "SNR     = 007"),
    "SNR without a value": replaced_card("SNR", "SNR     =                      / nothing"),
    "infinite SNR": replaced_card("SNR", "SNR     = 1E999"),
    "name that is a number": replaced_card("OBJID", "OBJID   = 1.50"),
    "name with an apostrophe": replaced_card("OBJID", "OBJID   = '2M''00'"),
    "name with a slash": replaced_card("OBJID", "OBJID   = ' a/b  ' / 'c'"),
    "name without an end": replaced_card("OBJID", "OBJID   = '2M00"),
    "name that goes on": lambda content: with_card("CONTINUE  '+0000'", before="RA")(
        replaced_card("OBJID", "OBJID   = '2M&'")(content)
    ),
    "empty name": replaced_card("OBJID", "OBJID   = ''"),
    "END that goes on": with_card("END     = 5", before="RA"),
    "END in a comment": with_card("COMMENT that is no END", before="RA"),
    "value without a keyword": with_card("        = 5", 1, before="XTENSION"),
    "comment ahead of all": with_card("COMMENT hello", 1, before="XTENSION"),
    "control character": replaced_card("RA", "RA      = 1.0 / \t"),
    "no EXTEND": replaced_card("EXTEND", "COMMENT EXTEND was here"),
    "false EXTEND": replaced_card("EXTEND", "EXTEND  =                    F"),
    "false SIMPLE": replaced_card("SIMPLE", "SIMPLE  =                    F"),
    "groups": with_card("GROUPS  =                    T"),
    "two axes more": with_card("NAXIS   =                    2", 1),
    "very many axes": replaced_card("NAXIS", "NAXIS   =           9999999999", 1),
    **{
        f"{text} in HDU {hdu}": with_card(text, hdu)
        for text in (
            "BSCALE  =                  2.0",
            "BZERO   =                32768",
            "BZERO   = 'unusual",
            "BLANK   =                   -1",
            "EXTNAME =                    5",
            "ZIMAGE  =                    T",
            "CHECKSUM= 'nonsense'",
            "CHECKSUM= 'no end",
            "DATASUM = 1 2",
            "EXTNAME = 'no end",
            "EXTVER  = 'AXIS.1: 2.0'",
        )
        for hdu in (0, 1, 3, 5, 9)
    },
    "floats for integers": replaced_card("BITPIX", "BITPIX  =                  -16", 3),
    "integers for floats": replaced_card("BITPIX", "BITPIX  =                   32", 1),
    "extension of another kind": replaced_card("XTENSION", "XTENSION= 'FOREIGN '", 9),
    "two numbers for BITPIX": replaced_card("BITPIX", "BITPIX  =       1            8"),
    "image with something behind": replaced_card("XTENSION", "XTENSION= 'IMAGE   ' 3 /", 1),
    "table with something behind": replaced_card("XTENSION", "XTENSION= 'BINTABLE'=", 9),
    "EXTEND with something behind": replaced_card("EXTEND", "EXTEND  =       T 1 / extend"),
    "true axis": replaced_card("NAXIS2", "NAXIS2  =                    T", 4),
    "two groups": replaced_card("GCOUNT", "GCOUNT  =                    2", 4),
    "parameters": replaced_card("PCOUNT", "PCOUNT  =                    8", 4),
    "a block more": lambda content: content + bytes(2880),
    "blank block more": lambda content: content + b" " * 2880,
    "half an HDU more": lambda content: content + card("XTENSION= 'IMAGE   '") * 36,
}


@pytest.mark.parametrize("era", ["dr13", "sdss5"])
@pytest.mark.parametrize("damage", ODD.values(), ids=ODD.keys())
def test_odd_file_is_read_as_by_astropy(tmp_path: Path, damage: Damage, era: Era) -> None:
    path = write_apstar(tmp_path / "star.fits", era=era, n_visits=2).path
    content = path.read_bytes()
    odd = damage(content)
    assert odd != content
    path.write_bytes(odd)
    assert_read_as_by_astropy(path)


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_file_is_not_plain(tmp_path: Path, damage: Damage, reason: str) -> None:
    path = write_apstar(tmp_path / "star.fits").path
    path.write_bytes(damage(path.read_bytes()))
    # The one unparsable card is found only when it is asked for.
    assert not is_plain(path) or "damaged" in reason
    assert_read_as_by_astropy(path)


#: Damage to the values of cards at the beginning of a header: those of structure.
in_structure = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 9), st.integers(0, 12), st.integers(8, 32)),
        st.sampled_from(b"0123456789-+.'=TFE /()"),
    ),
    min_size=1,
    max_size=2,
)


def test_random_damage_is_judged_as_by_astropy(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "star.fits"
    plain = 0

    # Without shrinking: a file that is read for ever would be read many times over.
    @settings(
        max_examples=500,
        derandomize=True,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
    )
    @given(
        era=st.sampled_from(["dr13", "dr17", "sdss5"]),
        at=in_structure | changes,
        end=st.none() | ends,
    )
    def check(
        era: Era, at: list[tuple[tuple[int, int, int] | float, int]], end: float | None
    ) -> None:
        nonlocal plain
        content, starts, _ = sound(era, folder)
        path.write_bytes(changed(content, starts, at, end))
        plain += is_plain(path)
        assert_read_as_by_astropy(path)

    check()
    assert plain > 30  # else the lean reader was hardly tested


def test_mutants_are_judged_as_by_astropy(tmp_path: Path) -> None:
    path = tmp_path / "mutant.fits"
    plain = 0
    for content in mutants(sound_files(tmp_path / "sound"), 200, seed=7):
        path.write_bytes(content)
        plain += is_plain(path)
        assert_read_as_by_astropy(path)
    assert plain > 20
