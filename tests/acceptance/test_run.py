"""The main job, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import DONE, Workplace, assert_same_rows
from tests.conftest import shared
from worker.identity import weights_sha256
from worker.labels import LABEL_NAMES
from worker.network.weights.notice import notice_of
from worker.queues import STAGES
from worker.starter.bundled import DEMONSTRATION, STARTER

#: What is said of simulated spectra that are given to weights that do not know them.
FOR_SIMULATED = "--model demonstration"


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "work")


def job_on(spectra: Path, weights: Path, noise_model: Path) -> list[object]:
    """The README's main job."""
    return ["run", spectra, "--model", weights, "--corrections", noise_model]


@pytest.fixture(scope="module")
def job(spectra: Path, own_weights: Path, own_noise_model: Path) -> list[object]:
    """The main job on simulated spectra."""
    return job_on(spectra, own_weights, own_noise_model)


@pytest.fixture(scope="module")
def real_job() -> list[object]:
    """The main job on real spectra with the peers' weights and noise model."""
    noise_model = shared("corrections", "AstroNN_corrections.pkl")
    return job_on(shared("apstar"), shared("peer_models", "astra", "astra_style.pt"), noise_model)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory, job: list[object]) -> Workplace:
    """The main job, done through the stream."""
    place = Workplace(tmp_path_factory.mktemp("streamed") / "work")
    (place.folder / "output.txt").write_text(place.run(*job))
    return place


def assert_every_spectrum_has_its_row(table: Table) -> None:
    assert len(table) == 44
    assert (table["kind"] == b"coadd").sum() == 10
    assert (table["kind"] == b"visit").sum() == 34
    assert not table["flag_no_result"].any()
    for name in LABEL_NAMES:
        assert np.isfinite(table[name]).all()
        assert (table[f"e_{name}"] > 0).all()


def assert_noise_model_is_applied(table: Table) -> None:
    np.testing.assert_allclose(table["e_teff"], table["raw_e_teff"] + 21.54434690031882, rtol=1e-6)
    np.testing.assert_allclose(table["e_o_h"], 2 * table["raw_e_o_h"] + 0.0278255940, rtol=1e-5)


def test_every_spectrum_gets_its_row_and_the_noise_model_is_applied(streamed: Workplace) -> None:
    assert_every_spectrum_has_its_row(streamed.table())
    assert_noise_model_is_applied(streamed.table())
    assert len(np.unique(np.asarray(streamed.table()["p_training"]))) > 20


def test_real_files_and_the_peers_weights_give_the_same_rows_in_both_modes(
    place: Workplace, real_job: list[object]
) -> None:
    place.run(*real_job)
    table = place.table()
    assert_every_spectrum_has_its_row(table)
    assert_noise_model_is_applied(table)
    place.run(*real_job, "--serial", "--tag", "serial", "--out", "serial.fits")
    assert_same_rows(table, place.table("serial.fits"), besides={"tag", "task_pk"})


def test_the_summary_says_what_came_out(streamed: Workplace) -> None:
    output = (streamed.folder / "output.txt").read_text()
    assert re.search(r"Processed 44 spectra in [\d.]+ s, [\d.]+ per second", output)
    assert "44 spectra (10 coadds, 34 visits): 44 with labels, 0 without." in output
    assert re.search(
        r"Flagged: \d+ flag_warn \(\d+ flag_uncertain_logg, .*\), \d+ flag_bad", output
    )
    assert "labels.fits: 44 rows" in output


def test_only_the_table_and_the_database_stay(streamed: Workplace) -> None:
    assert streamed.files() == {"labels.fits", "astronn-stream.sqlite", "output.txt"}
    assert streamed.left_behind() == []


def test_serial_mode_gives_the_same_rows(
    streamed: Workplace, place: Workplace, job: list[object]
) -> None:
    place.run(*job, "--serial")
    assert_same_rows(streamed.table(), place.table())
    assert place.files() == {"labels.fits", "astronn-stream.sqlite"}
    assert place.left_behind() == []


def test_run_again_computes_nothing_and_says_so(streamed: Workplace, job: list[object]) -> None:
    output = streamed.run(*job, "--out", "again.fits")
    assert "Nothing to compute: all 44 spectra have results already" in output
    again = streamed.table("again.fits")
    assert_same_rows(streamed.table(), again)
    assert (again["modified"] == streamed.table()["modified"]).all()
    (streamed.folder / "again.fits").unlink()


def test_other_settings_under_the_same_tag_are_pointed_out(
    streamed: Workplace, job: list[object]
) -> None:
    output = streamed.run(*job[:-2], "--out", "again.fits")
    assert "44 results were made before with another noise model" in output
    (streamed.folder / "again.fits").unlink()


