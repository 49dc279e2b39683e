# SPDX-License-Identifier: Apache-2.0
"""Cooperative frames as batches of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.boxes import count_points, ground_truth_in
from diffkd_ros.geometry.poses import inverse, transform_points
from diffkd_ros.geometry.warp import grid_warps
from diffkd_ros.runtime.grid import BevGrid
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.training.recipe import Data
from diffkd_ros.training.targets import DetectionTarget, detection_target

MAX_SCENARIOS = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame, seen by `ego` together with `neighbours`.

    Attributes:
        clouds: per agent (p, 4), each in its own LiDAR frame; the ego's first.
        union: (p, 4) all agents' points in the ego's LiDAR frame, the teacher's holistic view.
        warps: (n, 2, 3) ego's normalised grid coordinates to each agent's.
        target: what to detect.
    """

    clouds: list[NDArray[np.float32]]
    union: NDArray[np.float32]
    warps: NDArray[np.float32]
    target: DetectionTarget


def make_sample(
    frame: CoopFrame, ego: int, neighbours: Sequence[int], grid: BevGrid, min_points: int
) -> Sample:
    """Cut one training sample out of a frame with ground truth."""
    agents = [ego, *neighbours]
    sweeps = [frame.agents[agent] for agent in agents]
    poses = [sweep.pose for sweep in sweeps]
    from_map = inverse(poses[0])
    union = np.concatenate([transform_points(from_map @ sweep.pose, sweep.points) for sweep in sweeps])
    truth = ground_truth_in(frame, ego)
    # Counted anew: only agents that take part lend their returns.
    seen = count_points(union, truth.boxes)
    return Sample(
        clouds=[sweep.points for sweep in sweeps],
        union=union,
        warps=grid_warps(poses, grid.x_min, grid.y_min, grid.x_max, grid.y_max),
        target=detection_target(truth.boxes, seen, min_points, grid),
    )


@dataclass(frozen=True, slots=True)
class Clouds:
    """Several clouds end to end.

    Attributes:
        points: (p, 4).
        index: (p,) int64 cloud of each point.
        count: number of clouds.
    """

    points: Tensor
    index: Tensor
    count: int

    @classmethod
    def join(cls, clouds: Sequence[NDArray[np.float32]]) -> Clouds:
        """Concatenate (p, 4) arrays."""
        sizes = torch.tensor([len(cloud) for cloud in clouds])
        points = torch.from_numpy(np.concatenate(clouds))
        return cls(points, torch.repeat_interleave(torch.arange(len(clouds)), sizes), len(clouds))


@dataclass(frozen=True, slots=True)
class Batch:
    """Several samples.

    Attributes:
        agents: every agent's cloud, frame by frame, each frame's ego first.
        unions: one union cloud per frame.
        sizes: number of agents of each frame.
        warps: (sum of sizes, 2, 3).
        heatmap, regression, centre, counted, foreground: (frames, ...) as in `DetectionTarget`, float32.
    """

    agents: Clouds
    unions: Clouds
    sizes: list[int]
    warps: Tensor
    heatmap: Tensor
    regression: Tensor
    centre: Tensor
    counted: Tensor
    foreground: Tensor


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch."""

    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(sample.target, name) for sample in samples])).float()

    return Batch(
        agents=Clouds.join([cloud for sample in samples for cloud in sample.clouds]),
        unions=Clouds.join([sample.union for sample in samples]),
        sizes=[len(sample.clouds) for sample in samples],
        warps=torch.from_numpy(np.concatenate([sample.warps for sample in samples])),
        heatmap=stack('heatmap'),
        regression=stack('regression'),
        centre=stack('centre'),
        counted=stack('counted'),
        foreground=stack('foreground'),
    )


class SimulatedSamples(Dataset[Sample]):
    """Endless variety: every index is another scenario, frame, ego and choice of neighbours.

    Args:
        data: the recipe's data section.
        grid: of the feature map.
        length: number of samples.
        offset: index of the first, so that stages do not repeat each other's scenarios.
    """

    def __init__(self, data: Data, grid: BevGrid, length: int, offset: int) -> None:
        self._data, self._grid, self._length, self._offset = data, grid, length, offset
        self._simulator = Simulator(data.simulator, data.train_seed)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """The sample of this index; the same index gives the same bytes."""
        index += self._offset
        draw = np.random.default_rng((self._data.train_seed, index))
        scenario = self._simulator.scenario(index % MAX_SCENARIOS)
        frame = scenario.frame(int(draw.integers(len(scenario))))
        agents = list(draw.permutation(sorted(frame.agents)))
        ego, neighbours = agents[0], agents[1:]
        if draw.random() < self._data.drop_neighbours:
            neighbours = neighbours[: int(draw.integers(len(neighbours)))]
        return make_sample(frame, ego, neighbours, self._grid, self._data.min_points)


def training_batches(data: Data, grid: BevGrid, steps: int, offset: int) -> Iterable[Batch]:
    """`steps` batches of simulated samples, made in worker processes, in a fixed order."""
    samples = SimulatedSamples(data, grid, steps * data.batch, offset)
    return DataLoader(
        samples,
        batch_size=data.batch,
        collate_fn=collate,
        num_workers=data.workers,
        prefetch_factor=4 if data.workers else None,
    )


def validation_frames(config: SimulatorConfig, seed: int, scenarios: int, frames: int) -> list[CoopFrame]:
    """Held-out frames: `frames` evenly spaced ones of each of the first `scenarios` scenarios."""
    simulator = Simulator(config, seed)
    chosen = []
    for index in range(scenarios):
        scenario = simulator.scenario(index)
        chosen += [
            scenario.frame(int(i)) for i in np.linspace(0, len(scenario) - 1, frames).round().astype(int)
        ]
    return chosen
