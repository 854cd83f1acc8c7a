from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.inputs.training_data import linear_spectra
from worker.errors import FatalError, UsageError
from worker.labels import ELEMENT_POSITIONS, LABEL_NAMES, LABELS
from worker.network.checkpoint import write_checkpoint
from worker.network.masks import RATE
from worker.network.model import ApogeeBCNNCensored, masked
from worker.training.data import (
    TrainingSet,
    input_mean,
    label_scales,
    shuffled_batches,
    split_by_star,
)
from worker.training.forward import training_pass
from worker.training.masks import training_masks
from worker.training.new_network import new_network
from worker.training.state import read_state
from worker.training.trainer import Trained, TrainingSettings, learning_rate, train

CPU = torch.device("cpu")
SMALL = TrainingSettings(epochs=3, batch_size=16, validation=0.2, dense=(16, 8))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in a fixed order, and a core for whoever else runs tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(
    data: TrainingSet, settings: TrainingSettings, state: Path, stop_at: int | None = None
) -> Trained:
    """Train; with ``stop_at`` it is interrupted after that many steps."""
    steps = 0

    def on_step(_progress: object) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise KeyboardInterrupt

    split = split_by_star(data.stars, settings.validation, settings.seed)
    return train(data, split, settings, state, on_step, lambda _losses: None)


def content(path: Path, trained: Trained) -> bytes:
    write_checkpoint(path, trained.model, {"losses": trained.losses})
    return path.read_bytes()


# The fast pass against the network's own.


def random_network() -> tuple[ApogeeBCNNCensored, torch.Tensor, dict[str, torch.Tensor]]:
    network = new_network(1, (24, 12))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in network.named_parameters():
        if "bias" in name or "dense_" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    spectra = 0.3 * torch.randn(5, 7514, generator=generator)
    return network, spectra, training_masks((0, 0, 0), 5, network.architecture.dropout_sites, CPU)