def test_another_tag_computes_all_anew_with_the_same_values(
    streamed: Workplace, job: list[object]
) -> None:
    output = streamed.run(*job, "--tag", "b", "--out", "b.fits")
    assert "Processed 44 spectra" in output
    assert_same_rows(streamed.table(), streamed.table("b.fits"), besides={"tag", "task_pk"})
    (streamed.folder / "b.fits").unlink()


def test_without_weights_the_starter_weights_are_used_and_every_row_says_so(
    place: Workplace, spectra: Path
) -> None:
    notice = notice_of(weights_sha256(STARTER.weights))
    assert notice is not None
    files = sorted(spectra.iterdir())[:2]
    (place.folder / "text.fits").write_text("not FITS at all\n")
    output = place.run("run", *files, "text.fits", "--serial")
    assert output.count(notice) == output.count(FOR_SIMULATED) == 1
    table = place.table()
    assert (table["weights_name"] == STARTER.rows_name).all()
    assert table["flag_no_result"].sum() == 1
    labelled = table[~table["flag_no_result"]]
    factors = json.loads(STARTER.corrections.read_text())["teff"]
    by_snr = np.interp(labelled["snr"], factors["by_snr"]["snr"], factors["by_snr"]["factor"])
    assert (labelled["snr"] > 0).all()
    assert labelled["c_h"].mask.all()  # not learnt
    expected = (factors["scale"] * labelled["raw_e_teff"] + factors["offset"]) * by_snr
    np.testing.assert_allclose(labelled["e_teff"], expected, rtol=1e-6)
    with fits.open(place.folder / "labels.fits") as hdus:
        assert "starter weights" in str(hdus["ASTRONN"].header["COMMENT"])
    streamed = place.run("run", *files, "text.fits", "--tag", "streamed", "--out", "b.fits")
    assert streamed.count(notice) == streamed.count(FOR_SIMULATED) == 1
    assert_same_rows(table, place.table("b.fits"), besides={"tag", "task_pk"})
    copied = shutil.copy(STARTER.weights, place.folder / "renamed.pt")
    again = place.run("run", *files, "--model", copied, "--out", "c.fits")
    assert "Nothing to compute" in again
    assert notice in again


def test_simulated_spectra_get_all_labels_of_the_demonstration_by_its_name(
    place: Workplace, spectra: Path
) -> None:
    file = next(spectra.iterdir())
    output = place.run("run", file, "--serial", "--model", "demonstration")
    assert output.count(DEMONSTRATION.notice(0)) == 1
    assert FOR_SIMULATED not in output
    table = place.table()
    assert (table["weights_name"] == DEMONSTRATION.rows_name).all()
    assert all(np.isfinite(table[name]).all() for name in LABEL_NAMES)


@pytest.fixture
def slow(place: Workplace) -> Workplace:
    """A workplace where the main job takes long enough to be disturbed."""
    place.environment |= {"ASTRONN_STREAM_MC_SAMPLES": "300", "ASTRONN_STREAM_CHUNK_SIZE": "4"}
    return place


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, job: list[object]) -> Workplace:
    """The slow main job, done in peace."""
    place = Workplace(tmp_path_factory.mktemp("undisturbed") / "work")
    place.environment |= {"ASTRONN_STREAM_MC_SAMPLES": "300", "ASTRONN_STREAM_CHUNK_SIZE": "4"}
    place.run(*job, "--serial")
    return place


@pytest.mark.parametrize(
    ("mode", "number"),
    [
        ([], signal.SIGINT),
        ([], signal.SIGKILL),
        (["--serial"], signal.SIGTERM),
        (["--serial"], signal.SIGKILL),
    ],
)
def test_an_interrupted_run_goes_on_where_it_stopped(
    slow: Workplace,
    undisturbed: Workplace,
    job: list[object],
    mode: list[str],
    number: signal.Signals,
) -> None:
    process = slow.start(*job, *mode)
    wait_for(lambda: slow.count(DONE) >= 4, "the first results")
    status = -signal.SIGKILL if number == signal.SIGKILL else 130
    output = slow.stop(process, number, status)
    assert number == signal.SIGKILL or "goes on where it stopped" in output
    wait_for(lambda: not slow.left_behind(), "the workers to stop", 40)
    before = slow.count(DONE)
    assert 4 <= before < 44
    assert f"; {before} had results already" in slow.run(*job, *mode)
    assert_same_rows(undisturbed.table(), slow.table(), besides={"task_pk"})
    assert slow.files() == {"labels.fits", "astronn-stream.sqlite"}


