"""The plain loop of passes, as the peers run the network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.array_types import Floats
from worker.network.masks import RATE
from worker.network.model import ApogeeBCNNCensored


def torch_dropout(_site: str, values: Tensor) -> Tensor:
    """Dropout as torch draws it."""
    return functional.dropout(values, RATE)


@torch.inference_mode()
def plain_loop(
    model: ApogeeBCNNCensored, flux: NDArray[np.float32], passes: int
) -> tuple[Floats, Floats]:
    """All passes one after the other, each the whole batch through the whole network.

    Parameters
    ----------
    flux
        ``(n, 7514)`` continuum-normalised flux.

    Returns
    -------
    labels, e_labels
        ``(n, 22)`` each: means over the passes and total uncertainties, as the engines give
        them, but with torch's own random numbers.
    """
    spectra = model.normalise_input(torch.from_numpy(flux).to(model.input_mean.device))
    labels, log_variances = zip(
        *(model(spectra, torch_dropout) for _ in range(passes)), strict=True
    )
    each, log_variance = torch.stack(labels).double(), torch.stack(log_variances).double()
    std = (log_variance.mean(dim=0).exp() + each.var(dim=0)).sqrt()
    mean = each.mean(dim=0) * model.labels_std + model.labels_mean
    return mean.cpu().numpy(), (std * model.labels_std).cpu().numpy()
