# SPDX-License-Identifier: Apache-2.0
import numpy as np
import torch

from diffkd_ros.model.pillars import PillarEncoder
from diffkd_ros.model.student import Student, StudentConfig

RANGE = (-8.0, -4.0, -3.0, 8.0, 4.0, 1.0)


def cloud(count: int, seed: int) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    low, high = np.array([-10, -6, -4, 0]), np.array([10, 6, 2, 1])
    return torch.from_numpy((low + draw.random((count, 4)) * (high - low)).astype(np.float32))


def test_points_per_pillar_agree_with_a_histogram() -> None:
    encoder = PillarEncoder(RANGE, 0.5, 4).eval()
    points = cloud(5000, 0)
    _, count = encoder(points, torch.zeros(5000, dtype=torch.long), 1)
    x, y, z = points[:, :3].numpy().T
    inside = (z >= -3) & (z < 1)
    expected, _, _ = np.histogram2d(
        y[inside], x[inside], bins=(np.arange(-4, 4.5, 0.5), np.arange(-8, 8.5, 0.5))
    )
    assert np.array_equal(count[0, 0].numpy(), expected)


def test_clouds_of_a_batch_do_not_mix() -> None:
    encoder = PillarEncoder(RANGE, 0.5, 4).eval()
    clouds = [cloud(300, seed) for seed in range(3)]
    index = torch.repeat_interleave(torch.arange(3), 300)
    together, counts = encoder(torch.cat(clouds), index, 3)
    for i, points in enumerate(clouds):
        alone, count = encoder(points, torch.zeros(300, dtype=torch.long), 1)
        torch.testing.assert_close(together[i], alone[0])
        assert torch.equal(counts[i], count[0])


def test_the_order_of_points_does_not_matter() -> None:
    encoder = PillarEncoder(RANGE, 0.5, 4).eval()
    points, index = cloud(500, 3), torch.zeros(500, dtype=torch.long)
    shuffled = points[torch.randperm(500)]
    torch.testing.assert_close(encoder(shuffled, index, 1)[0], encoder(points, index, 1)[0])


def test_points_out_of_range_leave_no_trace() -> None:
    encoder = PillarEncoder(RANGE, 0.5, 4).eval()
    points = cloud(400, 4)
    far = torch.tensor([[100.0, 0, 0, 1], [0, -90, 0, 1], [0, 0, 5, 1], [-8.01, 0, 0, 1], [8.0, 0, 0, 1]])
    with_far = torch.cat((points, far))
    pillars, count = encoder(points, torch.zeros(400, dtype=torch.long), 1)
    pillars_far, count_far = encoder(with_far, torch.zeros(405, dtype=torch.long), 1)
    assert torch.equal(pillars, pillars_far)
    assert torch.equal(count, count_far)


def test_a_feature_is_zero_far_from_any_return_and_density_counts_points() -> None:
    torch.manual_seed(0)
    student = Student(StudentConfig()).eval()
    points = torch.tensor([[10.1, 5.1, -1.0, 0.3]] * 3)
    with torch.no_grad():
        feature, density = student.encoder(points, torch.zeros(3, dtype=torch.long), 1)
    row, column = int((5.1 + 25.6) / 0.8), int((10.1 + 51.2) / 0.8)
    assert density[0, 0, row, column].item() == np.float32(np.log(4.0))
    assert (density > 0).sum() == 1
    rows, columns = feature[0].abs().sum(dim=0).nonzero().T
    assert len(rows) > 0
    assert (rows - row).abs().max() <= 3
    assert (columns - column).abs().max() <= 3


def test_a_lone_agent_gets_the_same_boxes_whatever_pose_it_claims() -> None:
    torch.manual_seed(0)
    student = Student(StudentConfig()).eval()
    feature, density = torch.rand(1, 32, 64, 128), torch.rand(1, 1, 64, 128)
    with torch.no_grad():
        heatmap, regression, _ = student(feature, density, torch.eye(2, 3)[None])
        turned = torch.tensor([[[0.0, -2.0, 0.3], [0.5, 0.0, -0.1]]])
        heatmap_turned, regression_turned, _ = student(feature, density, turned)
    assert torch.equal(heatmap, heatmap_turned)
    assert torch.equal(regression, regression_turned)
