# SPDX-License-Identifier: Apache-2.0
"""Optimiser, learning rate schedule and weight average of one stage, and their state in a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from diffkd_ros.training.checkpoint import Progress, Tensors
from diffkd_ros.training.recipe import Recipe, Stage

_Tensors = tuple[Tensor, ...] | list[Tensor]


class Optimisation:
    """AdamW with a one-cycle schedule for a module, and a moving average of the weights of its `network`."""

    def __init__(
        self, recipe: Recipe, stage: Stage, steps: int, module: nn.Module, network: nn.Module
    ) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=stage.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, stage.learning_rate, total_steps=steps, pct_start=0.2
        )
        self._decay, self._updates = recipe.average, 0
        self.average = AveragedModel(network, multi_avg_fn=self._mix)
        self._network = network

    @torch.no_grad()
    def _mix(self, average: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        # The decay is small at first, so that the initial weights do not dominate in a short stage.
        # Updates are counted here: reading `count` waits for the device.
        kept = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(average, current, 1 - kept)

    def advance(self) -> None:
        """Update learning rate and average; called after the optimiser's step."""
        self.schedule.step()
        self.average.update_parameters(self._network)
        self._updates += 1

    def apply_average(self) -> None:
        """Replace the network's weights by their average."""
        self._network.load_state_dict(self.average.module.state_dict())

    def state(self, progress: Progress) -> dict[str, Tensors]:
        """The state's tensors by part, for a checkpoint; its numbers are stored in `progress`."""
        state = self.optimiser.state_dict()
        progress.optimiser = state['param_groups']
        progress.schedule = {k: v for k, v in self.schedule.state_dict().items() if k != 'anneal_func'}
        moments = {
            f'{index}.{name}': tensor
            for index, values in state['state'].items()
            for name, tensor in values.items()
        }
        return {'optimiser': moments, 'average': dict(self.average.state_dict())}

    def load(self, parts: dict[str, Tensors], progress: Progress) -> None:
        """Restore the state from a checkpoint."""
        moments: dict[int, dict[str, Any]] = {}
        for key, tensor in parts['optimiser'].items():
            index, _, name = key.partition('.')
            moments.setdefault(int(index), {})[name] = tensor
        self.optimiser.load_state_dict({'state': moments, 'param_groups': progress.optimiser})
        for parameter, state in self.optimiser.state.items():
            for name, tensor in state.items():
                # The fused optimiser goes through memory in the parameter's layout.
                if tensor.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter).copy_(tensor)
        self.schedule.load_state_dict(progress.schedule)
        self.average.load_state_dict(parts['average'])
        self._updates = int(self.average.n_averaged)
