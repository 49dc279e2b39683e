# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import nn

from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.model.fusion import AdaptiveGatedFusion, warp
from diffkd_ros.model.modulation import LightweightGatedModulation

SHAPE = (8, 6, 10)
GRID = BevGrid(-32.0, -16.0, -3.0, 32.0, 16.0, 1.0, height=32, width=64)


@pytest.fixture
def fusion() -> AdaptiveGatedFusion:
    torch.manual_seed(0)
    module = AdaptiveGatedFusion(SHAPE[0], 4).eval()
    for modulation in (module.neighbour, module.fused):
        nn.init.normal_(modulation.scale, std=0.5)
    return module


def inputs(agents: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(agents)
    channels, height, width = SHAPE
    coverage = (torch.rand(agents, 1, height, width) > 0.3).float()
    coverage[:1] = 1
    return (
        torch.randn(agents, channels, height, width),
        coverage,
        torch.rand(1, 1, height, width),
        torch.rand(1, 1, height, width),
    )


def test_modulation_starts_as_the_identity_and_then_depends_on_its_condition() -> None:
    modulation = LightweightGatedModulation(8)
    x, condition = torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5)
    assert torch.equal(modulation(x, condition), x)
    nn.init.ones_(modulation.scale)
    assert not torch.allclose(modulation(x, condition), modulation(x, -condition))


def test_without_neighbours_the_ego_is_modulated_by_itself(fusion: AdaptiveGatedFusion) -> None:
    features, coverage, density, change = inputs(1)
    fused, share, _ = fusion(features, coverage, density, change)
    assert torch.equal(fused, fusion.fused(features, features))
    assert torch.equal(share, torch.ones_like(share))


def test_neighbours_without_coverage_have_no_effect(fusion: AdaptiveGatedFusion) -> None:
    features, coverage, density, change = inputs(3)
    coverage[1:] = 0
    features[1:] = 1e3
    alone, _, trust = fusion(features[:1], coverage[:1], density, change)
    fused, _, reliability = fusion(features, coverage, density, change)
    torch.testing.assert_close(fused, alone)
    torch.testing.assert_close(reliability, trust)


