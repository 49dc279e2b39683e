# SPDX-License-Identifier: Apache-2.0
"""Operations that are computed in another way when they are exported: as ONNX Runtime's CPU kernels are fast.

Both ways give the same values, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def maximum_per_cell(encoded: Tensor, index: Tensor, cells: int) -> Tensor:
    """Maximum over the points (p, c) >= 0 of each cell, given cells (p,), as (cells, c); 0 without points."""
    grid = encoded.new_zeros((cells, encoded.shape[1]))
    if torch.compiler.is_exporting():
        # By whole rows: ScatterND takes a twentieth of the time of ScatterElements.
        return grid.index_reduce(0, index, encoded, 'amax')
    return grid.scatter_reduce(0, index[:, None].expand_as(encoded), encoded, 'amax', include_self=True)


def sum_over_agents(maps: Tensor) -> Tensor:
    """Sum of each frame's agents: (frames, n, ...) to (frames, ...)."""
    if torch.compiler.is_exporting():
        # A product takes a fifth of the time of ReduceSum over a leading dimension.
        ones = maps.new_ones((1, maps.shape[1]))
        return (ones @ maps.flatten(2)).view(maps.shape[0], *maps.shape[2:])
    return maps.sum(dim=1)


def convolve_parts(convolution: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """A convolution, of one group, of maps that are joined along their channels."""
    if not torch.compiler.is_exporting():
        return convolution(torch.cat(list(parts), dim=1))
    # A sum of convolutions is fused, and needs no joined map.
    settings: Any = convolution.stride, convolution.padding, convolution.dilation
    begin, bias, total = 0, convolution.bias, None
    for part in parts:
        # Slices, unlike the results of split, are constants of the graph.
        weight = convolution.weight[:, begin : begin + part.shape[1]]
        begin += part.shape[1]
        product = functional.conv2d(part, weight, bias, *settings)
        total, bias = product if total is None else total + product, None
    assert total is not None
    return total


def convolve_to_parts(weight: Tensor, bias: Tensor, maps: Tensor, count: int) -> Sequence[Tensor]:
    """A 1x1 convolution whose result is divided into equal parts along its channels."""
    if not torch.compiler.is_exporting():
        return functional.conv2d(maps, weight, bias).chunk(count, dim=1)
    size = len(weight) // count
    rows = [slice(size * place, size * (place + 1)) for place in range(count)]
    return [functional.conv2d(maps, weight[part], bias[part]) for part in rows]


def convolve_transposed(convolution: nn.ConvTranspose2d, maps: Tensor) -> Tensor:
    """A transposed convolution; one of 1x1 is a plain convolution, for which there are more kernels."""
    if torch.compiler.is_exporting() and convolution.kernel_size == (1, 1):
        return functional.conv2d(maps, convolution.weight.transpose(0, 1), convolution.bias)
    return convolution(maps)
