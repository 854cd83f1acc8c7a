"""Weights files: Astra's PyTorch layout, ``{"model_state_dict": {...}}``, and our metadata.

Widths come from the weights; every key and shape is checked, and the error says which differ.
A small file may claim to be huge, so all that is done before any weight is read.
What we write has ``"metadata"`` beside the weights, and may have ``"reference"``, which tells what
the spectra of the training are like; others need not know them.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.atomic_file import replacing
from worker.errors import FatalError
from worker.labels import LABEL_NAMES
from worker.network.checkpoint_file import CheckpointFile, StoredTensor, opened
from worker.network.normalisation import nonsense
from worker.network.reference import Reference
from worker.spectra.pixels import N_PIXELS

if TYPE_CHECKING:
    from torch import Tensor

    from worker.network.model import ApogeeBCNNCensored, Architecture

_MASK_KEY = re.compile(r"aspcap_masks\.(\d+)")
_WINDOW_KEY = re.compile(r"window_(\d+)")
#: float64 in Astra's layout, and kept so in a file of half precision.
_SCALES = ("input_mean", "labels_mean", "labels_std")
#: Far more than the units of any layer of the network.
MOST_UNITS = 1024
#: The published networks have 14 MB.
_MOST_BYTES = 2**26
_MOST_REFERENCE = 2**23
_REFERENCE_TYPES = ("float16", "float32", "float64")
_MOST_METADATA = 10_000
_DEEPEST_METADATA = 20
#: Python cannot even write numbers of any length.
_LARGEST_METADATUM = 2**63
#: Problems that an error names; a file of another kind has hundreds.
_MOST_PROBLEMS = 10

#: Plain values of JSON by name: where weights come from and what they were trained on.
Metadata = dict[str, Any]


def read_checkpoint(path: Path) -> ApogeeBCNNCensored:
    """The network with the weights of a file, ready for inference on the CPU.

    Raises
    ------
    FatalError
        The file cannot be read, holds no such network, or keys or shapes differ from it.
    """
    from worker.network.model import ApogeeBCNNCensored

    with opened(path) as file:
        stored = _stored_state(path, file)
        state = {key: file.tensor(stored[key]) for key in stored if _MASK_KEY.fullmatch(key)}
        model = ApogeeBCNNCensored(_architecture(path, stored, state))
        _check_form(path, stored, model.state_dict())
        state |= {key: file.tensor(stored[key]) for key in stored.keys() - state.keys()}
    ours = _ours(state)
    _check_values(path, ours, model.state_dict())
    model.load_state_dict(ours)  # half precision becomes float32 here
    return model.eval().requires_grad_(False)


def read_metadata(path: Path) -> Metadata:
    """What a file tells about its weights; nothing for one that others wrote.

    Raises
    ------
    FatalError
        The file cannot be read, or its metadata are not plain values.
    """
    with opened(path) as file:
        content = file.content
    metadata = content.get("metadata", {}) if isinstance(content, dict) else {}
    if not isinstance(metadata, dict) or not _is_plain(metadata):
        raise FatalError(f"The metadata of {path.name} are not plain values; it was not made here.")
    return metadata


def read_not_learnt(path: Path) -> tuple[str, ...]:
    """The labels that a file's weights have not learnt, by name; their training had none.

    Raises
    ------
    FatalError
        The file cannot be read, or names others than ours, or all.
    """
    names = read_metadata(path).get("not_learnt", [])
    if not isinstance(names, list) or not set(LABEL_NAMES) > {str(name) for name in names}:
        raise FatalError(f"{path.name} says nothing sensible of which labels are not learnt.")
    return tuple(name for name in LABEL_NAMES if name in names)


def read_reference(path: Path) -> Reference | None:
    """What tells how unlike those of the training a spectrum is; None where a file has none.

    Raises
    ------
    FatalError
        The file cannot be read, or its reference cannot be used.
    """
    with opened(path) as file:
        stored = file.content.get("reference") if isinstance(file.content, dict) else None
        if stored is None:
            return None
        if not isinstance(stored, dict) or not all(map(_is_kept, stored, stored.values())):
            raise FatalError(f"The reference of {path.name} is not made of plain tensors.")
        if sum(max(each.bytes, each.storage.bytes) for each in stored.values()) > _MOST_REFERENCE:
            raise FatalError(f"The reference of {path.name} is larger than any; it was not loaded.")
        arrays = {name: file.tensor(each).numpy() for name, each in stored.items()}
    try:
        return Reference.of(arrays)
    except ValueError as error:
        raise FatalError(f"The reference of {path.name} cannot be used: {error}.") from error


def _is_kept(name: object, tensor: object) -> bool:
    """Whether this may be part of a reference."""
    return (
        isinstance(name, str)
        and isinstance(tensor, StoredTensor)
        and tensor.plain
        and tensor.storage.dtype in _REFERENCE_TYPES
    )


def stored_type(path: Path) -> str:
    """The type in which a file holds the weights, such as ``float16``.

    Raises
    ------
    FatalError
        The file cannot be read or holds no weights.
    """
    with opened(path) as file:
        stored = _stored_state(path, file)
    types = {
        each.storage.dtype
        for key, each in stored.items()
        if "float" in each.storage.dtype and key not in _SCALES
    }
    return ", ".join(sorted(types))


def write_checkpoint(
    path: Path,
    model: ApogeeBCNNCensored,
    metadata: Metadata,
    *,
    half: bool = False,
    reference: Reference | None = None,
) -> None:
    """Write a network as others read it too; the same network gives the same bytes.

    The file is replaced in one step.

    Parameters
    ----------
    metadata
        Plain values of JSON.
    half
        Write the weights as float16, in half the space; means and scales stay float64.
    reference
        What the spectra of the training are like, where that is known.

    Raises
    ------
    FatalError
        The file cannot be written, or a weight is too large for float16.
    ValueError, TypeError
        The metadata are not plain values.
    """
    import torch

    state = {
        _file_key(key): _stored(path, key, value, half) for key, value in model.state_dict().items()
    }
    # Through JSON, so that equal metadata always give the same bytes.
    plain = json.loads(json.dumps(metadata, allow_nan=False))
    buffer = io.BytesIO()  # in a file of its own name torch would write that name
    content = {"model_state_dict": state, "metadata": plain}
    if reference is not None:
        content["reference"] = {
            name: torch.tensor(each) for name, each in reference.arrays().items()
        }
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _stored(path: Path, key: str, value: Tensor, half: bool) -> Tensor:
    """A tensor as the file has it: windows as masks, weights in the wanted precision."""
    import torch

    if _WINDOW_KEY.fullmatch(key):
        mask = torch.zeros(N_PIXELS, dtype=torch.bool)
        mask[value.cpu()] = True
        return mask
    if half and key not in _SCALES:
        if not bool(value.half().isfinite().all()):
            raise FatalError(f"{path.name} cannot be written as float16: {key} is too large.")
        value = value.half()
    return value.cpu().clone(memory_format=torch.contiguous_format)


def _is_plain(value: object) -> bool:
    """Whether a value consists of JSON's types alone, and is of a sensible size.

    A pickle may hold containers that contain themselves, or each other many times.
    """
    waiting, seen = [(value, 0)], 0
    while waiting:
        (item, depth), seen = waiting.pop(), seen + 1
        inside: Iterable[object] = ()
        if isinstance(item, dict) and all(isinstance(key, str) for key in item):
            inside = item.values()
        elif isinstance(item, list):
            inside = item
        elif isinstance(item, float):
            if not math.isfinite(item):
                return False
        elif isinstance(item, int):
            if abs(item) >= _LARGEST_METADATUM:
                return False
        elif not (item is None or isinstance(item, str)):
            return False
        waiting.extend((each, depth + 1) for each in inside)
        if depth > _DEEPEST_METADATA or seen + len(waiting) > _MOST_METADATA:
            return False
    return True


def _stored_state(path: Path, file: CheckpointFile) -> dict[str, StoredTensor]:
    """The tensors of a file by its names for them, all plain and together of a sensible size."""
    content = file.content
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, StoredTensor) for key, value in state.items()
    ):
        raise FatalError(f'{path.name} holds no named tensors under "model_state_dict".')
    for key, value in state.items():
        if not value.plain:
            raise _unfit(path, f"{key} is no plain tensor of numbers")
        if _MASK_KEY.fullmatch(key) and value.shape != (N_PIXELS,):
            raise _unfit(path, f"{key} has shape {value.shape}, not ({N_PIXELS},)")
    storages = {value.storage for value in state.values()}
    size = max(sum(each.bytes for each in some) for some in (storages, state.values()))
    if size > _MOST_BYTES:
        raise FatalError(
            f"{path.name} unpacks to {size / 2**20:.0f} MiB, which is no ApogeeBCNNCensored; it "
            "was not loaded."
        )
    return state


def _unfit(path: Path, what: str) -> FatalError:
    return FatalError(f"{path.name} does not fit ApogeeBCNNCensored: {what}.")


def _architecture(
    path: Path, stored: dict[str, StoredTensor], masks: dict[str, Tensor]
) -> Architecture:
    from worker.network.model import N_ELEMENTS, Architecture

    def named(key: str) -> StoredTensor:
        if key not in stored or not stored[key].shape:
            raise FatalError(f"{path.name} is no ApogeeBCNNCensored: it lacks {key}.")
        return stored[key]

    def width(layer: str) -> int:
        units = named(f"{layer}.weight").shape[0]
        if not 0 < units <= MOST_UNITS:
            raise FatalError(f"{path.name} is no ApogeeBCNNCensored: {layer} has {units} units.")
        return units

    def window(key: str) -> int:
        named(key)
        return int(masks[key].count_nonzero())

    elements = range(N_ELEMENTS)
    architecture = Architecture(
        dense=(width("dense_1"), width("dense_2")),
        windows=tuple(window(f"aspcap_masks.{i}") for i in elements),
        element1=tuple(width(f"elem_dense1.{i}") for i in elements),
        element2=tuple(width(f"elem_dense2.{i}") for i in elements),
    )
    if architecture.weights > _MOST_BYTES // 4:  # of float32
        raise _unfit(path, f"its layers would have {architecture.weights} weights")
    return architecture


def _file_key(key: str) -> str:
    """What a file calls one of our tensors: it has masks where we have windows."""
    return _WINDOW_KEY.sub(r"aspcap_masks.\1", key)


def _ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under our names: ASPCAP masks become windows of pixel indices."""
    return {
        _MASK_KEY.sub(r"window_\1", key): (
            value.nonzero().flatten() if _MASK_KEY.fullmatch(key) else value
        )
        for key, value in state.items()
    }


def _check_form(path: Path, stored: dict[str, StoredTensor], ours: dict[str, Tensor]) -> None:
    """Refuse names and shapes that are not those of the network; masks are known to fit."""
    wanted = {_file_key(key): tuple(value.shape) for key, value in ours.items()}
    problems = [f"{key} is missing" for key in wanted.keys() - stored.keys()]
    problems += [f"{key} is unknown" for key in stored.keys() - wanted.keys()]
    _refuse(
        path,
        problems
        + [
            f"{key} has shape {stored[key].shape}, not {wanted[key]}"
            for key in wanted.keys() & stored.keys()
            if stored[key].shape != wanted[key] and not _MASK_KEY.fullmatch(key)
        ],
    )


def _check_values(path: Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    _refuse(
        path,
        [
            f"{_file_key(key)} has values that are not finite"
            for key, value in state.items()
            if not bool(value.to(wanted[key].dtype).isfinite().all())
        ],
    )
    _refuse(path, nonsense(*(state[key].double().numpy() for key in _SCALES)))


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        named = "; ".join(sorted(problems)[:_MOST_PROBLEMS])
        more = len(problems) - _MOST_PROBLEMS
        raise _unfit(path, named + (f"; and {more} more" if more > 0 else ""))
