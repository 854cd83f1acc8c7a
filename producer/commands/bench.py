"""The command ``astronn-stream bench``: how fast it is here, beside plain code."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import DeviceOption, Model, settings_with
from producer.commands.screen import console, progress_console, say, telling_interruption
from worker.atomic_file import check_folder
from worker.errors import UsageError
from worker.settings import Settings
from worker.spectra.oracle import require_astronn

if TYPE_CHECKING:
    from producer.bench.measured import Tell
    from producer.bench.parts import Options

_DATA, _PICTURE = "bench.json", "bench.png"
_LARGEST_BATCH = 65_536
#: The benchmark keeps to itself, whatever stack and database are configured.
_ITS_OWN = ("broker_url", "arrays_url", "database_url", "data_root")
#: What can be measured.
_PARTS = ("engine", "load", "stream", "live")


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PART",
            help=f"Any of {', '.join(_PARTS)}; without a part all of them.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help=f"Where {_DATA} and {_PICTURE} go.")
    ] = Path("astronn-bench"),
    batches: Annotated[
        str, typer.Option("--batches", metavar="N,N,...", help="Batch sizes for the engines.")
    ] = "1,16,64,256,1024",
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds",
            min=1,
            max=1000,
            help="Timed rounds of each way, at most; slow ways run fewer.",
        ),
    ] = 5,
    spectra: Annotated[
        int, typer.Option("--spectra", min=10, max=1_000_000, help="Through the stream, about.")
    ] = 4000,
    files: Annotated[
        Path | None,
        typer.Option("--files", metavar="DIR", help="Measure loading on these apStar files too."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Only check that it works, in a minute; figures are rough."),
    ] = False,
    model: Model = None,
    device: DeviceOption = None,
) -> None:
    """Measure how fast it is on this machine, beside plain code in the same run.

    `engine`: inference beside the plain loop of 100 passes. `load`: files beside astropy and
    astroNN. `stream`: the whole of `run` beside a plain serial pipeline. `live`: one visit
    through an idle stack. Beside each figure stand the floor, which is what the arithmetic alone
    would take, and the fraction of it that is reached.

    It simulates its own spectra in a temporary folder. Leave the machine alone meanwhile; all of
    it takes about ten minutes. See docs/benchmarks.md.
    """
    from producer.bench.parts import Options

    if unknown := set(parts or ()).difference(_PARTS):
        raise UsageError(f"There is no part {min(unknown)!r}; there are {', '.join(_PARTS)}.")
    chosen = parts or _PARTS
    if list(chosen) != ["engine"]:
        require_astronn()
    options = Options(_batch_sizes(batches), rounds, spectra)
    if quick:
        options = options.quick()
    settings = settings_with(model).apart(*_ITS_OWN, device=device)
    _make_folders(out, files)
    with telling_interruption(f"parts that were done are in {out}"):
        _measure(settings, chosen, options, out, files)


def _measure(
    settings: Settings, wanted: Collection[str], options: Options, out: Path, files: Path | None
) -> None:
    """Measure part by part; whatever ends it, what was measured before is kept."""
    from producer.bench.machine import sentence, this_machine
    from producer.bench.measured import Measured
    from producer.bench.parts import measure
    from producer.bench.picture import draw
    from producer.bench.report import as_json, screen, write

    machine = this_machine()
    say(sentence(machine))
    measured: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="astronn-bench-") as folder:
        for part in _PARTS:  # in this order, however they are named
            if part not in wanted:
                continue
            with _telling(part) as tell:
                measured[part] = measure(part, settings, options, Path(folder) / part, files, tell)
            console.print(screen(part, measured[part]))
            write(out / _DATA, as_json(machine, asdict(options), measured))
            draw(out / _PICTURE, machine, measured)
    say(f"Figures and picture: {out / _DATA}, {out / _PICTURE}")


@contextmanager
def _telling(part: str) -> Iterator[Tell]:
    """Show on a terminal what is being measured."""
    with progress_console.status(f"{part}: beginning", refresh_per_second=4) as status:
        yield lambda what: status.update(f"{part}: {what}")


def _batch_sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = sorted({int(each) for each in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or not (sizes[0] >= 1 and sizes[-1] <= _LARGEST_BATCH):
        raise UsageError(
            f"--batches takes whole numbers from 1 to {_LARGEST_BATCH}, such as 1,16,64."
        )
    return tuple(sizes)


def _make_folders(out: Path, files: Path | None) -> None:
    if files is not None and not files.is_dir():
        raise UsageError(f"--files {files}: there is no such folder.")
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
