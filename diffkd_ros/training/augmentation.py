# SPDX-License-Identifier: Apache-2.0
"""Corruption of what a student in training sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions import CorruptionError, corrupt_frame
from diffkd_ros.corruptions.payload import lose_tiles
from diffkd_ros.frame import CoopFrame
from diffkd_ros.training.recipe import Augmentation

TILE_SHARES = (0.1, 0.3)


def corrupt_clouds(frame: CoopFrame, augmentation: Augmentation, rng: np.random.Generator) -> CoopFrame:
    """Clouds corrupted: all of the frame alike, or each or not, in its own way; poses and ground truth stay.

    A corruption that cannot work on a cloud (wet ground without ground) leaves it as it is.
    """
    together = _draw(augmentation, rng) if rng.random() < augmentation.shared else None
    agents = dict(frame.agents)
    for agent, sweep in frame.agents.items():
        if together is None and rng.random() >= augmentation.probability:
            continue
        name, severity, seed = together or _draw(augmentation, rng)
        alone = replace(frame, agents={agent: sweep}, ego=agent)
        try:
            agents[agent] = corrupt_frame(alone, name, severity, seed, 'all').agents[agent]
        except CorruptionError:
            continue
    return replace(frame, agents=agents)


def _draw(augmentation: Augmentation, rng: np.random.Generator) -> tuple[str, int, int]:
    """Type, severity and seed of a corruption."""
    name, severity = str(rng.choice(augmentation.corruptions)), int(rng.choice(augmentation.severities))
    return name, severity, int(rng.integers(1 << 31))


def arriving_cells(
    agents: int, height: int, width: int, augmentation: Augmentation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Which cells of each agent's map arrive: (agents, 1, height, width) of 0 and 1; the ego's all do."""
    cells = np.ones((agents, 1, height, width), np.float32)
    for agent in range(1, agents):
        if rng.random() < augmentation.tile_loss:
            cells[agent], _ = lose_tiles(cells[agent], cells[agent, 0], rng, float(rng.choice(TILE_SHARES)))
    return cells
