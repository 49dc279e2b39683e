# SPDX-License-Identifier: Apache-2.0
"""Finds losses and weights that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffkd_ros.errors import DiffkdError


class LossWatch:
    """Remembers the first loss that was not finite.

    It does so on the device of the losses; only `check` waits for the device.

    Args:
        stage: its name, for the message.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._terms: list[str] = []
        self._first: Tensor | None = None

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Take the losses of a step, counted from 0; each step must have the same terms."""
        self._terms = list(losses)
        bad = ~torch.stack([loss.detach().float() for loss in losses.values()]).isfinite()
        # Step and term as one number, -1 for none.
        here = torch.where(bad.any(), step * len(bad) + bad.int().argmax(), -1)
        self._first = here if self._first is None else torch.where(self._first < 0, here, self._first)

    def check(self) -> None:
        """Check the losses taken so far.

        Raises:
            DiffkdError: if one was not finite; the message names stage, step and term.
        """
        first = -1 if self._first is None else int(self._first)
        if first >= 0:
            step, term = divmod(first, len(self._terms))
            raise DiffkdError(
                f'stage {self._stage}, step {step + 1}: the loss {self._terms[term]} is not finite; '
                'a lower learning_rate may help. The last checkpoint is kept'
            )


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check tensors that are about to be written to a checkpoint.

    Raises:
        DiffkdError: if one is not finite.
    """
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise DiffkdError(
            f'{path} is not written: {len(bad)} of {len(tensors)} tensors are not finite, such as {bad[0]}; '
            'a lower learning_rate may help'
        )
