from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from producer.commands.main import command_line
from tests.inputs.keras_folders import KerasFolder, keras_folder
from tests.inputs.keras_written import DR17
from worker.errors import FatalError, UsageError
from worker.labels import LABEL_NAMES
from worker.network.checkpoint import read_checkpoint, read_metadata, write_checkpoint
from worker.network.keras.convert import convert
from worker.network.published import PUBLISHED
from worker.settings import PREFIX, get_settings
from worker.starter.bundled import BUNDLED, STARTER, Bundled


@pytest.fixture(autouse=True)
def _few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}MC_SAMPLES", "3")
    get_settings.cache_clear()


def model(*arguments: object) -> Result:
    app = command_line(["model"])
    return CliRunner().invoke(app, ["model", *map(str, arguments)])


def printed(*arguments: object) -> str:
    result = model(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_folder_is_converted_described_and_verified(tmp_path: Path) -> None:
    out = tmp_path / "dr17.pt"
    text = printed("convert", keras_folder(DR17), out)
    assert "ApogeeBCNNCensored, 3,992,530 parameters" in text
    assert "dense 256, 96" in text
    assert f"astronn-stream model verify {out}" in text
    converted = convert(keras_folder(DR17))
    for key, value in converted.model.state_dict().items():
        torch.testing.assert_close(read_checkpoint(out).state_dict()[key], value, rtol=0, atol=0)
    assert read_metadata(out) == converted.metadata
    text = printed("info", out)
    assert all(str(value) in text for value in converted.metadata.values())
    assert all(name in text for name in LABEL_NAMES)
    lines = printed("verify", out, "--device", "cpu").splitlines()
    assert len(lines) == 10
    assert all(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize("each", BUNDLED, ids=lambda each: each.name)
def test_weights_of_the_package_are_described_by_their_name(each: Bundled) -> None:
    text = printed("info", each.name)
    assert str(each.weights) in text
    assert each.rows_name in text
    assert json.loads(printed("info", each.name, "--json"))["file"] == str(each.weights)


def test_a_file_called_like_weights_of_the_package_is_named_with_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "starter", convert(keras_folder(DR17)).model, {"origin": "mine"})
    described = json.loads(printed("info", "./starter", "--json"))
    assert described["metadata"] == {"origin": "mine"}
    assert json.loads(printed("info", "starter", "--json"))["file"] == str(STARTER.weights)


def test_a_checkpoint_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    out = tmp_path / "weights.pt"
    out.write_bytes(b"precious")
    result = model("convert", keras_folder(DR17), out)
    assert isinstance(result.exception, UsageError)
    assert "exists already; --force replaces it" in str(result.exception)
    assert out.read_bytes() == b"precious"
    printed("convert", keras_folder(DR17), out, "--force")
    assert read_metadata(out)["folder"] == DR17


@pytest.mark.parametrize("out", ["", "missing/weights.pt"])
def test_where_nothing_can_be_written_is_told_before_anything_is_done(
    tmp_path: Path, out: str
) -> None:
    result = model("convert", tmp_path / "nowhere", tmp_path / out)
    assert isinstance(result.exception, UsageError)
    assert "cannot be written" in str(result.exception)


def test_a_folder_that_is_refused_leaves_no_file(tmp_path: Path) -> None:
    folder = KerasFolder(tmp_path)
    with folder.h5 as file:
        del file["model_weights/ni_dense"]
    result = model("convert", folder.path, tmp_path / "weights.pt")
    assert isinstance(result.exception, FatalError)
    assert "layer ni_dense is missing" in str(result.exception)
    assert list(tmp_path.iterdir()) == [folder.path]


def test_info_for_machines_has_everything(tmp_path: Path, astra_weights: Path) -> None:
    path = tmp_path / "half.pt"
    metadata = {"purpose": "demonstration and testing", "trained_on": {"spectra": 5}}
    write_checkpoint(path, read_checkpoint(astra_weights), metadata, half=True)
    content = json.loads(printed("info", path, "--json"))
    assert content["metadata"] == metadata
    assert content["stored_as"] == "float16"
    assert content["dense"] == [192, 96]
    assert [label["name"] for label in content["labels"]] == list(LABEL_NAMES)
    assert content["labels"][10]["warning"].startswith("training rows near -9999")


def test_info_warns_of_absurd_normalisation_and_missing_provenance(astra_weights: Path) -> None:
    text = printed("info", astra_weights)
    assert "Warning: p_h: mean -31.22, std 556.5: training rows near -9999 slipped in" in text
    assert "No provenance." in text


def test_what_a_file_tells_cannot_steer_the_terminal_or_pass_for_ours(
    tmp_path: Path, weights: Path
) -> None:
    path = tmp_path / "weights.pt"
    metadata = {"sha256": "\x1b[2J[red]forged[/red]\nok     loads", "network": ["\x1b"]}
    write_checkpoint(path, read_checkpoint(weights), metadata)
    text = printed("info", path)
    ours, theirs = text.split("Provenance, as the file tells it:")
    assert "\x1b" not in text
    assert "forged" not in ours
    assert "sha256   ?[2J[red]forged[/red]?ok     loads" in theirs


def test_a_failed_check_ends_with_exit_code_1(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "weights.pt"
    network = read_checkpoint(weights)
    network.elem_dense_var[1].bias.fill_(1e4)
    write_checkpoint(path, network, {"folder": PUBLISHED[0].folder})
    result = model("verify", path)
    assert result.exit_code == 1
    failed = [line for line in result.output.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 3  # the origin, and the uncertainties of both spectra
    assert all("c_1_h" in line for line in failed[1:])
    result = model("verify", path, "--json")
    assert result.exit_code == 1
    assert [each["passed"] for each in json.loads(result.output)].count(False) == 3


def test_a_check_that_cannot_be_made_fails_nothing(
    astra_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "astroNN", None)
    lines = printed("verify", astra_weights, "--device", "cpu").splitlines()
    (skipped,) = [line for line in lines if not line.startswith("ok ")]
    assert skipped.startswith("skip   windows: This needs astroNN")


def test_weights_that_are_not_there_are_wrong_use(tmp_path: Path) -> None:
    for command in ("info", "verify"):
        result = model(command, tmp_path / "weights.pt")
        assert isinstance(result.exception, UsageError), command


def test_a_refusal_is_one_sentence_of_the_command_line(tmp_path: Path) -> None:
    program = "from producer.commands.main import main; main()"
    command = [sys.executable, "-c", program, "model", "verify", str(tmp_path / "weights.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"Error: {tmp_path}/weights.pt: there is no such file or folder.\n"


def test_a_refusal_cannot_steer_the_terminal(tmp_path: Path) -> None:
    program = "from producer.commands.main import main; main()"
    command = [sys.executable, "-c", program, "model", "verify", "\x1b[2J.pt"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == "Error: ?[2J.pt: there is no such file or folder.\n"


def test_the_commands_can_be_listed_without_torch() -> None:
    program = (
        "import sys, producer.commands.model.weights; print({'torch', 'h5py'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n"
