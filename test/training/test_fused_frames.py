# SPDX-License-Identifier: Apache-2.0
"""All frames of a batch fused at once, against each frame on its own."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_recipe import first_batch, small_recipe
from torch import Tensor, nn

from diffkd_ros.geometry.grid import grid_warps
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.model.student import Student
from diffkd_ros.training.data import Batch, Sample, Samples, collate
from diffkd_ros.training.stages import fuse_frames
from diffkd_ros.training.validation import grid_of

RECIPE = small_recipe(model={'vectors': 2})
GRID = grid_of(RECIPE)
FUSIONS: list[dict[str, Any]] = [
    {},
    {'modulation': False},
    {'fusion': 'attention', 'restoration': 'none'},
    {'fusion': 'maximum', 'restoration': 'none'},
]


@pytest.fixture(scope='module')
def template() -> Sample:
    return Samples(RECIPE.data, GRID, 0, range(1))[0]


def batch_of(template: Sample, sizes: list[int]) -> Batch:
    """Frames of so many agents, at poses of which some see nothing of the ego's grid."""
    samples = []
    for size in sizes:
        poses = [pose_from_euler([9.0 * i, -4.0 * i, 0.0], yaw=0.7 * i) for i in range(size)]
        if size > 2:
            poses[2] = pose_from_euler([500.0, 0.0, 0.0])
        clouds = template.clouds[:1] * size
        samples.append(
            replace(template, clouds=clouds, clean=clouds, warps=grid_warps(poses, GRID),
                    arriving=template.arriving[:1].repeat(size, axis=0))
        )  # fmt: skip
    return collate(samples)


def one_by_one(
    student: Student, features: Tensor, restored: Tensor, density: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    frames = (maps.split(batch.sizes) for maps in (features, restored, density, batch.warps))
    fusions = [student.fuse(*frame) for frame in zip(*frames, strict=True)]
    return torch.cat([f.fused for f in fusions]), torch.cat([f.reliability for f in fusions])


@pytest.mark.parametrize('model', FUSIONS)
@pytest.mark.parametrize('sizes', [[1], [3], [1, 1], [1, 3], [4, 2], [2, 1, 5]])
def test_frames_fused_at_once_and_one_by_one_agree_in_outputs_and_gradients(
    template: Sample, model: dict[str, Any], sizes: list[int]
) -> None:
    torch.manual_seed(sum(sizes))
    student = Student(small_recipe('student', model={'vectors': 2} | model).model)
    for name, parameter in student.named_parameters():
        if name.endswith('scale'):
            nn.init.normal_(parameter, std=0.5)  # modulations are the identity at first
    batch = batch_of(template, sizes)
    agents, (height, width) = sum(sizes), (GRID.height, GRID.width)
    features = torch.randn(agents, 8, height, width, requires_grad=True)
    restored = torch.randn(agents, 8, height, width, requires_grad=True)
    density = torch.rand(agents, 1, height, width) * (torch.rand(agents, 1, height, width) > 0.7)
    given_out = torch.randn(len(sizes), 8, height, width), torch.randn(len(sizes), 1, height, width)
    parts = [features, restored, *student.fusion.parameters()]

    def results(fused: Tensor, reliability: Tensor) -> list[Tensor]:
        # The shares of a maximum, which stand for the reliability, have no gradient.
        wanted = [(o, g) for o, g in zip((fused, reliability), given_out, strict=True) if o.requires_grad]
        gradients = torch.autograd.grad(
            [o for o, _ in wanted], parts, [g for _, g in wanted], allow_unused=True
        )
        return [fused, reliability, *(g for g in gradients if g is not None)]

    fusion = fuse_frames(student, features, restored, density, batch)
    at_once = results(fusion.fused, fusion.reliability)
    apart = results(*one_by_one(student, features, restored, density, batch))
    assert len(at_once) == len(apart) >= 3
    for ours, expected in zip(at_once, apart, strict=True):
        scale = expected.abs().max().clamp(min=1.0)
        torch.testing.assert_close(ours / scale, expected / scale, atol=2e-5, rtol=1e-4)


def test_a_frame_does_not_change_with_the_others_in_its_batch() -> None:
    batch = first_batch(small_recipe(data={'drop_neighbours': 0.0}))
    torch.manual_seed(0)
    student = Student(small_recipe().model).eval()
    clouds = batch.agents
    with torch.no_grad():
        features, density = student.encoder(clouds.points, clouds.index, clouds.count)
        both = fuse_frames(student, features, features, density, batch).fused
        other = features.clone()
        other[batch.sizes[0] :] += 1.0
        changed = fuse_frames(student, other, other, density, batch).fused
    assert torch.equal(both[0], changed[0])
    assert not torch.allclose(both[1], changed[1])
