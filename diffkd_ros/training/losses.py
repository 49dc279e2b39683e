# SPDX-License-Identifier: Apache-2.0
"""Loss terms. Each is a mean, so that its scale does not depend on the sizes of grid and batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.context import Context
from diffkd_ros.model.restoration import Restoration
from diffkd_ros.training.data import Batch

BACKGROUND_SHARE = 0.1  # weight of the background in the feature distillation, most of which is empty road
UNSEEN_WEIGHT = 0.25  # of a cell the agent did not cover, in the restoration's losses
CONFIDENT = 0.3  # teacher probability above which its boxes are imitated


def focal_loss(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Penalty-reduced focal loss on Gaussian centres (CornerNet, Law & Deng, ECCV 2018, Eq. 1).

    Args:
        logits: (n, 1, h, w).
        target: (n, 1, h, w) in [0, 1], exactly 1 at centres.
        counted: (n, 1, h, w) 0 where background is ignored.

    Returns:
        Scalar: the sum over cells divided by the number of centres, with alpha 2 and beta 4.
    """
    probability = torch.sigmoid(logits.float()).clamp(1e-4, 1 - 1e-4)
    positive = (target == 1).to(logits.dtype)
    hit = (1 - probability) ** 2 * probability.log() * positive
    miss = probability**2 * (1 - probability).log() * (1 - target) ** 4 * (1 - positive) * counted
    return -(hit + miss).sum() / positive.sum().clamp(min=1)


def regression_loss(predicted: Tensor, target: Tensor, where: Tensor) -> Tensor:
    """Smooth L1 (beta 1/9) of (n, 8, h, w), summed over the values, averaged by weights (n, 1, h, w)."""
    loss = functional.smooth_l1_loss(predicted, target, beta=1 / 9, reduction='none')
    return (loss * where).sum() / where.sum().clamp(min=1)


def weighted_square(difference: Tensor, weight: Tensor) -> Tensor:
    """Mean square of (n, c, h, w) over channels and cells, cells weighted by (n, 1, h, w)."""
    return (difference.square() * weight).sum() / (difference.shape[1] * weight.sum()).clamp(min=1e-6)


def feature_loss(fused: Tensor, teacher: Tensor, deviation: Tensor, foreground: Tensor) -> Tensor:
    """PKD (b), feature: mean square distance of the fused map from the teacher's, derived here.

    Both maps are (n, c, h, w). The distance is in units of the teacher's standard deviation (1, c, 1, 1), and
    `foreground` (n, 1, h, w) is 1 inside vehicles, else 0.
    """
    difference = (fused - teacher) / deviation
    return weighted_square(difference, foreground) + BACKGROUND_SHARE * weighted_square(
        difference, 1 - foreground
    )


def prediction_loss(
    heatmap: Tensor, regression: Tensor, teacher_heatmap: Tensor, teacher_regression: Tensor
) -> Tensor:
    """PKD (b), prediction, derived here: cross-entropy weighted by disagreement, and confident boxes.

    Heat maps are logits (n, 1, h, w), regressions (n, 8, h, w).
    """
    wanted = torch.sigmoid(teacher_heatmap)
    disagreement = (wanted - torch.sigmoid(heatmap)).abs().detach()
    entropy = functional.binary_cross_entropy_with_logits(heatmap, wanted, reduction='none')
    confident = (wanted > CONFIDENT).to(wanted.dtype)
    classification = (disagreement * entropy).sum() / confident.sum().clamp(min=1)
    return classification + regression_loss(regression, teacher_regression, confident)


def detection_losses(heatmap: Tensor, regression: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Losses of heat map (n, 1, h, w) and regression (n, 8, h, w) against the ground truth."""
    return {
        'heatmap': focal_loss(heatmap, batch.heatmap, batch.counted),
        'regression': regression_loss(regression, batch.regression, batch.regressed),
    }


def squared_distance(feature: Tensor, teacher: Tensor, deviation: Tensor) -> Tensor:
    """Mean square over channels of the distance between two features, in units of the teacher's deviation.

    Features (n, c, h, w) and deviation (1, c, 1, 1) give (n, 1, h, w), without gradient.
    """
    return ((feature - teacher) / deviation).square().mean(dim=1, keepdim=True).detach()


def reliability_loss(reliability: Tensor, distance: Tensor, unit: Tensor, weight: Tensor) -> Tensor:
    """AGF: cross-entropy of the ego's reliability to exp(-distance / unit), derived here.

    Args:
        reliability: (n, 1, h, w) in (0, 1).
        distance: (n, 1, h, w) of the ego's feature from the teacher's.
        unit: scalar, the distance at which the target is 1/e.
        weight: (n, 1, h, w) of each cell.
    """
    # In float32: binary_cross_entropy is not allowed under autocast.
    with torch.autocast(reliability.device.type, enabled=False):
        wanted = torch.exp(-distance.float() / unit)
        entropy = functional.binary_cross_entropy(reliability.float(), wanted, reduction='none')
        return (weight * entropy).sum() / weight.sum().clamp(min=1)


def restoration_losses(
    restoration: Restoration,
    features: Tensor,
    density: Tensor,
    wanted: Tensor,
    weight: Tensor,
    context: Context | None = None,
) -> dict[str, Tensor]:
    """PKD (a): losses of the predicted clean latent, the autoencoder and the projection.

    Args:
        restoration: to train.
        features: (n, c, h, w) to restore.
        density: (n, 1, h, w).
        wanted: (n, c, h, w) target.
        weight: (n, 1, h, w) of each cell.
        context: what else is known, for a restoration with a context.
    """
    target = restoration.normalise(wanted)
    covered = covered_cells(density)
    weight = weight * (covered + UNSEEN_WEIGHT * (1 - covered))

    latent = restoration.to_latent(target)
    decoded = restoration.from_latent(latent)
    clean = latent.detach()
    coarse = functional.avg_pool2d(weight, weight.shape[-1] // clean.shape[-1])
    projected = restoration.project(restoration.normalise(features))
    conditions = restoration.conditions(features, density, context)
    predicted = restoration.predict(clean, projected, conditions)
    return {
        'restoration': weighted_square(predicted - clean, coarse),
        'autoencoder': weighted_square(decoded - target, weight),
        'projection': weighted_square(projected - clean, coarse),
    }