def test_workers_that_are_killed_are_replaced_and_nothing_is_lost(
    slow: Workplace, undisturbed: Workplace, job: list[object]
) -> None:
    process = slow.start(*job)
    wait_for(lambda: slow.count(DONE) >= 1, "the first result")
    killed = [worker for stage in STAGES for worker in slow.workers(stage)]
    assert len(killed) == len(STAGES)
    for worker in killed:
        worker.kill()
    slow.finish(process)
    assert_same_rows(undisturbed.table(), slow.table())
    assert slow.left_behind() == []


@pytest.fixture
def simulated_visit(tmp_path: Path) -> Path:
    """A visit's own file, with the three detectors in rows, which is not an apStar file."""
    images = [fits.ImageHDU(np.ones((3, 4096), "f4")) for _ in range(3)]
    path = tmp_path / "apVisit-r13-5095-55844-128.fits"
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path)
    return path


@pytest.fixture
def good_and_bad(place: Workplace, spectra: Path, simulated_visit: Path) -> Path:
    """Four bad files beside a good one."""
    return fill(place.folder / "spectra", spectra, simulated_visit)


@pytest.fixture
def real_good_and_bad(place: Workplace) -> Path:
    visit = shared("apVisit-r13-5095-55844-128.fits")
    return fill(place.folder / "spectra", shared("apstar"), visit)


def fill(folder: Path, spectra: Path, visit: Path) -> Path:
    folder.mkdir()
    good, other = sorted(spectra.iterdir())[:2]
    # The name of the good one is no UTF-8.
    shutil.copy(good, folder / os.fsdecode(b"apStar-dr17-2M\xff\xfe.fits"))
    shutil.copy(visit, folder)
    (folder / other.name).write_bytes(other.read_bytes()[:150_000])
    (folder / "text.fits").write_text("not FITS at all\n")
    (folder / "x.fits").mkdir()
    return folder


@pytest.mark.parametrize(
    ("files", "mode"),
    [
        ("good_and_bad", []),
        ("good_and_bad", ["--serial"]),
        ("real_good_and_bad", ["--serial"]),
    ],
    ids=["stream", "serial", "real files"],
)
def test_bad_files_get_one_reason_each_and_the_good_one_its_labels(
    request: pytest.FixtureRequest,
    place: Workplace,
    own_weights: Path,
    files: str,
    mode: list[str],
) -> None:
    folder = request.getfixturevalue(files)
    output = place.run("run", folder, "--model", own_weights, *mode)
    short, good = sorted(folder.glob("apStar-*"), key=lambda file: file.stat().st_size)
    assert f"{1 + fits.getheader(good)['NVISITS']} with labels, 4 without" in output
    table = place.table()
    failed = table[table["flag_no_result"]]
    reasons = sorted(str(reason) for reason in failed["no_result_reason"])
    beginnings = [f"{short.name} is incomplete", "apVisit-r13-", "text.fits is not", "x.fits is a"]
    assert len(reasons) == len(beginnings)
    for reason, beginning in zip(reasons, beginnings, strict=True):
        assert reason.startswith(beginning)
        assert output.count(reason) == 1
    assert failed["teff"].mask.all()  # astropy reads NaN as masked
    assert (failed["result_flags"] == 2**11).all()
    labelled = table[~table["flag_no_result"]]
    assert np.isfinite(labelled["teff"]).all()
    assert all(path.endswith(r"/apStar-dr17-2M\udcff\udcfe.fits") for path in labelled["path"])


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["nowhere", "--model", "{weights}"], 2, "nowhere does not exist"),
        (["{folder}", "--model", "none.pt"], 2, "none.pt: there is no such file"),
        (["{folder}", "--model", "{weights}", "--out", "x.txt"], 2, "must end in one of"),
        (
            ["{folder}", "--model", "{weights}", "--corrections", "{evil}"],
            1,
            "Nothing of it was run",
        ),
        (["{folder}", "--model", "{evil}"], 1, "is not a PyTorch checkpoint"),
        (["{folder}", "--model", "{evil}", "--serial"], 1, "is not a PyTorch checkpoint"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    place: Workplace,
    tmp_path: Path,
    spectra: Path,
    own_weights: Path,
    arguments: list[str],
    status: int,
    sentence: str,
) -> None:
    evil = tmp_path / "evil.pkl"
    evil.write_bytes(b"cos\nsystem\n(S'touch it-was-run'\ntR.")
    given = [a.format(folder=spectra, weights=own_weights, evil=evil) for a in arguments]
    output = place.run("run", *given, status=status)
    assert sentence in output
    assert "Traceback" not in output
    assert place.left_behind() == []
    assert place.files() <= {"astronn-stream.sqlite"}
