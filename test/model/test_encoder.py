# SPDX-License-Identifier: Apache-2.0
import builtins
import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from diffkd_ros.model.pillars import PillarEncoder
from diffkd_ros.model.sparse_encoder import SparseConvolutionError, SparseVoxelEncoder
from diffkd_ros.model.student import Student, StudentConfig

RANGE = (-8.0, -4.0, -3.0, 8.0, 4.0, 1.0)
KINDS = ['pillars', 'sparse']


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    """Points to the grid that the backbone reads, in both ways."""
    torch.manual_seed(0)
    if request.param == 'sparse':
        pytest.importorskip('spconv')
    kind = SparseVoxelEncoder if request.param == 'sparse' else PillarEncoder
    return settled(kind(RANGE, 0.5, 4))


def cloud(count: int, seed: int) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    low, high = np.array([-10, -6, -4, 0]), np.array([10, 6, 2, 1])
    return torch.from_numpy((low + draw.random((count, 4)) * (high - low)).astype(np.float32))


def settled(encoder: nn.Module) -> nn.Module:
    """With batch norm statistics from points, so that outputs have a usual scale."""
    for norm in encoder.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        encoder.train()(cloud(3000, 9), one_cloud(3000), 1)
    return encoder.eval()


def one_cloud(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.long)


def test_points_per_pillar_agree_with_a_histogram(encoder: nn.Module) -> None:
    points = cloud(5000, 0)
    pillars, count = encoder(points, one_cloud(5000), 1)
    x, y, z = points[:, :3].numpy().T
    inside = (z >= -3) & (z < 1)
    expected, _, _ = np.histogram2d(
        y[inside], x[inside], bins=(np.arange(-4, 4.5, 0.5), np.arange(-8, 8.5, 0.5))
    )
    assert np.array_equal(count[0, 0].detach().numpy(), expected)
    assert pillars.shape == (1, 4, 16, 32)


def test_clouds_of_a_batch_do_not_mix(encoder: nn.Module) -> None:
    clouds = [cloud(300, seed) for seed in range(3)]
    index = torch.repeat_interleave(torch.arange(3), 300)
    together, counts = encoder(torch.cat(clouds), index, 3)
    for i, points in enumerate(clouds):
        alone, count = encoder(points, one_cloud(300), 1)
        torch.testing.assert_close(together[i], alone[0])
        assert torch.equal(counts[i], count[0])


def test_the_order_of_points_does_not_matter(encoder: nn.Module) -> None:
    points, index = cloud(500, 3), one_cloud(500)
    shuffled = points[torch.randperm(500)]
    torch.testing.assert_close(
        encoder(shuffled, index, 1)[0], encoder(points, index, 1)[0], atol=1e-5, rtol=1e-4
    )


def test_points_out_of_range_have_no_effect(encoder: nn.Module) -> None:
    points = cloud(400, 4)
    far = torch.tensor([[100.0, 0, 0, 1], [0, -90, 0, 1], [0, 0, 5, 1], [-8.01, 0, 0, 1], [8.0, 0, 0, 1]])
    with_far = torch.cat((points, far))
    pillars, count = encoder(points, one_cloud(400), 1)
    pillars_far, count_far = encoder(with_far, one_cloud(405), 1)
    assert torch.equal(pillars, pillars_far)
    assert torch.equal(count, count_far)


def test_a_cloud_without_points_encodes_like_an_empty_area(encoder: nn.Module) -> None:
    points = torch.tensor([[6.1, 2.1, -1.0, 0.5]])
    pillars, count = encoder(points, torch.tensor([1]), 2)
    assert count.sum(dim=(1, 2, 3)).tolist() == [0, 1]
    torch.testing.assert_close(pillars[0], pillars[1, :, :1, :1].expand_as(pillars[0]))
    nothing, _ = encoder(points[:0], one_cloud(0), 1)
    torch.testing.assert_close(nothing[0], pillars[0])


def test_every_parameter_gets_a_gradient(encoder: nn.Module) -> None:
    encoder.train()
    encoder(cloud(2000, 5), one_cloud(2000), 1)[0].square().sum().backward()
    idle = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_the_height_of_points_matters(encoder: nn.Module) -> None:
    points = cloud(300, 6) * torch.tensor([0.5, 0.5, 0.2, 1.0])
    raised = points + torch.tensor([0, 0, 0.4, 0])
    first, second = (encoder(p, one_cloud(300), 1)[0] for p in (points, raised))
    assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize('kind', KINDS)
