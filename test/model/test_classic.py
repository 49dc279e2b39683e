# SPDX-License-Identifier: Apache-2.0
"""The network that ours is compared with has the layout of the papers."""

import numpy as np
import pytest
import torch

from diffkd_ros.model.baseline_fusion import AttentionFusion
from diffkd_ros.model.classic import ClassicEgo, ClassicEncoder, attend

RANGE = (-12.8, -6.4, -3.0, 12.8, 6.4, 1.0)
CELL = 0.4


def convolution(inputs: int, outputs: int, edge: int) -> int:
    """Weights of a convolution without bias, and of the batch norm after it."""
    return inputs * outputs * edge * edge + 2 * outputs


def test_it_has_the_parameters_of_the_papers() -> None:
    """Lang et al.: Block(2, 4, 64), Block(4, 6, 128), Block(8, 6, 256), each up to 128; D = 9, C = 64."""
    encoder = (
        (9 * 64 + 2 * 64)
        + 4 * convolution(64, 64, 3)
        + (convolution(64, 128, 3) + 5 * convolution(128, 128, 3))
        + (convolution(128, 256, 3) + 5 * convolution(256, 256, 3))
        + (convolution(64, 128, 1) + convolution(128, 128, 2) + convolution(256, 128, 4))
    )
    # Two anchors, each with a score and seven residuals of a box. Attention has no parameters.
    ego = 384 * 2 * (1 + 7) + 2 * (1 + 7)
    found = [
        sum(part.numel() for part in net.parameters()) for net in (ClassicEncoder(RANGE, CELL), ClassicEgo())
    ]
    assert found == [encoder, ego]


def test_maps_have_half_the_rows_of_pillars() -> None:
    points = torch.from_numpy(np.random.default_rng(0).uniform(-3, 1, (200, 4)).astype(np.float32))
    with torch.inference_mode():
        features = ClassicEncoder(RANGE, CELL).eval()(points)
        scores, boxes = ClassicEgo().eval()([features[0]] * 3)
    assert features.shape == (1, 384, 16, 32)
    assert (scores.shape, boxes.shape) == ((1, 2, 16, 32), (1, 14, 16, 32))


def test_pillars_are_the_maximum_over_described_points() -> None:
    """Against a loop over the pillars in NumPy."""
    encoder = ClassicEncoder(RANGE, CELL).eval()
    draw = np.random.default_rng(1)
    points = draw.uniform([-2, -1, -3, 0], [2, 1, 1, 1], (60, 4)).astype(np.float32)
    expected = np.zeros((64, 32, 64), np.float32)
    cells = np.floor((points[:, :2] - RANGE[:2]) / CELL).astype(int)
    weights = encoder.linear.weight.detach().numpy()
    for column, row in np.unique(cells, axis=0):
        inside = points[(cells == (column, row)).all(axis=1)]
        centre = np.array(RANGE[:2]) + (np.array([column, row]) + 0.5) * CELL
        described = np.hstack((inside, inside[:, :3] - inside[:, :3].mean(axis=0), inside[:, :2] - centre))
        # A batch norm that was not trained divides by sqrt(1 + eps).
        encoded = described @ weights.T / np.sqrt(1 + encoder.norm.eps)
        expected[:, row, column] = np.maximum(encoded, 0).max(axis=0)
    with torch.inference_mode():
        found = encoder.pillars(torch.from_numpy(points))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('agents', [1, 3])
def test_attention_is_that_of_the_trained_baseline(agents: int) -> None:
    maps = torch.from_numpy(np.random.default_rng(2).normal(size=(agents, 8, 5, 6)).astype(np.float32))
    covered = torch.ones(agents, 1, 5, 6)
    expected, _, _ = AttentionFusion()(maps, covered, covered[None, :, 0], covered)
    torch.testing.assert_close(attend(list(maps)), expected)
