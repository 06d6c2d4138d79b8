"""The last linear layer of an identity encoder in closed form: what varies between people, and little within them.

Linear discriminant analysis (Fisher 1936) of the flattened last map. Notation: covariance within people → S_w, of all →
S_t, rows of the layer → w with S_t w = λ S_w w, largest λ first, scaled to w·S_w·w = 1.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from acfun.face.identity import IdentityEncoder


@torch.no_grad()
def fit_head(encoder: IdentityEncoder, batches: Iterable[Tensor], shrinkage: float = 0.1) -> None:
    """Set the encoder's last linear layer and the normalisation after it, and leave it in training mode.

    Args:
        encoder: its batch statistics move, as in training.
        batches: (2·B,3,112,112) crops, two of each of B people, all the first ones before all the second ones.
        shrinkage: weight in [0,1] of a multiple of the identity in S_w.
    """
    linear, norm = encoder.head[-2], encoder.head[-1]
    assert isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
    encoder.train()
    within, total = (torch.zeros(linear.in_features, linear.in_features, dtype=torch.float64) for _ in range(2))
    mean, count = torch.zeros(linear.in_features, dtype=torch.float64), 0
    for crops in batches:
        flat = encoder.head[:-2](encoder.encode_stages(crops)[-1]).float().cpu()
        first, second = flat.chunk(2)
        within += (first - second).T @ (first - second) / 2
        total += flat.T @ flat
        mean += flat.sum(0)
        count += len(flat)
    mean /= count
    total = total / count - torch.outer(mean, mean)
    rows = compute_discriminants(within / (count / 2), total, linear.out_features, shrinkage)
    variances = ((rows @ total) * rows).sum(1)
    linear.weight.copy_(rows)
    norm.running_mean.copy_(rows @ mean)  # type: ignore[union-attr]
    norm.running_var.copy_(variances)  # type: ignore[union-attr]
    norm.weight.copy_(variances.sqrt() / variances.mean().sqrt())
    norm.bias.zero_()


def compute_discriminants(within: Tensor, total: Tensor, count: int, shrinkage: float) -> Tensor:
    """Of two (N,N) covariances the rows (count,N) of within-person variance 1 and largest total variance."""
    identity = torch.eye(len(within), dtype=within.dtype)
    regular = (1 - shrinkage) * within + shrinkage * within.diagonal().mean() * identity
    factor = torch.linalg.cholesky(regular.float())
    whitened = torch.linalg.solve_triangular(factor, total.float(), upper=False)
    whitened = torch.linalg.solve_triangular(factor, whitened.T, upper=False)
    directions = torch.linalg.eigh((whitened + whitened.T) / 2).eigenvectors.flip(1)[:, :count]
    rows: Tensor = torch.linalg.solve_triangular(factor.T, directions, upper=True).T.to(within.dtype)
    return rows