def as_model_masks(masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same masks for ``forward``, where the first site has its channels one by one."""
    plain = {site: kept / (1 - RATE) for site, kept in masks.items()}
    plain["conv1"] = plain["conv1"].reshape(-1, 7514, 2).transpose(1, 2).flatten(1)
    return plain


def gradients(
    network: ApogeeBCNNCensored, outputs: tuple[torch.Tensor, torch.Tensor]
) -> list[torch.Tensor]:
    network.zero_grad()
    labels, log_variances = outputs
    (labels.square().sum() + labels.sum() + log_variances.square().sum()).backward()
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("dropout", [False, True])
def test_the_fast_pass_gives_the_values_and_gradients_of_the_plain_network(dropout: bool) -> None:
    network, spectra, masks = random_network()
    plain = network(spectra, masked(as_model_masks(masks))) if dropout else network(spectra)
    fast = training_pass(network, spectra, masks if dropout else None)
    for expected, output in zip(plain, fast, strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    slow_gradients, fast_gradients = gradients(network, plain), gradients(network, fast)
    assert len(fast_gradients) == len(list(network.parameters()))
    for expected, gradient in zip(slow_gradients, fast_gradients, strict=True):
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()


def test_in_bfloat16_the_fast_pass_is_as_exact_as_the_plain_network_is() -> None:
    network, spectra, masks = random_network()
    plain_masks = masked(as_model_masks(masks))
    exact = network(spectra, plain_masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = network(spectra, plain_masks)
    fast = training_pass(network, spectra.bfloat16(), masks)
    assert fast[0].dtype == fast[1].dtype == torch.float32
    all_of = [
        [*outputs, *gradients(network, (outputs[0].float(), outputs[1].float()))]
        for outputs in (exact, plain, fast)
    ]
    for expected, by_torch, ours in zip(*all_of, strict=True):
        size = expected.norm()
        assert (ours - expected).norm() <= 1.5 * (by_torch - expected).norm() + 0.01 * size


def test_masks_drop_three_units_in_ten_independently_and_depend_on_their_place_alone() -> None:
    sites = {"a": 1000, "b": 37}
    masks = training_masks((1, 2, 3), 200, sites, CPU)
    assert {site: tuple(kept.shape) for site, kept in masks.items()} == {
        "a": (200, 1000),
        "b": (200, 37),
    }
    n, kept = masks["a"].numel(), masks["a"].double()
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / n)
    # Neighbours along either axis, and units that share a 64-bit word, are not correlated.
    for shifted, plain in ((kept[:, 1:], kept[:, :-1]), (kept[:, 4:], kept[:, :-4])):
        covariance = ((shifted - 0.7) * (plain - 0.7)).mean() / 0.21
        assert abs(covariance) < 5 / np.sqrt(plain.numel())
    again = training_masks((1, 2, 3), 200, sites, CPU)
    assert all(torch.equal(masks[site], again[site]) for site in sites)
    for place in ((0, 2, 3), (1, 1, 3), (1, 2, 4)):
        other = training_masks(place, 200, sites, CPU)["a"].double()
        assert abs((other * kept).mean() - 0.49) < 5 * 0.5 / np.sqrt(n)


# The data.


def test_all_spectra_of_a_star_are_on_one_side_of_the_split() -> None:
    stars = [f"star {number % 500}" for number in range(2000)]
    training, validation = split_by_star(stars, 0.2, seed=3)
    sides = [{stars[index] for index in side} for side in (training, validation)]
    assert not sides[0] & sides[1]
    assert sorted([*training, *validation]) == list(range(2000))
    assert abs(len(sides[1]) / 500 - 0.2) < 5 * np.sqrt(0.16 / 500)
    # More stars do not move a star to the other side; another seed does with some.
    more, _ = split_by_star([*stars, "star x"], 0.2, seed=3)
    assert set(training) <= set(more)
    assert set(split_by_star(stars, 0.2, seed=4)[1]) != set(validation)


@pytest.mark.parametrize("stars", [["a"], ["a", "a", "a"]])
def test_a_single_star_cannot_be_split(stars: list[str]) -> None:
    with pytest.raises(UsageError, match="1 stars cannot be split"):
        split_by_star(stars, 0.5, seed=0)


def test_means_and_scales_come_from_valid_entries_of_the_training_part_alone() -> None:
    data = linear_spectra(600, missing=0.2)
    data.flux[::3, 100:200] = 1.0  # masked, as the loader leaves it
    data.flux[:, 7] = 1.0
    training, _ = split_by_star(data.stars, 0.2, seed=0)
    flux = data.flux[training].astype(np.float64)
    expected = np.ones(7514)
    for pixel in range(7514):
        shown = flux[:, pixel][flux[:, pixel] != 1]
        expected[pixel] = shown.mean() if len(shown) else 1.0
    np.testing.assert_allclose(input_mean(data, training), expected, rtol=1e-12)
    mean, std = label_scales(data.labels[training])
    for position in range(len(LABELS)):
        values = data.labels[training, position]
        values = values[np.isfinite(values)]
        np.testing.assert_allclose([mean[position], std[position]], [values.mean(), values.std()])


def test_a_label_without_spread_gets_the_scale_one_and_one_without_values_that_of_no_change() -> (
    None
):
    labels = np.random.default_rng(0).normal(size=(10, 22))
    labels[:, 3] = 0.5
    labels[:, 4] = np.nan
    mean, std = label_scales(labels)
    assert (mean[3], std[3]) == (0.5, 1.0)
    assert (mean[4], std[4]) == (0.0, 1.0)


def test_a_part_without_any_label_that_can_be_learnt_is_refused(tmp_path: Path) -> None:
    data = linear_spectra(60)
    training, validation = split_by_star(data.stars, SMALL.validation, SMALL.seed)
    data.labels[training, 1:] = np.nan
    data.labels[validation, 0] = np.nan
    with pytest.raises(UsageError, match="validation part has no label that can be learnt"):
        run(data, SMALL, tmp_path / "state.pt")
    data.labels[training] = np.nan
    with pytest.raises(UsageError, match="training part has no label that can be learnt"):
        run(data, SMALL, tmp_path / "state.pt")


def test_an_epoch_has_each_spectrum_once_in_batches_of_about_one_size() -> None:
    indices = np.arange(1000, 1130)
    batches = shuffled_batches(indices, 32, seed=1, epoch=2)
    assert sorted(np.concatenate(batches)) == indices.tolist()
    assert {len(batch) for batch in batches} == {26}
    assert all((np.diff(batch) > 0).all() for batch in batches)
    other = shuffled_batches(indices, 32, seed=1, epoch=3)
    assert any(set(a) != set(b) for a, b in zip(batches, other, strict=True))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_hundredth() -> None:
    rates = [learning_rate(step, 1000, 0.5) for step in range(1000)]
    peak = int(np.argmax(rates))
    assert 40 <= peak <= 51
    assert rates[peak] == 0.5
    assert (np.diff(rates[: peak + 1]) >= 0).all()
    assert (np.diff(rates[peak + 1 :]) < 0).all()
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.005, rel=0.01)


# Training.


def test_a_network_learns_labels_that_the_spectra_show(tmp_path: Path) -> None:
    data = linear_spectra(400, missing=0.1)
    settings = replace(SMALL, epochs=10, learning_rate=5e-3, dense=(32, 16))
    trained = run(data, settings, tmp_path / "state.pt")
    _, validation = split_by_star(data.stars, settings.validation, settings.seed)
    with torch.inference_mode():
        flux = torch.from_numpy(data.spectra(validation))
        normalised, _ = trained.model(trained.model.normalise_input(flux))
    labels = normalised.double() * trained.model.labels_std + trained.model.labels_mean
    residual = labels.numpy() - data.labels[validation]
    unexplained = np.nanvar(residual, axis=0) / np.nanvar(data.labels[validation], axis=0)
    # Of a label that is not learnt all remains; Teff, log g and [Fe/H] have to find their pixels.
    assert np.median(unexplained) < 0.2
    assert unexplained.max() < 0.6
    assert trained.losses[-1]["validation"] < trained.losses[0]["validation"] - 0.3


def test_labels_that_no_spectrum_to_train_on_has_are_left_out_and_their_branches_left_alone(
    tmp_path: Path,
) -> None:
    data = linear_spectra(80)
    training, validation = split_by_star(data.stars, SMALL.validation, SMALL.seed)
    unknown = [LABEL_NAMES.index(name) for name in ("logg", "c_h", "k_h")]
    data.labels[:, unknown[:2]] = np.nan
    data.labels[training, unknown[2]] = np.nan  # some held-out stars have it
    trained = run(data, SMALL, tmp_path / "state.pt")
    drawn = new_network(SMALL.seed, SMALL.dense)
    for element in range(len(ELEMENT_POSITIONS)):
        for layers in ("elem_dense1", "elem_dense2", "elem_dense_out", "elem_dense_var"):
            before, after = (getattr(net, layers)[element].weight for net in (drawn, trained.model))
            assert torch.equal(before, after) == (ELEMENT_POSITIONS[element] in unknown), element
    # The value of log g moves, for the elements' branches read it.
    before, after = (net.dense_teffloggfeh_var.weight for net in (drawn, trained.model))
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])
    assert trained.model.labels_mean[unknown].tolist() == [0.0] * 3
    assert trained.model.labels_std[unknown].tolist() == [1.0] * 3
    assert all(value.isfinite().all() for value in trained.model.state_dict().values())
    # Nor does the validation loss depend on what only held-out stars have.
    data.labels[validation, unknown[2]] += 5
    assert run(data, SMALL, tmp_path / "other.pt").losses == trained.losses


@pytest.mark.parametrize("stop_at", [4, 8, 11], ids=["in epoch 1", "after epoch 1", "in epoch 2"])
def test_an_interrupted_training_goes_on_to_the_very_same_network(
    tmp_path: Path, stop_at: int
) -> None:
    data = linear_spectra(80, missing=0.1)
    whole = run(data, SMALL, tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        run(data, SMALL, tmp_path / "state.pt", stop_at=stop_at)
    resumed = run(data, SMALL, tmp_path / "state.pt")
    assert content(tmp_path / "b.pt", resumed) == content(tmp_path / "a.pt", whole)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path: Path) -> None:
    data, settings = linear_spectra(60), replace(SMALL, epochs=1, precision="bfloat16")
    first, second, other = (
        content(tmp_path / "out.pt", run(data, each, tmp_path / f"{number}.pt"))
        for number, each in enumerate([settings, settings, replace(settings, seed=1)])
    )
    assert first == second
    assert first != other


def test_training_ends_when_the_validation_loss_no_longer_falls(tmp_path: Path) -> None:
    settings = replace(SMALL, epochs=9, learning_rate=0.0, patience=2)
    trained = run(linear_spectra(60), settings, tmp_path / "state.pt")
    assert len(trained.losses) == 3
    assert trained.best_epoch == 1


def test_the_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    # At such a rate the loss does not fall with every epoch.
    settings = replace(SMALL, epochs=5, learning_rate=0.03)
    data = linear_spectra(60)
    trained = run(data, settings, tmp_path / "state.pt")
    validation = [losses["validation"] for losses in trained.losses]
    assert trained.best_epoch == int(np.argmin(validation)) + 1
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for name, values in trained.model.state_dict().items():
        assert torch.equal(values, state["best"][name])
    assert state["best_epoch"] == trained.best_epoch


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    data, state = linear_spectra(60), tmp_path / "state.pt"
    run(data, replace(SMALL, epochs=1), state)
    for other_data, settings in (
        (data, replace(SMALL, epochs=2)),
        (linear_spectra(60, seed=1), replace(SMALL, epochs=1)),
    ):
        with pytest.raises(FatalError, match="other settings or spectra; repeat that command"):
            run(other_data, settings, state)


def test_a_state_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    state.write_bytes(b"no state")
    with pytest.raises(FatalError, match="delete it to begin anew"):
        read_state(state, "")
    buffer = io.BytesIO()
    torch.save({"digest": "", "unknown": 1}, buffer)
    state.write_bytes(buffer.getvalue())
    with pytest.raises(FatalError, match="delete it to begin anew"):
        read_state(state, "")


def test_a_loss_that_is_no_number_ends_the_training_with_advice(tmp_path: Path) -> None:
    data = linear_spectra(60)
    data.flux[:, 50] = np.inf
    with pytest.raises(FatalError, match="became nan in epoch 1; try a lower --learning-rate"):
        run(data, SMALL, tmp_path / "state.pt")
