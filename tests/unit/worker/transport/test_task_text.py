"""How people are told which spectra a message is about."""

from __future__ import annotations

from worker.messages import Failure, SpectrumReference, Ticket
from worker.transport.task_text import task_text


def reference(number: int, path: str = "a/apStar-r13-2M1.fits", member: str = "coadd") -> Ticket:
    return SpectrumReference(
        job=100 + number,
        spectrum=number,
        file_version="1",
        path=path,
        member=member,
        snr=None,
        mask_key="",
    )


def failure(number: int, reason: str) -> Failure:
    return Failure(
        job=100 + number, spectrum=number, file_version="1", natural_key="a/coadd", reason=reason
    )


VISITS = [reference(number, member=f"apVisit-{number}.fits") for number in (2, 3)]
OTHER = reference(9, "b/apStar-r13-2M2.fits.gz")


def test_files_members_and_numbers_are_told() -> None:
    assert task_text([reference(1), *VISITS, OTHER]) == (
        "(4 spectra: apStar-r13-2M1: coadd, 2 visits [1, 2, 3]; apStar-r13-2M2: coadd [9])"
    )
    assert task_text(VISITS[:1]) == "(1 spectrum: apStar-r13-2M1: 1 visit [2])"


def test_what_bears_numbers_alone_is_told_by_what_it_is_about() -> None:
    failures = [failure(2, "It is empty."), failure(4, "It is gone.")]
    assert task_text(failures, about=[reference(1), *VISITS]) == (  # type: ignore[list-item]
        "(2 spectra: apStar-r13-2M1: 1 visit [2]; [4]; It is empty. (and 1 more reasons))"
    )
    assert task_text([failure(4, "It is gone.")]) == "(1 spectrum: [4]; It is gone.)"


def test_a_long_list_is_cut_but_its_number_is_told() -> None:
    shown = task_text([reference(number, f"apStar-{number}.fits") for number in range(5000)])
    assert shown.startswith("(5000 spectra: apStar-0: coadd [0]; ")
    assert len(shown) < 2100
    assert shown.endswith(" ...)")
