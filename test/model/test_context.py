# SPDX-License-Identifier: Apache-2.0
"""What a receiver knows in addition to a neighbour's incomplete map."""

import numpy as np
import pytest
import torch

from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.model.context import (
    BOX_MAPS,
    Context,
    ContextCondition,
    inverse_warps,
    last_of,
    pooled,
    views_of,
    with_egos,
)
from diffkd_ros.model.fusion import ABSENT, by_frame
from diffkd_ros.model.modulation import LightweightGatedModulation
from diffkd_ros.model.restoration import PlainRestoration

GRID = BevGrid(-12.8, -6.4, -3.0, 12.8, 6.4, 1.0, 16, 32)


def pose(x: float, y: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    return pose_from_euler([x, y, 0.0], 0.0, 0.0, yaw)


def test_warps_are_inverted_as_matrices_are() -> None:
    warps = torch.from_numpy(grid_warps([pose(0), pose(3, -2, 0.7), pose(-8, 1, 2.5)], GRID))
    rows = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(3, -1, -1)
    expected = np.linalg.inv(torch.cat((warps, rows), dim=1).numpy())[:, :2]
    np.testing.assert_allclose(inverse_warps(warps).numpy(), expected, atol=1e-5)
    assert not inverse_warps(torch.tensor([ABSENT])).any()


def views(
    normal: torch.Tensor, coverage: torch.Tensor, warps: torch.Tensor, vectors: int = 0, frames: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of agents frame by frame, a frame's ego first."""
    maps, theirs = by_frame(pooled(normal, coverage), frames), by_frame(warps, frames)[:, 1:]
    return views_of(maps[:, 0], maps[:, 1:], theirs.flatten(0, 1), vectors)


def test_a_neighbour_sees_the_egos_map_where_it_lies() -> None:
    """The neighbour stands four cells ahead: the ego's map appears four cells further back."""
    torch.manual_seed(0)
    normal = torch.randn(2, 4, 16, 32)
    coverage = torch.ones(2, 1, 16, 32)
    warps = torch.from_numpy(grid_warps([pose(0), pose(3.2)], GRID))
    ego, others = views(normal, coverage, warps)
    whole = torch.nn.functional.avg_pool2d(normal[:1], 2)
    torch.testing.assert_close(ego[0, :4, :, :-2], whole[0, :, :, 2:], atol=1e-4, rtol=0)
    assert (ego[0, 4, :, -1] == 0).all()  # beyond the ego's grid
    assert not others.any()


def test_the_other_neighbours_are_averaged_where_they_cover() -> None:
    normal = torch.stack([torch.full((4, 16, 32), value) for value in (9.0, 1.0, 2.0, 4.0)])
    coverage = torch.ones(4, 1, 16, 32)
    coverage[3, :, :, 16:] = 0
    warps = torch.eye(2, 3).repeat(4, 1, 1)
    _, others = views(normal, coverage, warps)
    # The first neighbour sees the mean of 2 and 4, and 2 where the last does not cover.
    torch.testing.assert_close(others[0, 0, 4, 2], torch.tensor(3.0))
    torch.testing.assert_close(others[0, 0, 4, 12], torch.tensor(2.0))
    torch.testing.assert_close(others[2, 0, 4, 2], torch.tensor(1.5))


def test_frames_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(1)
    normal, coverage = torch.randn(4, 4, 16, 32), torch.ones(4, 1, 16, 32)
    warps = torch.from_numpy(grid_warps([pose(0), pose(3.2, 1.6, 0.3)], GRID)).repeat(2, 1, 1)
    together = views(normal, coverage, warps, 1, frames=2)
    alone = [views(normal[i : i + 2], coverage[:2], warps[:2], 1) for i in (0, 2)]
    for part, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(part, torch.cat(parts))


def test_an_ego_without_neighbours_has_no_views() -> None:
    ego, others = views(
        torch.randn(2, 4, 16, 32), torch.ones(2, 1, 16, 32), torch.eye(2, 3).repeat(2, 1, 1), 1, 2
    )
    assert ego.shape == others.shape == (0, 5, 8, 16)
    assert with_egos(ego, 2).shape == (2, 5, 8, 16)


def test_egos_come_before_the_neighbours_of_their_frame() -> None:
    found = with_egos(torch.arange(1.0, 5.0)[:, None], 2)
    assert found.flatten().tolist() == [0, 1, 2, 0, 3, 4]


def context(missing: torch.Tensor) -> Context:
    n, _, height, width = missing.shape
    half = (height // 2, width // 2)
    return Context(
        missing,
        1 - missing,
        torch.randn(n, BOX_MAPS, height, width),
        torch.randn(n, 9, *half),
        torch.randn(n, 9, *half),
        torch.randn(n, 10, *half),
        torch.zeros(n, 1, height, width),
    )


def restoration(*parts: str) -> PlainRestoration:
    torch.manual_seed(3)
    condition = ContextCondition(8, 8, parts)  # type: ignore[arg-type]
    for layer in filter(None, (condition.local, condition.views, condition.last)):
        torch.nn.init.normal_(layer.weight)
    network = PlainRestoration(8, 8, 1, condition).eval()
    for block in network.modules():
        if isinstance(block, LightweightGatedModulation):
            torch.nn.init.ones_(block.scale)  # 0 at the start of training: the condition has no effect yet
    return network


def test_cells_that_did_not_arrive_are_replaced_and_others_stay() -> None:
    missing = torch.zeros(1, 1, 16, 32)
    missing[..., :8] = 1
    feature, density = torch.zeros(1, 8, 16, 32), torch.zeros(1, 1, 16, 32)
    feature[..., 24:] = torch.rand(8, 16, 8)
    with torch.no_grad():
        restored = restoration('mask', 'ego')(feature, density, context(missing))
    assert (restored[..., :8] != 0).all()
    # Neither missing nor near an observed cell.
    assert torch.equal(restored[..., 8:], feature[..., 8:])


def test_a_remembered_map_lies_where_the_agent_was() -> None:
    """The agent has driven four cells since: what it saw then lies four cells further back."""
    torch.manual_seed(0)
    normal, occupied = torch.randn(1, 4, 16, 32), torch.ones(1, 1, 16, 32)
    occupied[..., 20:] = 0
    moved = torch.from_numpy(grid_warps([pose(3.2), pose(0)], GRID))[1:]
    last, remembered = last_of(normal, occupied, torch.tensor([[0.3]]), moved, vectors=0)
    pooled = torch.nn.functional.avg_pool2d(normal[..., 4:20], 2)
    torch.testing.assert_close(last[:, :4, :, :8], pooled, atol=1e-4, rtol=0)
    assert torch.equal(remembered[0, 0, 0], torch.tensor([1.0] * 16 + [0.0] * 16))
    torch.testing.assert_close(last[0, 4:, 3, 4], torch.tensor([1.0, 0.3]))
    assert not last[:, :, :, 8:].any()


def test_what_is_remembered_may_appear_where_nothing_is_seen() -> None:
    feature, density = torch.zeros(1, 8, 16, 32), torch.zeros(1, 1, 16, 32)
    known = context(torch.zeros(1, 1, 16, 32))
    remembered = torch.zeros(1, 1, 16, 32)
    remembered[..., 10:14] = 1
    with torch.no_grad():
        restored = restoration('last')(feature, density, known._replace(remembered=remembered))
    assert (restored[..., 10:14] != 0).any()
    assert not restored[..., :10].any()
    assert not restored[..., 14:].any()


@pytest.mark.parametrize('part', ['level', 'boxes', 'ego', 'others', 'last'])
def test_a_part_matters_if_and_only_if_it_is_used(part: str) -> None:
    missing = torch.ones(1, 1, 16, 32)
    feature, density = torch.rand(1, 8, 16, 32), torch.ones(1, 1, 16, 32)
    torch.manual_seed(4)
    one = context(missing)
    other = one._replace(**{part: torch.randn_like(getattr(one, part))})
    name = 'mask' if part == 'level' else part
    every = ('mask', 'boxes', 'ego', 'others', 'last')
    for parts, matters in ((every, True), (tuple(p for p in every if p != name), False)):
        network = restoration(*parts)
        with torch.no_grad():
            same = torch.equal(network(feature, density, one), network(feature, density, other))
        assert same != matters
