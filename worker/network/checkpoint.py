"""Weights files: Astra's PyTorch layout, ``{"model_state_dict": {...}}``, and our metadata.

The file is read with ``weights_only=True``, which admits tensors and plain containers alone.
Widths come from the weights; every key and shape is checked, and the error says which differ.
A small file may claim to be huge, so sizes are bounded before anything is made of them.
What we write has ``"metadata"`` beside the weights, which others need not know.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.atomic_file import replacing
from worker.errors import FatalError
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
_MOST_NUMBERS = MOST_UNITS * N_PIXELS
_MOST_BYTES = 2**30
_MOST_METADATA = 10_000
_DEEPEST_METADATA = 20
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

    state = _read_state(path)
    model = ApogeeBCNNCensored(_architecture(path, state))
    _check(path, state, model.state_dict())
    model.load_state_dict(state)  # half precision becomes float32 here
    return model.eval().requires_grad_(False)


def read_metadata(path: Path) -> Metadata:
    """What a file tells about its weights; nothing for one that others wrote.

    Raises
    ------
    FatalError
        The file cannot be read, or its metadata are not plain values.
    """
    content = _load(path)
    metadata = content.get("metadata", {}) if isinstance(content, dict) else {}
    if not isinstance(metadata, dict) or not _is_plain(metadata):
        raise FatalError(f"The metadata of {path.name} are not plain values; it was not made here.")
    return metadata


def stored_type(path: Path) -> str:
    """The type in which a file holds the weights, such as ``float16``.

    Raises
    ------
    FatalError
        The file cannot be read or holds no weights.
    """
    types = {
        str(value.dtype).removeprefix("torch.")
        for key, value in _read_state(path).items()
        if value.is_floating_point() and key not in _SCALES
    }
    return ", ".join(sorted(types))


def write_checkpoint(
    path: Path, model: ApogeeBCNNCensored, metadata: Metadata, *, half: bool = False
) -> None:
    """Write a network as others read it too; the same network gives the same bytes.

    The file is replaced in one step.

    Parameters
    ----------
    metadata
        Plain values of JSON.
    half
        Write the weights as float16, in half the space; means and scales stay float64.

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
    torch.save({"model_state_dict": state, "metadata": plain}, buffer)
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
        elif not (item is None or isinstance(item, str | int)):
            return False
        waiting.extend((each, depth + 1) for each in inside)
        if depth > _DEEPEST_METADATA or seen + len(waiting) > _MOST_METADATA:
            return False
    return True


def _load(path: Path) -> object:
    import torch

    try:
        _check_unpacked_size(path)
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except FatalError:
        raise
    except OSError as error:
        raise FatalError(f"The weights {path} cannot be read: {error.strerror}.") from error
    except Exception as error:
        # Damaged files raise nearly anything. torch's own text advises to lower the guard.
        raise FatalError(
            f"{path.name} is not a PyTorch checkpoint of plain tensors; it was not loaded."
        ) from error
    return content


def _check_unpacked_size(path: Path) -> None:
    """Refuse an archive that unpacks to more than any network has; torch would unpack it."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _MOST_BYTES:
        raise FatalError(
            f"{path.name} unpacks to {size / 2**30:.1f} GiB, which is no ApogeeBCNNCensored; it "
            "was not loaded."
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under our names: ASPCAP masks become windows of pixel indices."""
    import torch

    content = _load(path)
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and torch.is_tensor(value) for key, value in state.items()
    ):
        raise FatalError(f'{path.name} holds no named tensors under "model_state_dict".')
    for key, value in state.items():
        if not _is_plain_tensor(value):
            raise FatalError(
                f"{path.name} does not fit ApogeeBCNNCensored: {key} is no plain tensor of numbers."
            )
        if _WINDOW_KEY.fullmatch(key):  # ours alone: a file has masks
            raise FatalError(f"{path.name} does not fit ApogeeBCNNCensored: {key} is unknown.")
        if _MASK_KEY.fullmatch(key) and value.shape != (N_PIXELS,):
            raise FatalError(
                f"{path.name} does not fit ApogeeBCNNCensored: {key} has shape "
                f"{tuple(value.shape)}, not ({N_PIXELS},)."
            )
    return {
        _MASK_KEY.sub(r"window_\1", key): (
            torch.nonzero(value.bool()).flatten() if _MASK_KEY.fullmatch(key) else value
        )
        for key, value in state.items()
    }


def _is_plain_tensor(value: Tensor) -> bool:
    """Whether numbers lie in memory, of a known type, and not more than any layer has.

    A tensor may claim more than the file holds, when each number stands for many.
    """
    import torch

    integers = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return (
        value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in integers + floats
        and value.numel() <= _MOST_NUMBERS
    )


def _architecture(path: Path, state: dict[str, Tensor]) -> Architecture:
    from worker.network.model import N_ELEMENTS, Architecture

    def length(key: str) -> int:
        if key not in state or state[key].ndim == 0:
            raise FatalError(f"{path.name} is no ApogeeBCNNCensored: it lacks {_file_key(key)}.")
        return int(state[key].shape[0])

    def width(layer: str) -> int:
        units = length(f"{layer}.weight")
        if not 0 < units <= MOST_UNITS:
            raise FatalError(f"{path.name} is no ApogeeBCNNCensored: {layer} has {units} units.")
        return units

    elements = range(N_ELEMENTS)
    return Architecture(
        dense=(width("dense_1"), width("dense_2")),
        windows=tuple(length(f"window_{i}") for i in elements),
        element1=tuple(width(f"elem_dense1.{i}") for i in elements),
        element2=tuple(width(f"elem_dense2.{i}") for i in elements),
    )


def _file_key(key: str) -> str:
    """What a file calls one of our tensors: it has masks where we have windows."""
    return _WINDOW_KEY.sub(r"aspcap_masks.\1", key)


def _check(path: Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    problems = [f"{_file_key(key)} is missing" for key in wanted.keys() - state.keys()]
    problems += [f"{_file_key(key)} is unknown" for key in state.keys() - wanted.keys()]
    common = wanted.keys() & state.keys()
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in common
        if state[key].shape != wanted[key].shape
    ]
    problems += [
        f"{key} has values that are not finite"
        for key in common
        if not bool(state[key].to(wanted[key].dtype).isfinite().all())
    ]
    if problems:
        named = "; ".join(sorted(problems)[:_MOST_PROBLEMS])
        more = len(problems) - _MOST_PROBLEMS
        raise FatalError(
            f"{path.name} does not fit ApogeeBCNNCensored: {named}"
            f"{f'; and {more} more' if more > 0 else ''}."
        )
