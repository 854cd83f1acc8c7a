"""Which spectra a message is about, in words: Flower shows them as the task's arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from worker.identity import COADD, stem
from worker.messages import Failure, SpectrumReference, Ticket

_LONGEST = 2000


def task_text(tickets: Sequence[Ticket], about: Iterable[SpectrumReference] = ()) -> str:
    """Which spectra these are: their files, their numbers, and why they failed if they did.

    Parameters
    ----------
    about
        Where the message has the spectra's numbers alone: what names their files.

    Returns
    -------
    str
        For example ``(4 spectra: apStar-r13-2M00452143+1634446: coadd, 3 visits [7, 8, 9, 10])``.
    """
    known = {each.spectrum: each for each in [*about, *_references(tickets)]}
    files: dict[str, list[int]] = {}
    for ticket in tickets:
        reference = known.get(ticket.spectrum)
        files.setdefault(stem(reference.path) if reference else "", []).append(ticket.spectrum)
    parts = [_file(name, numbers, known) for name, numbers in files.items()]
    noun = "spectrum" if len(tickets) == 1 else "spectra"
    text = f"{len(tickets)} {noun}: {'; '.join(parts)}{_reason(tickets)}"
    return f"({text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'})"


def _references(tickets: Iterable[Ticket]) -> list[SpectrumReference]:
    return [each for each in tickets if isinstance(each, SpectrumReference)]


def _file(name: str, numbers: list[int], known: dict[int, SpectrumReference]) -> str:
    listed = f"[{', '.join(map(str, numbers))}]"
    if not name:
        return listed
    visits = sum(known[number].member != COADD for number in numbers)
    members = ["coadd"] if visits < len(numbers) else []
    members += [f"{visits} visit{'s' if visits > 1 else ''}"] if visits else []
    return f"{name}: {', '.join(members)} {listed}"


def _reason(tickets: Sequence[Ticket]) -> str:
    reasons = list(dict.fromkeys(each.reason for each in tickets if isinstance(each, Failure)))
    if not reasons:
        return ""
    more = f" (and {len(reasons) - 1} more reasons)" if len(reasons) > 1 else ""
    return f"; {reasons[0]}{more}"
