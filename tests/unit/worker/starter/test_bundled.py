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
from worker.database.session import transaction
from worker.database.tables import AstroNN
from worker.errors import FatalError
from worker.identity import weights_sha256
from worker.labels import LABEL_NAMES
from worker.network.checkpoint import read_checkpoint, read_not_learnt
from worker.network.weights.notice import notice_of
from worker.results.noise_model import read_noise_model
from worker.results.read import read_table
from worker.settings import Settings
from worker.spectra.pixels import N_PIXELS
from worker.starter import bundled
from worker.starter.bundled import (
    BUNDLED,
    DEMONSTRATION,
    STARTER,
    Bundled,
    bundled_with,
    weights_name,
    weights_path,
)
from worker.tables.export import write_table


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Files in the place of the weights of the package and their noise models; the starter's."""
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "starter")
    bundled.FOLDER.mkdir()
    for scale, each in enumerate(BUNDLED, 2):
        each.weights.write_bytes(each.name.encode())
        factors = {name: {"scale": scale, "offset": 3} for name in LABEL_NAMES}
        each.corrections.write_text(json.dumps(factors))
    return STARTER.weights


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


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("each", BUNDLED)
def test_a_name_stands_for_its_weights_wherever_weights_are_named(
    each: Bundled, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings(model=each.name).weights_file == each.weights  # type: ignore[arg-type]
    assert Settings().changed(model=each.name).weights_file == each.weights
    monkeypatch.setenv("ASTRONN_STREAM_MODEL", each.name)
    monkeypatch.setenv("ASTRONN_STREAM_ALSO_MODELS", f"{own}{os.pathsep}{each.name}")
    assert Settings().weights_files == (each.weights, own)


def test_a_name_goes_before_a_file_of_that_name_unless_a_dot_says_otherwise(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "work" / "starter"
    file.parent.mkdir()
    file.write_bytes(b"own")
    monkeypatch.chdir(file.parent)
    for given, meant in (("starter", stand_in), ("./starter", file), (str(file), file)):
        monkeypatch.setenv("ASTRONN_STREAM_MODEL", given)
        monkeypatch.setenv("ASTRONN_STREAM_ALSO_MODELS", given)
        assert Settings().weights_files == (meant,)
        assert weights_path(given) == meant


@pytest.mark.parametrize("each", BUNDLED)
def test_weights_of_the_package_bring_their_noise_model_and_others_none(
    stand_in: Path, own: Path, each: Bundled
) -> None:
    ours, others = weights_sha256(each.weights), weights_sha256(own)
    given = Path("/models/given.json")
    its_own = each.corrections
    assert stand_in.parent == its_own.parent
    assert Settings().corrections_files(ours) == (its_own,)
    assert Settings(model=own).corrections_files(others) == ()
    assert Settings(corrections=given).corrections_files(ours) == (given, its_own)
    assert Settings(model=own, corrections=given).corrections_files(others) == (given,)


def test_the_noise_model_goes_by_the_labels_not_by_the_recorders_settings(
    stand_in: Path, own: Path
) -> None:
    assert Settings().corrections_files(weights_sha256(own)) == ()
    elsewhere = Settings(model=own).corrections_files(weights_sha256(stand_in))
    assert elsewhere == (STARTER.corrections,)


def test_a_child_process_uses_the_starter_weights_as_its_parent_does() -> None:
    program = "from worker.settings import get_settings; print(get_settings().weights_file)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | Settings().environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == STARTER.weights


@pytest.mark.usefixtures("stand_in")
def test_weights_are_known_by_their_content(own: Path, tmp_path: Path) -> None:
    for each in BUNDLED:
        copied = Path(shutil.copy(each.weights, tmp_path / f"renamed-{each.name}.pt"))
        assert bundled_with(weights_sha256(copied)) is each
        assert weights_name(copied, weights_sha256(copied)) == each.rows_name
    assert bundled_with(weights_sha256(own)) is None
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
    assert bundled_with(sha256) is None
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
    assert (plan.weights, plan.weights_name) == (weights_sha256(stand_in), STARTER.rows_name)
    assert plan.corrections == read_noise_model(STARTER.corrections).sha256
    plan = Plan.make([file], settings.changed(model=own), wanted="both", tag="")
    assert (plan.weights_name, plan.corrections) == ("own.pt", None)


# --- What an exported table says -----------------------------------------------------------

NOTE = f"2 of 5 rows come from the {STARTER.rows_name}."


@pytest.fixture
def partly_starter(engine: Engine) -> Table:
    """A table with a row with labels and one without from the starter weights."""
    with transaction(engine) as session:
        changed = update(AstroNN).where(AstroNN.spectrum_pk.in_([2, 4]))
        session.execute(changed.values(weights_name=STARTER.rows_name))
    return read_table(engine)


def test_a_table_says_how_much_of_it_is_for_a_first_look(partly_starter: Table) -> None:
    assert partly_starter.meta["notice"] == NOTE
    assert list(partly_starter["weights_name"]).count(STARTER.rows_name) == 2
    of_starter = partly_starter["weights_name"] == STARTER.rows_name
    assert partly_starter["flag_no_result"][of_starter].any()


@pytest.mark.parametrize("older", DEMONSTRATION.older_names)
@pytest.mark.usefixtures("partly_starter")
def test_rows_that_bear_an_older_name_are_the_demonstrations(engine: Engine, older: str) -> None:
    both = {4: DEMONSTRATION.rows_name, 5: older}
    with transaction(engine) as session:
        for spectrum, name in both.items():
            changed = update(AstroNN).where(AstroNN.spectrum_pk == spectrum)
            session.execute(changed.values(weights_name=name))
    assert read_table(engine).meta["notice"] == (
        f"2 of 5 rows come from the {DEMONSTRATION.rows_name}. "
        f"1 of 5 rows come from the {STARTER.rows_name}."
    )


def test_a_table_of_other_weights_says_nothing_of_the_kind(table: Table, engine: Engine) -> None:
    assert "notice" not in table.meta
    assert "notice" not in read_table(engine, tag="none").meta


def test_every_format_says_so(partly_starter: Table, tmp_path: Path) -> None:
    for ending in (".fits", ".parquet", ".csv", ".ecsv"):
        write_table(partly_starter, tmp_path / f"labels{ending}")
        assert (tmp_path / f"labels{ending}").read_bytes().count(STARTER.rows_name.encode()) >= 1
    with fits.open(tmp_path / "labels.fits") as hdus:
        comments = "".join(hdus["ASTRONN"].header["COMMENT"])
        assert hdus["ASTRONN"].data["weights_name"].tolist().count(STARTER.rows_name) == 2
    assert "".join(NOTE.split()) in "".join(comments.split())
    schema = parquet.read_schema(tmp_path / "labels.parquet")
    assert json.loads(schema.metadata[b"astronn-stream"])["notice"] == NOTE
    assert Table.read(tmp_path / "labels.ecsv").meta["notice"] == NOTE


# --- What is shipped -----------------------------------------------------------------------


@pytest.mark.parametrize("each", BUNDLED)
def test_the_shipped_files_belong_together(each: Bundled) -> None:
    assert each.weights.stat().st_size <= 10 * 2**20
    assert (each.weights.parent / "README.md").is_file()
    model = read_noise_model(each.corrections)
    assert (model.scale > 0).all()
    assert (model.apply(np.full(len(LABEL_NAMES), 0.01)) > 0).all()


@pytest.mark.parametrize("each", BUNDLED)
def test_a_shipped_network_gives_finite_labels(each: Bundled) -> None:
    import torch

    network = read_checkpoint(each.weights)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    flux = 1 - 0.1 * np.random.default_rng(0).random((2, N_PIXELS), dtype=np.float32)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(flux))
    assert all(torch.isfinite(output).all() for output in outputs)


def test_what_commands_say_counts_the_labels_that_are_not_learnt() -> None:
    starter = notice_of(weights_sha256(STARTER.weights))
    learnt = ["teff", "logg", "fe_h", "o_h", "mg_h", "si_h", "s_h", "ca_h", "ti_h"]
    assert list(read_not_learnt(STARTER.weights)) == [
        name for name in LABEL_NAMES if name not in learnt
    ]
    assert starter is not None
    assert "13 of 22 labels are not learnt" in starter
    assert "--model" in starter
    demonstration = notice_of(weights_sha256(DEMONSTRATION.weights))
    assert demonstration == DEMONSTRATION.notice(0)
    assert "mean nothing" in demonstration
    assert "\n" not in starter + demonstration


def test_nothing_is_said_of_weights_of_ones_own(own: Path) -> None:
    assert notice_of(weights_sha256(own)) is None
