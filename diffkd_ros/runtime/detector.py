# SPDX-License-Identifier: Apache-2.0
"""The ego's part of the model: restore every agent's feature, warp, fuse and detect."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import grid_warps
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.card import EGO, ModelCard
from diffkd_ros.runtime.decoding import decode_boxes, observed_cells
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.plausibility.judge import Doubt
from diffkd_ros.runtime.session import ModelPart, Shape

OUTPUTS = ['heatmap', 'regression', 'share', 'coverage', 'reliability', 'energy']


@dataclass(frozen=True, slots=True)
class Detection:
    """Result of one fusion. Maps are in the ego's grid and of the agents fused; agent 0 is the ego.

    Attributes:
        boxes: in the ego's LiDAR frame, by descending score.
        gate_weights: (n,) float32 mean share of each agent over the cells it covers.
        reliability: mean reliability of the ego over the cells it observed or a neighbour's map covers.
        gate_map: (n, height, width) share of each agent in each fused cell; sums to 1 over agents.
        reliability_map: (height, width) in (0, 1).
        energy_map: (n, height, width) mean absolute value of each agent's restored feature.
        latency_ms: milliseconds of `fuse` (restore, warp, fuse, head) and `decode` (peaks, NMS).
        doubts: why each neighbour's sweep was left out, None if it was fused; empty if nothing examined them.
        seen_by: number of agents that see each box by themselves; empty likewise.
    """

    boxes: Boxes3D
    gate_weights: NDArray[np.float32]
    reliability: float
    gate_map: NDArray[np.float32]
    reliability_map: NDArray[np.float32]
    energy_map: NDArray[np.float32]
    latency_ms: dict[str, float]
    doubts: tuple[Doubt | None, ...] = ()
    seen_by: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))


class CooperativeDetector(ModelPart):
    """Runs `ego.onnx` of a model folder. A single agent takes the same path as several."""

    graph = EGO

    @staticmethod
    def shapes(card: ModelCard) -> Mapping[str, Shape]:
        """Shapes of the graph's inputs and outputs for this card; the agents vary."""
        size = card.grid.height, card.grid.width
        each, single = (None, 1, *size), (1, 1, *size)
        outputs = (single, (1, 8, *size), each, each, single, each)
        inputs = {'features': (None, card.channels, *size), 'density': each, 'ego_to_agent': (None, 2, 3)}
        return {**inputs, **dict(zip(OUTPUTS, outputs, strict=True))}

    def detect(self, features: Sequence[BevFeature], poses: Sequence[Matrix]) -> Detection:
        """Fuse the features of 1 to `max_agents` agents and detect.

        Args:
            features: the ego's first, each in its agent's LiDAR frame.
            poses: (4, 4) map <- LiDAR of the same agents, at the instant of the ego's sweep.

        Raises:
            ValueError: if there are no or too many features, or not one pose for each.
        """
        card, count = self._card, len(features)
        if count != len(poses) or not 1 <= count <= card.max_agents:
            raise ValueError(
                f'{count} features and {len(poses)} poses: one each for 1 to {card.max_agents} agents needed'
            )
        started = time.perf_counter()
        grid = card.grid
        warps = grid_warps(poses, grid)
        density = np.stack([feature.density for feature in features])[:, None]
        heatmap, regression, share, coverage, reliability, energy = self._session.run(
            OUTPUTS,
            {
                'features': np.stack([feature.feature for feature in features]),
                'density': density,
                'ego_to_agent': warps,
            },
        )
        fused = time.perf_counter()
        boxes = decode_boxes(
            heatmap[0, 0],
            regression[0],
            observed_cells(density[:, 0], warps, grid),
            grid,
            card.decoding,
        )
        decoded = time.perf_counter()
        weights = (share * coverage).sum(axis=(1, 2, 3)) / np.maximum(coverage.sum(axis=(1, 2, 3)), 1)
        # Not coverage[0], which is the whole grid.
        observed = (density[0, 0] > 0) | (coverage[1:, 0] > 0).any(axis=0)
        return Detection(
            boxes=boxes,
            gate_weights=weights.astype(np.float32),
            reliability=float(reliability[0, 0][observed].mean()) if observed.any() else 0.0,
            gate_map=share[:, 0],
            reliability_map=reliability[0, 0],
            energy_map=energy[:, 0],
            latency_ms={'fuse': (fused - started) * 1e3, 'decode': (decoded - fused) * 1e3},
        )
