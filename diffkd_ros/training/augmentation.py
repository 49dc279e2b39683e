# SPDX-License-Identifier: Apache-2.0
"""Corruption of a student's training data: clouds, and maps on the link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions import CorruptionError, corrupt_frame
from diffkd_ros.corruptions.payload import lose_tiles
from diffkd_ros.frame import CoopFrame
from diffkd_ros.training.recipe import Augmentation

TILE_SHARES = (0.1, 0.3)


Drawn = tuple[str, int, int]
"""Type, severity and seed of a corruption."""


def draw_corruptions(
    agents: Iterable[int], augmentation: Augmentation, rng: np.random.Generator
) -> dict[int, Drawn]:
    """Draw which agents' clouds are corrupted, and how.

    With probability `augmentation.shared` one draw applies to all agents, else each cloud is corrupted with
    `augmentation.probability` by a draw of its own.
    """
    shared = _draw(augmentation, rng) if rng.random() < augmentation.shared else None
    drawn = {}
    for agent in agents:
        if shared is not None:
            drawn[agent] = shared
        elif rng.random() < augmentation.probability:
            drawn[agent] = _draw(augmentation, rng)
    return drawn


def corrupt_clouds(frame: CoopFrame, drawn: Mapping[int, Drawn], sweep: int = 0) -> CoopFrame:
    """Corrupt a frame's clouds; poses and ground truth stay unchanged.

    A corruption that does not apply to a cloud (wet ground without ground) leaves it unchanged.

    Args:
        frame: to corrupt.
        drawn: by agent, from `draw_corruptions`.
        sweep: number of the sweep: what a corruption leaves to chance differs between the sweeps of a sensor.
    """
    agents = dict(frame.agents)
    for agent, (name, severity, seed) in drawn.items():
        if agent not in agents:
            continue
        alone = replace(frame, agents={agent: agents[agent]}, ego=agent)
        try:
            agents[agent] = corrupt_frame(alone, name, severity, seed + sweep, 'all').agents[agent]
        except CorruptionError:
            continue
    return replace(frame, agents=agents)


def _draw(augmentation: Augmentation, rng: np.random.Generator) -> Drawn:
    name, severity = str(rng.choice(augmentation.corruptions)), int(rng.choice(augmentation.severities))
    return name, severity, int(rng.integers(1 << 31))


def arriving_cells(
    agents: int, height: int, width: int, augmentation: Augmentation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Mask (agents, 1, height, width) of the cells that reach the ego, 1 or 0; all 1 for the ego, agent 0."""
    cells = np.ones((agents, 1, height, width), np.float32)
    for agent in range(1, agents):
        if rng.random() < augmentation.tile_loss:
            cells[agent], _ = lose_tiles(cells[agent], cells[agent, 0], rng, float(rng.choice(TILE_SHARES)))
    return cells
