# SPDX-License-Identifier: Apache-2.0
"""Operations that are exported in another form, against what they compute in training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffkd_ros.model.exported import (
    convolve_parts,
    convolve_to_parts,
    convolve_transposed,
    maximum_per_cell,
    sum_over_agents,
)


class Operation(nn.Module):
    """A function of tensors as a module, with the layers that it uses."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self._function = nn.ModuleList(layers), function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._function(*self.layers, *inputs)


MAPS = torch.linspace(-1, 1, 2 * 7 * 8 * 12).view(2, 7, 8, 12).sin()
CASES = {
    'maximum': (
        Operation(lambda encoded, index: maximum_per_cell(encoded, index, 9)),
        (torch.arange(60.0).view(20, 3).cos().abs(), torch.arange(20) ** 2 % 8),
    ),
    'sum of three agents': (Operation(sum_over_agents), (MAPS.view(1, 3, -1, 8, 4),)),
    'sum of one agent': (Operation(sum_over_agents), (MAPS.view(1, 1, -1, 8, 4),)),
    'parts, strided': (
        Operation(lambda layer, a, b: convolve_parts(layer, (a, b)), nn.Conv2d(9, 5, 3, stride=2, padding=1)),
        (MAPS, MAPS[:, :2]),
    ),
    'parts without bias': (
        Operation(lambda layer, a: convolve_parts(layer, (a, a, a)), nn.Conv2d(21, 5, 1, bias=False)),
        (MAPS,),
    ),
    'to parts': (
        Operation(
            lambda layer, a: torch.stack(list(convolve_to_parts(layer.weight, layer.bias, a, 3))),
            nn.Conv2d(7, 12, 1),
        ),
        (MAPS,),
    ),
    'transposed 1x1': (
        Operation(convolve_transposed, nn.ConvTranspose2d(7, 4, 1, bias=False)),
        (MAPS,),
    ),
    'transposed 2x2': (Operation(convolve_transposed, nn.ConvTranspose2d(7, 4, 2, stride=2)), (MAPS,)),
}


@pytest.mark.filterwarnings('ignore:index_reduce')
@pytest.mark.parametrize('case', CASES)
def test_both_forms_give_the_same(case: str) -> None:
    operation, inputs = CASES[case]
    with torch.no_grad():
        expected = operation(*inputs)
        found = torch.export.export(operation, inputs).module()(*inputs)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