def test_a_feature_is_zero_far_from_any_return_and_density_counts_points(kind: str) -> None:
    if kind == 'sparse':
        pytest.importorskip('spconv')
    torch.manual_seed(0)
    encoder = StudentConfig(encoder=kind).make_encoder().eval()  # type: ignore[arg-type]
    points = torch.tensor([[10.1, 5.1, -1.0, 0.3]] * 3)
    with torch.no_grad():
        feature, density = encoder(points, one_cloud(3), 1)
    row, column = int((5.1 + 25.6) / 0.8), int((10.1 + 51.2) / 0.8)
    assert density[0, 0, row, column].item() == np.float32(np.log(4.0))
    assert (density > 0).sum() == 1
    rows, columns = feature[0].abs().sum(dim=0).nonzero().T
    assert len(rows) > 0
    assert (rows - row).abs().max() <= 3
    assert (columns - column).abs().max() <= 3


def test_sparse_convolutions_agree_with_dense_ones() -> None:
    """Strided convolutions everywhere, submanifold ones on the voxels of their input."""
    pytest.importorskip('spconv')
    torch.manual_seed(0)
    encoder = settled(SparseVoxelEncoder((-2.0, -2.0, -1.0, 2.0, 2.0, 1.0), 0.5, 4))
    indices = torch.unique(torch.stack([torch.randint(n, (60,)) for n in (1, 10, 16, 16)], dim=1), dim=0)
    values = torch.randn(len(indices), 6)
    dense = torch.zeros(1, 10, 16, 16, 6)
    dense[tuple(indices.T)] = values
    x, there = dense.movedim(-1, 1), torch.zeros(1, 1, 10, 16, 16)
    there[:, 0][tuple(indices.T)] = 1.0
    layers = list(encoder.convolutions.children())  # type: ignore[union-attr]
    for convolution, norm in zip(layers[0::3], layers[1::3], strict=True):
        kernel = convolution.weight.permute(0, 4, 1, 2, 3)  # from (out, 3, 3, 3, in)
        stride = tuple(convolution.stride)
        x = nn.functional.conv3d(x, kernel, stride=stride, padding=1)
        if not convolution.subm:
            there = nn.functional.max_pool3d(there, 3, stride=stride, padding=1)
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(1, -1, 1, 1, 1)
        x = torch.relu((x - norm.running_mean.view(1, -1, 1, 1, 1)) * scale) * there
    torch.testing.assert_close(encoder._dense(values, indices.int(), 1), x, atol=1e-5, rtol=1e-4)


def test_a_sparse_encoder_can_be_deep_copied() -> None:
    """The moving average of the training does so."""
    pytest.importorskip('spconv')
    encoder = SparseVoxelEncoder(RANGE, 0.5, 4).eval()
    points, index = cloud(200, 1), one_cloud(200)
    assert torch.equal(copy.deepcopy(encoder)(points, index, 1)[0], encoder(points, index, 1)[0])


def test_without_spconv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., object] = builtins.__import__

    def missing(name: str, *rest: object, **named: object) -> object:
        if name.startswith('spconv'):
            raise ModuleNotFoundError("No module named 'spconv'", name='spconv')
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, '__import__', missing)
    with pytest.raises(SparseConvolutionError, match=r'spconv is missing.*sparse extra.*spconv-cu120'):
        StudentConfig(encoder='sparse').make_encoder()


def test_boxes_of_a_single_agent_do_not_depend_on_its_pose() -> None:
    torch.manual_seed(0)
    student = Student(StudentConfig()).eval()
    feature, density = torch.rand(1, 32, 64, 128), torch.rand(1, 1, 64, 128)
    with torch.no_grad():
        heatmap, regression, _ = student(feature, density, torch.eye(2, 3)[None])
        turned = torch.tensor([[[0.0, -2.0, 0.3], [0.5, 0.0, -0.1]]])
        heatmap_turned, regression_turned, _ = student(feature, density, turned)
    assert torch.equal(heatmap, heatmap_turned)
    assert torch.equal(regression, regression_turned)


def test_the_gradient_of_the_maximum_is_that_of_its_points() -> None:
    """In training a gradient of our own is used; torch differentiates the network in evaluation mode."""
    torch.manual_seed(0)
    encoder = PillarEncoder(RANGE, 0.5, 4)
    points, index = cloud(500, 1), torch.arange(2).repeat_interleave(250)
    encoder.norm.eval()  # the same statistics in both modes
    weight = torch.randn(2, 4, encoder.grid.height, encoder.grid.width)
    gradients = []
    for training in (True, False):
        encoder.training = training
        loss = (encoder(points, index, 2)[0] * weight).sum()
        gradients.append(torch.autograd.grad(loss, [*encoder.parameters()]))
    for ours, expected in zip(*gradients, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