def test_the_order_of_neighbours_does_not_matter(fusion: AdaptiveGatedFusion) -> None:
    features, coverage, density, change = inputs(4)
    order = torch.tensor([0, 3, 1, 2])
    fused, share, trust = fusion(features, coverage, density, change)
    fused_again, share_again, trust_again = fusion(features[order], coverage[order], density, change)
    torch.testing.assert_close(trust_again, trust, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused_again, fused, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(share_again, share[order], atol=1e-5, rtol=1e-5)


def test_shares_sum_to_one_and_are_zero_without_coverage(fusion: AdaptiveGatedFusion) -> None:
    features, coverage, density, change = inputs(4)
    share = fusion(features, coverage, density, change)[1]
    torch.testing.assert_close(share.sum(dim=0), torch.ones_like(share[0]))
    assert (share[coverage == 0] == 0).all()


def test_reliability_depends_on_the_difference_to_the_neighbours(fusion: AdaptiveGatedFusion) -> None:
    """It is learnt from the difference alone: the ego is wrong in some cells, the neighbours are not."""
    features, coverage, density, change = inputs(3)
    coverage[:] = 1
    wrong = torch.rand(1, 1, *SHAPE[1:]) > 0.5
    features[1:] = features[1:2]
    features[:1] = torch.where(wrong, features[:1], features[1:2])
    optimiser = torch.optim.Adam(fusion.parameters(), 1e-2)
    for _ in range(150):
        reliability = fusion(features, coverage, density, change)[2]
        loss = nn.functional.binary_cross_entropy(reliability, (~wrong).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    swapped = features.clone()
    # The same ego, but other neighbours: right where it was wrong, wrong where it was right.
    swapped[1:] = torch.where(wrong, features[:1], features[1:2] + 2 * torch.randn_like(features[1:2]))
    agreed = fusion(swapped, coverage, density, change)[2]
    assert reliability[wrong].mean() < 0.1 < 0.9 < reliability[~wrong].mean()
    assert agreed[wrong].mean() > reliability[wrong].mean() + 0.2
    assert agreed[~wrong].mean() < reliability[~wrong].mean() - 0.2


@pytest.mark.parametrize(('bias', 'ego_share'), [(50.0, 1.0), (-50.0, 0.0)])
def test_reliability_decides_between_ego_and_neighbours(
    fusion: AdaptiveGatedFusion, bias: float, ego_share: float
) -> None:
    features, coverage, density, change = inputs(3)
    last = fusion.reliability[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    share = fusion(features, coverage, density, change)[1]
    covered = coverage[1:].amax(dim=0) > 0
    torch.testing.assert_close(share[0][covered], torch.full_like(share[0][covered], ego_share))


def test_gradients_are_finite_when_every_neighbour_is_masked(fusion: AdaptiveGatedFusion) -> None:
    features, coverage, density, change = inputs(3)
    coverage[1:] = 0
    features.requires_grad_(True)
    fusion(features, coverage, density, change)[0].sum().backward()
    assert torch.isfinite(features.grad).all()  # type: ignore[arg-type]
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)


def test_warping_moves_a_landmark_to_its_place_in_the_egos_grid() -> None:
    """A landmark at a known map position must appear in the ego's grid at its ego coordinates."""
    ego = pose_from_euler([100.0, 50.0, 2.0], yaw=0.4)
    neighbour = pose_from_euler([112.0, 47.0, 2.1], yaw=-1.1)
    landmark = np.array([106.0, 53.0, 0.0, 1.0])

    def cell_of(pose: np.ndarray) -> np.ndarray:
        local = np.linalg.inv(pose) @ landmark
        return np.array(
            [(local[0] - GRID.x_min) / GRID.cell - 0.5, (local[1] - GRID.y_min) / GRID.cell - 0.5]
        )

    column, row = np.rint(cell_of(neighbour)).astype(int)
    seen = torch.zeros(2, 1, 32, 64)
    seen[1, 0, row - 1 : row + 2, column - 1 : column + 2] = 1.0
    warps = torch.from_numpy(grid_warps([ego, neighbour], GRID))
    image = warp(seen, warps)[1, 0].numpy()
    rows, columns = np.mgrid[:32, :64]
    centre = [(image * columns).sum() / image.sum(), (image * rows).sum() / image.sum()]
    assert np.abs(np.array(centre) - cell_of(ego)).max() < 0.75


def test_warping_by_the_identity_changes_nothing() -> None:
    maps = torch.rand(2, 3, 6, 10)
    identity = torch.eye(2, 3).repeat(2, 1, 1)
    torch.testing.assert_close(warp(maps, identity), maps, atol=1e-5, rtol=1e-5)


def test_mixed_precision_does_not_move_cells() -> None:
    """Coordinates in half precision would be off by a quarter of a cell at the edge of the grid."""
    poses = [np.eye(4), pose_from_euler([5.3, 2.2, 0.0], yaw=0.3)]
    warps = torch.from_numpy(grid_warps(poses, BevGrid(-51.2, -25.6, -3.0, 51.2, 25.6, 1.0, 64, 128)))
    columns = (torch.arange(128.0) + 0.5).expand(2, 1, 64, 128).contiguous()
    expected = warp(columns, warps)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(warp(columns, warps), expected, atol=1e-4, rtol=0)


def test_directions_are_rotated_with_the_grid() -> None:
    """Vectors that point at a landmark in the neighbour's axes point at it in the ego's."""
    ego = pose_from_euler([100.0, 50.0, 2.0], yaw=0.4)
    neighbour = pose_from_euler([105.0, 47.0, 2.1], yaw=-1.1)
    landmark = np.array([140.0, 53.0, 0.0, 1.0])
    rows, columns = np.mgrid[:32, :64]
    x, y = GRID.x_min + (columns + 0.5) * GRID.cell, GRID.y_min + (rows + 0.5) * GRID.cell

    def field(pose: np.ndarray) -> torch.Tensor:
        """The vector from each cell to the landmark: linear, so bilinear resampling is exact."""
        local = np.linalg.inv(pose) @ landmark
        return torch.from_numpy(np.stack((local[0] - x, local[1] - y)).astype(np.float32))

    maps = torch.stack((field(ego), field(neighbour)))
    height = torch.full_like(maps[:, :1], 7.0)
    warps = torch.from_numpy(grid_warps([ego, neighbour], GRID))
    turned = warp(torch.cat((maps, height), dim=1), warps, vectors=1)[1]
    inside = turned[2] > 6.999
    assert inside.sum() > 500
    torch.testing.assert_close(turned[:2][:, inside], maps[0][:, inside], atol=1e-3, rtol=1e-4)
    assert (warp(maps, warps)[1][:, inside] - maps[0][:, inside]).abs().max() > 1
