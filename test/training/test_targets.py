# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.runtime.decoding import decode_boxes
from diffkd_ros.runtime.grid import BevGrid
from diffkd_ros.training.data import SimulatedSamples, collate, make_sample
from diffkd_ros.training.losses import focal_loss
from diffkd_ros.training.recipe import Data
from diffkd_ros.training.targets import detection_target

GRID = BevGrid(-51.2, -25.6, -3.0, 51.2, 25.6, 1.0, height=64, width=128)
BOXES = np.array(
    [
        [10.3, 4.1, -1.0, 4.5, 1.8, 1.5, 0.3],
        [-20.0, -9.7, -0.8, 12.0, 2.5, 3.2, -2.9],
        [30.0, 0.0, -1.0, 4.2, 1.7, 1.4, 1.5],
    ]
)


def test_a_perfect_head_decodes_to_the_truth() -> None:
    target = detection_target(BOXES, np.full(3, 9), 5, GRID)
    logits = np.log((target.heatmap[0] + 1e-4) / (1 - target.heatmap[0] + 1e-4))
    found = decode_boxes(logits, target.regression, GRID, 0.5, 0.15, 100)
    order = np.argsort(found.boxes[:, 0])
    np.testing.assert_allclose(found.boxes[order], BOXES[np.argsort(BOXES[:, 0])], atol=1e-5)


def test_thinly_seen_vehicles_are_neither_target_nor_clutter() -> None:
    target = detection_target(BOXES, np.array([9, 4, 9]), 5, GRID)
    row, column = int((-9.7 + 25.6) / 0.8), int((-20.0 + 51.2) / 0.8)
    assert target.centre.sum() == 2
    assert not target.counted[0, row, column]
    assert target.counted[0, 0, 0]
    # 12 m x 2.5 m of 0.8 m cells are 47 cells.
    assert 35 <= (~target.counted).sum() <= 60


def test_vehicles_out_of_range_are_left_out() -> None:
    outside = BOXES.copy()
    outside[:, 0] += 60
    target = detection_target(outside, np.full(3, 9), 5, GRID)
    assert target.centre.sum() == 1  # the one at x = -20 has come to x = 40


def test_focal_loss_ignores_what_is_not_counted_and_rewards_the_truth() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[0, 0, 2, 2] = 1
    wrong = torch.full((1, 1, 8, 8), -6.0)
    wrong[0, 0, 2, 2] = 6.0
    wrong[0, 0, 6, 6] = 6.0
    counted = torch.ones_like(target)
    assert focal_loss(wrong, target, counted) > 5
    counted[0, 0, 6, 6] = 0
    assert focal_loss(wrong, target, counted) < 0.01
    # By hand: one centre at p = 0.5 costs (1 - p)^2 * -log(p).
    half = torch.full((1, 1, 8, 8), -30.0)
    half[0, 0, 2, 2] = 0.0
    assert focal_loss(half, target, counted).item() == pytest.approx(0.25 * np.log(2), rel=1e-2)


def test_a_sample_counts_only_the_returns_of_agents_that_take_part() -> None:
    """A vehicle that only the neighbour sees is a target with the neighbour and ignored without it."""
    draw = np.random.default_rng(0)
    on_vehicle = np.array([[20.0, 5.0, 1.0]]) + draw.uniform(-0.5, 0.5, (40, 3))
    ground = draw.uniform([-30, -20, 0], [30, 20, 0.1], (200, 3))
    ego_pose = pose_from_euler([0, 0, 1.9])
    neighbour_pose = pose_from_euler([25.0, 10.0, 1.9], yaw=2.0)

    def sweep(map_points: np.ndarray, pose: np.ndarray) -> AgentSweep:
        local = (map_points - pose[:3, 3]) @ pose[:3, :3]
        return AgentSweep(np.c_[local, np.full(len(local), 0.5)].astype(np.float32), pose)

    frame = CoopFrame(
        agents={1: sweep(ground, ego_pose), 2: sweep(np.r_[ground, on_vehicle], neighbour_pose)},
        ego=1,
        stamp=0,
        ground_truth=Boxes3D(
            np.array([[20.0, 5.0, 1.0, 4.5, 1.9, 1.6, 0.0]]),
            track_ids=np.array([7]),
            num_points=np.array([40]),
        ),
    )
    together = make_sample(frame, 1, [2], GRID, 5)
    alone = make_sample(frame, 1, [], GRID, 5)
    assert together.target.centre.sum() == 1
    assert alone.target.centre.sum() == 0
    assert not alone.target.counted.all()
    assert len(together.union) == 440
    moved = together.union[-40:, :3]
    np.testing.assert_allclose(moved, on_vehicle - [0, 0, 1.9], atol=1e-4)


def test_the_same_index_gives_the_same_bytes_and_another_gives_others() -> None:
    samples = SimulatedSamples(Data(), GRID, 10, 0)
    first, again, other = samples[3], SimulatedSamples(Data(), GRID, 10, 0)[3], samples[4]
    assert np.array_equal(first.union, again.union)
    assert np.array_equal(first.target.heatmap, again.target.heatmap)
    assert not np.array_equal(first.union[:100], other.union[:100])
    batch = collate([first, other])
    assert batch.agents.count == sum(batch.sizes) == len(batch.warps)
    assert len(batch.agents.points) == sum(len(c) for s in (first, other) for c in s.clouds)
