"""The robust loss: a Gaussian likelihood with known and predicted variance."""

from __future__ import annotations

import torch
from torch import Tensor


def robust_loss(
    predicted: Tensor, log_variance: Tensor, known: Tensor, known_variance: Tensor
) -> Tensor:
    r"""The robust loss of Leung & Bovy (2019, MNRAS 483, 3255), a mean.

    .. math::

        J = \frac{1}{N} \sum_i \left[ \frac{1}{2} (\hat y_i - y_i)^2 e^{-s_i}
            + \frac{1}{2} s_i \right], \quad
        s_i = \ln\left(\sigma_{\mathrm{known},i}^2 + \sigma_{\mathrm{predictive},i}^2\right),

    where the network predicts :math:`\ln \sigma_\mathrm{predictive}^2`, so that it need not
    explain what the errors of the labels explain. The sum runs over the N valid entries alone:
    a missing label has neither a loss nor a gradient. astroNN's ``robust_mse`` takes the mean
    of each star's valid labels and then that of the stars; here all valid labels of a batch
    weigh the same. Where none is missing that is the same.

    Parameters
    ----------
    predicted, log_variance
        ``(n, 22)``: the network's outputs.
    known, known_variance
        ``(n, 22)``: labels, NaN where missing, and the squares of their errors, in
        normalised units.
    """
    valid = known.isfinite()
    # What is not valid is left out before any arithmetic: 0 times NaN is NaN in a gradient too.
    residual = predicted[valid] - known[valid]
    total = torch.logaddexp(known_variance[valid].log(), log_variance[valid])
    terms = residual.square() * torch.exp(-total) + total
    return 0.5 * terms.sum() / valid.sum().clamp(min=1)
