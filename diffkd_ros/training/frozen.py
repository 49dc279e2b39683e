# SPDX-License-Identifier: Apache-2.0
"""Networks that a stage uses and does not train."""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diffkd_ros.training.data import Clouds

_NetworkT = TypeVar('_NetworkT', bound=nn.Module)


def frozen(network: _NetworkT) -> _NetworkT:
    """A copy in evaluation mode, without gradients, whose batch norms are merged into the convolutions."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for block in network.modules():
        if isinstance(block, nn.Sequential):
            for place, (first, second) in enumerate(pairwise(list(block))):
                if isinstance(first, nn.Conv2d | nn.ConvTranspose2d) and isinstance(second, nn.BatchNorm2d):
                    transposed = isinstance(first, nn.ConvTranspose2d)
                    block[place] = fuse_conv_bn_eval(first, second, transposed)
                    block[place + 1] = nn.Identity()
    channels_last(network)
    return network


def channels_last(network: nn.Module) -> None:
    """Give the 2D convolutions the layout in which they are fastest."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Frozen:
    """A frozen copy of a network, which remembers its output for the clouds of the last two calls."""

    def __init__(self, network: nn.Module) -> None:
        self._network = frozen(network)
        # The sweeps of a batch and the earlier ones.
        self._known: deque[tuple[Clouds, Any]] = deque(maxlen=2)

    @torch.no_grad()
    def __call__(self, clouds: Clouds) -> Any:
        """The network's output for these clouds."""
        for known, output in self._known:
            if known is clouds:
                return output
        self._known.append((clouds, self._network(clouds.points, clouds.index, clouds.count)))
        return self._known[-1][1]


class FrozenNetworks:
    """One `Frozen` for all networks of the same weights: several trainings compute it once per batch."""

    def __init__(self) -> None:
        self._known: dict[bytes, Frozen] = {}

    def __call__(self, network: nn.Module) -> Frozen:
        """The frozen copy of a network."""
        digest = hashlib.sha256(type(network).__name__.encode())
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        key = digest.digest()
        if key not in self._known:
            self._known[key] = Frozen(network)
        return self._known[key]
