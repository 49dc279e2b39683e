# SPDX-License-Identifier: Apache-2.0
"""Points to the bird's-eye-view grid by sparse 3D convolutions, an alternative to pillars; torch only."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from diffkd_ros.errors import DiffkdError

VOXEL_HEIGHT = 0.2
"""Metres; along x and y a voxel is half a pillar."""
VOXEL_FEATURES = 6
STAGES = (16, 32, 64)


class SparseConvolutionError(DiffkdError):
    """spconv, which sparse convolutions need, is not installed."""


def load_spconv() -> ModuleType:
    """Import `spconv.pytorch`, patched so that its backward pass runs without CUDA.

    Raises:
        SparseConvolutionError: if spconv is not installed.
    """
    try:
        import spconv.pytorch as spconv
        from spconv.pytorch import ops
    except ModuleNotFoundError as error:
        raise SparseConvolutionError(
            f"encoder sparse: {error.name} is missing: install the package's sparse extra, or, on a GPU, "
            'spconv-cu120 or newer'
        ) from error
    if not torch.cuda.is_available():
        # The backward pass asks for the current CUDA stream whatever the device, which raises in a torch
        # without CUDA. On the CPU the value is not used.
        ops.get_current_stream = lambda: 0
    return spconv


class SparseVoxelEncoder(nn.Module):
    """SECOND's sparse middle layers (Yan et al., Sensors 2018) from points to a dense pillar map.

    The features of a voxel are means over its points: z, intensity, the offsets from the voxel's centre in
    voxels and the distance from the sensor. Submanifold convolutions, with a strided one before each further
    stage, reduce x and y to the pillars' resolution; the remaining height levels become channels. Absolute x
    and y are omitted, as in `PillarEncoder`, whose arguments this encoder shares.

    Raises:
        SparseConvolutionError: if spconv is not installed.
    """

    def __init__(
        self, grid_range: tuple[float, float, float, float, float, float], cell: float, channels: int
    ) -> None:
        super().__init__()
        spconv = load_spconv()
        x_min, y_min, z_min, x_max, y_max, z_max = grid_range
        self._low, self._high = (x_min, y_min, z_min), (x_max, y_max, z_max)
        self._voxel = cell / 2, cell / 2, VOXEL_HEIGHT
        self.width = round((x_max - x_min) / cell)
        self.height = round((y_max - y_min) / cell)
        levels = round((z_max - z_min) / VOXEL_HEIGHT)
        self._shape = levels, 2 * self.height, 2 * self.width

        # One algorithm on all devices: it is the only one with a backward pass on the CPU, and the layout of
        # the weights depends on it.
        algorithm = spconv.ConvAlgo.Native

        def block(convolution: nn.Module, outputs: int) -> list[nn.Module]:
            return [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]

        def submanifold(inputs: int, outputs: int, key: str) -> list[nn.Module]:
            convolution = spconv.SubMConv3d(inputs, outputs, 3, bias=False, indice_key=key, algo=algorithm)
            return block(convolution, outputs)

        def strided(inputs: int, outputs: int, stride: tuple[int, int, int]) -> list[nn.Module]:
            convolution = spconv.SparseConv3d(
                inputs, outputs, 3, stride=stride, padding=1, bias=False, algo=algorithm
            )
            return block(convolution, outputs)

        first, second, third = STAGES
        self.convolutions = spconv.SparseSequential(
            *submanifold(VOXEL_FEATURES, first, 'first'),
            *submanifold(first, first, 'first'),
            *strided(first, second, (2, 2, 2)),
            *submanifold(second, second, 'second'),
            *strided(second, third, (2, 1, 1)),
            *submanifold(third, third, 'third'),
            *strided(third, third, (2, 1, 1)),
        )
        for _ in STAGES:
            levels = (levels - 1) // 2 + 1
        self._folded = levels
        self.flatten = nn.Sequential(
            nn.Conv2d(levels * third, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, points: Tensor, cloud: Tensor, clouds: int) -> tuple[Tensor, Tensor]:
        """As `PillarEncoder.forward`."""
        low, high = points.new_tensor(self._low), points.new_tensor(self._high)
        inside = ((points[:, :3] >= low) & (points[:, :3] < high)).all(dim=1)
        points, cloud = points[inside], cloud[inside]
        place = (points[:, :3] - low) / points.new_tensor(self._voxel)
        # Rounding can move a point just below the upper bound onto it.
        last = place.new_tensor(self._shape[::-1]) - 1
        corner = torch.minimum(place.floor(), last)
        column, row, level = corner.long().unbind(dim=1)

        levels, rows, columns = self._shape
        pillar = (cloud * self.height + row // 2) * self.width + column // 2
        count = points.new_zeros(clouds * self.height * self.width)
        count = count.scatter_add(0, pillar, torch.ones_like(points[:, 0]))

        described = torch.cat(
            (points[:, 2:4], place - corner - 0.5, points[:, :2].norm(dim=1, keepdim=True) / 50.0), dim=1
        )
        key = ((cloud * levels + level) * rows + row) * columns + column
        voxels, voxel, members = torch.unique(key, return_inverse=True, return_counts=True)
        total = described.new_zeros((len(voxels), VOXEL_FEATURES)).index_add(0, voxel, described)
        indices = torch.stack(
            (
                voxels // (levels * rows * columns),
                voxels // (rows * columns) % levels,
                voxels // columns % rows,
                voxels % columns,
            ),
            dim=1,
        )
        # In single precision: spconv has no bfloat16 on the CPU.
        with torch.autocast(points.device.type, enabled=False):
            dense = self._dense(total / members[:, None], indices.int(), clouds)
        shape = (clouds, 1, self.height, self.width)
        return self.flatten(dense.flatten(1, 2)), count.view(shape)

    def _dense(self, features: Tensor, indices: Tensor, clouds: int) -> Tensor:
        """Voxels (v, VOXEL_FEATURES) to a dense map (clouds, c, levels, height, width).

        `indices` are (v, 4) int32: cloud, level, row, column.
        """
        dense = features.new_zeros((clouds, self._folded, self.height, self.width, STAGES[-1]))
        if len(features):
            tensor = load_spconv().SparseConvTensor(features, indices, list(self._shape), clouds)
            sparse = self.convolutions(tensor)
            # Not its own `dense`, which uses a way of indexing that torch has deprecated.
            dense = dense.index_put(tuple(sparse.indices.long().unbind(dim=1)), sparse.features)
        return dense.movedim(-1, 1)
