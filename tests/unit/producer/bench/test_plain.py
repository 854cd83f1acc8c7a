"""The plain code that the benchmark compares with does the same work as ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import select

from producer.bench.plain_loading import file_by_file, row_by_row
from producer.bench.plain_network import plain_loop
from producer.bench.plain_pipeline import RESULTS, PlainPipeline
from producer.bench.spectra import simulate_files
from worker.database.session import opened, reading
from worker.database.tables import label_columns
from worker.flags import flag_uncertain
from worker.identity import Place
from worker.network.checkpoint import read_checkpoint
from worker.network.engines.choose import every_engine, open_engine
from worker.network.model import ApogeeBCNNCensored
from worker.results.noise_model import read_noise_model
from worker.settings import Settings
from worker.spectra.load import load_spectra
from worker.starter.bundled import DEMONSTRATION

Files = tuple[Path, list[Place]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Two stars of each era."""
    folder = tmp_path_factory.mktemp("survey")
    return folder, simulate_files(folder, 6, 2)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads of torch wait for each other, and on a busy machine for everyone else."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(demonstration_weights: Path) -> ApogeeBCNNCensored:
    return read_checkpoint(demonstration_weights)


@pytest.mark.parametrize("load", [row_by_row, file_by_file])
@pytest.mark.parametrize("coadd_mask", ["and", "or"])
def test_the_plain_ways_give_the_flux_of_the_load_stage(
    files: Files, load: object, coadd_mask: str
) -> None:
    loaded = load_spectra(files[1], files[0], coadd_mask)
    assert not loaded.failures
    found = load(*files, coadd_mask)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, loaded.flux, rtol=1e-6, atol=1e-6)


def test_the_plain_loop_agrees_with_the_engine(files: Files, model: ApogeeBCNNCensored) -> None:
    torch.manual_seed(20261123)
    loops, passes = 20, 10
    flux = load_spectra(files[1][:6], files[0], "and").flux
    keys = [str(n) for n in range(6)]
    parts = [plain_loop(model, flux, passes) for _ in range(loops)]
    labels, e_labels = (np.stack(part) for part in zip(*parts, strict=True))
    engine = open_engine(model, mc_samples=loops * passes, seed=1)
    expected, e_expected = engine(flux, keys)
    # Both means scatter like the mean of the loops.
    standard_error = labels.std(axis=0, ddof=1) * np.sqrt(2 / loops)
    z = (labels.mean(axis=0) - expected) / standard_error
    # 6 x 22 = 132 scores of 19 degrees of freedom, whose squares have a mean of 19 / 17. Labels
    # share the full-spectrum branch; if they made but 12 independent ones, the mean would
    # scatter by 0.5 around it. Three of those scatters are allowed.
    assert 0.3 < (z**2).mean() < 2.7
    assert np.abs(z).max() < 6
    assert abs(z.mean()) < 1
    # A spread over 10 passes has an error of 24 %, the mean of 20 of them one of 5 %.
    assert np.abs(e_labels.mean(axis=0) / e_expected - 1).max() < 0.2


def test_the_plain_pipeline_writes_a_row_for_each_spectrum(
    files: Files, model: ApogeeBCNNCensored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    monkeypatch.setattr("producer.bench.plain_pipeline.BATCH", 4)  # the last batch is not full
    folder, spectra = files[0], files[1][:6]
    settings = Settings(mc_samples=40, model=DEMONSTRATION.weights)
    with opened(f"sqlite:///{tmp_path / 'plain.sqlite'}") as engine:
        PlainPipeline(settings, engine).process(folder, spectra)
        with reading(engine) as connection:
            rows = connection.execute(select(RESULTS)).mappings().all()
    assert [row["natural_key"] for row in rows] == [each.natural_key for each in spectra]
    columns = np.array([[row[name] for name in label_columns()] for row in rows])
    labels, e_labels, raw, raw_e = np.split(columns, 4, axis=1)
    np.testing.assert_array_equal(labels, raw)
    np.testing.assert_allclose(e_labels, read_noise_model(DEMONSTRATION.corrections).apply(raw_e))
    assert [row["result_flags"] for row in rows] == flag_uncertain(labels, e_labels).tolist()
    flux = load_spectra(spectra, folder, settings.coadd_mask).flux
    keys = [each.natural_key for each in spectra]
    expected, e_expected = open_engine(model, mc_samples=40, seed=0)(flux, keys)
    # The passes scatter by no more than the whole uncertainty: five standard errors.
    assert (np.abs(labels - expected) < 5 * e_expected * np.sqrt(2 / 40)).all()


def test_every_engine_is_there_once_and_the_fastest_among_them(model: ApogeeBCNNCensored) -> None:
    names = [each.name for each in every_engine(model, mc_samples=2, seed=0, device="cpu")]
    assert names[0] == "torch"
    assert len(names) == len(set(names))
    assert open_engine(model, mc_samples=2, seed=0).name in names
    assert "cpu (float32)" in names
