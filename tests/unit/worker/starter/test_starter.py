from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from pyarrow import parquet
from sqlalchemy import Engine, update

from producer.ledger.plan import Plan
from worker import starter
from worker.database.session import transaction
from worker.database.tables import AstroNN
from worker.errors import FatalError
from worker.identity import weights_sha256
from worker.labels import LABEL_NAMES
from worker.network.checkpoint import read_checkpoint
from worker.results.noise_model import read_noise_model
from worker.results.read import read_table
from worker.settings import Settings
from worker.spectra.pixels import N_PIXELS
from worker.starter import (
    STARTER_CORRECTIONS,
    STARTER_NAME,
    STARTER_NAMES,
    is_starter,
    weights_name,
)
from worker.tables.export import write_table


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Files in the place of the starter weights and their noise model."""
    folder = tmp_path / "starter"
    folder.mkdir()
    weights, corrections = folder / "starter.pt", folder / "starter.corrections.json"
    weights.write_bytes(b"simulated")
    corrections.write_text(json.dumps({name: {"scale": 2, "offset": 3} for name in LABEL_NAMES}))
    monkeypatch.setattr(starter, "STARTER_WEIGHTS", weights)
    monkeypatch.setattr(starter, "STARTER_CORRECTIONS", corrections)
    return weights


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Weights of the user's own."""
    path = tmp_path / "own.pt"
    path.write_bytes(b"own")
    return path


# --- Which weights, and which noise model --------------------------------------------------


def test_the_starter_weights_are_used_where_none_are_given(stand_in: Path, own: Path) -> None:
    assert Settings().weights_file == stand_in
    assert Settings(model=own).weights_file == own


def test_the_starter_weights_bring_their_noise_model_and_others_none(
    stand_in: Path, own: Path
) -> None:
    ours, others = weights_sha256(stand_in), weights_sha256(own)
    given = Path("/models/given.json")
    its_own = starter.STARTER_CORRECTIONS
    assert Settings().corrections_files(ours) == (its_own,)
    assert Settings(model=own).corrections_files(others) == ()
    assert Settings(corrections=given).corrections_files(ours) == (given, its_own)
    assert Settings(model=own, corrections=given).corrections_files(others) == (given,)


def test_the_noise_model_goes_by_the_labels_not_by_the_recorders_settings(
    stand_in: Path, own: Path
) -> None:
    assert Settings().corrections_files(weights_sha256(own)) == ()
    elsewhere = Settings(model=own).corrections_files(weights_sha256(stand_in))
    assert elsewhere == (starter.STARTER_CORRECTIONS,)


def test_a_child_process_uses_the_starter_weights_as_its_parent_does() -> None:
    program = "from worker.settings import get_settings; print(get_settings().weights_file)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | Settings().environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == starter.STARTER_WEIGHTS


def test_weights_are_known_by_their_content(stand_in: Path, own: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copy(stand_in, tmp_path / "renamed.pt"))
    assert is_starter(weights_sha256(copied))
    assert weights_name(copied, weights_sha256(copied)) == STARTER_NAME
    assert not is_starter(weights_sha256(own))
    assert weights_name(own, weights_sha256(own)) == "own.pt"


def test_a_name_that_is_no_text_can_be_stored(stand_in: Path) -> None:  # noqa: ARG001 - it is there
    name = weights_name(Path("/models") / os.fsdecode(b"\xffwn.pt"), "ab" * 32)
    assert name == "\\udcffwn.pt"


def test_where_the_starter_weights_were_removed_others_still_work(
    stand_in: Path, own: Path
) -> None:
    sha256 = weights_sha256(stand_in)
    stand_in.unlink()
    weights_sha256.cache_clear()
    assert not is_starter(sha256)
    assert weights_name(own, weights_sha256(own)) == "own.pt"
    with pytest.raises(FatalError, match=r"starter\.pt cannot be read"):
        weights_sha256(Settings().weights_file)


def test_a_plan_names_its_weights_and_takes_their_noise_model(
    stand_in: Path, own: Path, tmp_path: Path
) -> None:
    file = tmp_path / "apStar-r6-star.fits"
    file.touch()
    settings = Settings(data_root=tmp_path)
    plan = Plan.make([file], settings, wanted="both", tag="")
    assert (plan.weights, plan.weights_name) == (weights_sha256(stand_in), STARTER_NAME)
    assert plan.corrections == read_noise_model(starter.STARTER_CORRECTIONS).sha256
    plan = Plan.make([file], settings.changed(model=own), wanted="both", tag="")
    assert (plan.weights_name, plan.corrections) == ("own.pt", None)


# --- What an exported table says -----------------------------------------------------------

NOTE = f"2 of 5 rows come from the {STARTER_NAME}."


@pytest.fixture
def partly_starter(engine: Engine) -> Table:
    """A table with a row with labels and one without from the starter weights."""
    with transaction(engine) as session:
        changed = update(AstroNN).where(AstroNN.spectrum_pk.in_([2, 4]))
        session.execute(changed.values(weights_name=STARTER_NAME))
    return read_table(engine)


def test_a_table_says_how_much_of_it_is_simulated(partly_starter: Table) -> None:
    assert partly_starter.meta["notice"] == NOTE
    assert list(partly_starter["weights_name"]).count(STARTER_NAME) == 2
    assert partly_starter["flag_no_result"][partly_starter["weights_name"] == STARTER_NAME].any()


@pytest.mark.usefixtures("partly_starter")
def test_rows_that_bear_the_older_name_count_too(engine: Engine) -> None:
    with transaction(engine) as session:
        older = update(AstroNN).where(AstroNN.spectrum_pk == 2)
        session.execute(older.values(weights_name=STARTER_NAMES[1]))
    assert read_table(engine).meta["notice"] == NOTE


def test_a_table_of_other_weights_says_nothing_of_the_kind(table: Table, engine: Engine) -> None:
    assert "notice" not in table.meta
    assert "notice" not in read_table(engine, tag="none").meta


def test_every_format_says_so(partly_starter: Table, tmp_path: Path) -> None:
    for ending in (".fits", ".parquet", ".csv", ".ecsv"):
        write_table(partly_starter, tmp_path / f"labels{ending}")
        assert (tmp_path / f"labels{ending}").read_bytes().count(STARTER_NAME.encode()) >= 1
    with fits.open(tmp_path / "labels.fits") as hdus:
        comments = "".join(hdus["ASTRONN"].header["COMMENT"])
        assert hdus["ASTRONN"].data["weights_name"].tolist().count(STARTER_NAME) == 2
    assert "".join(NOTE.split()) in "".join(comments.split())
    schema = parquet.read_schema(tmp_path / "labels.parquet")
    assert json.loads(schema.metadata[b"astronn-stream"])["notice"] == NOTE
    assert Table.read(tmp_path / "labels.ecsv").meta["notice"] == NOTE


# --- What is shipped -----------------------------------------------------------------------


def test_the_shipped_files_belong_together(starter_weights: Path) -> None:
    assert starter_weights.stat().st_size <= 10 * 2**20
    assert (starter_weights.parent / "README.md").is_file()
    model = read_noise_model(STARTER_CORRECTIONS)
    assert (model.scale > 0).all()
    assert (model.apply(np.full(len(LABEL_NAMES), 0.01)) > 0).all()


def test_the_shipped_network_gives_finite_labels(starter_weights: Path) -> None:
    import torch

    network = read_checkpoint(starter_weights)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    flux = 1 - 0.1 * np.random.default_rng(0).random((2, N_PIXELS), dtype=np.float32)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(flux))
    assert all(torch.isfinite(output).all() for output in outputs)
