# SPDX-License-Identifier: Apache-2.0
"""Cooperative frames as batches of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.boxes import count_points, ground_truth_in
from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.poses import Matrix, inverse, pose_from_euler, transform_points
from diffkd_ros.training.augmentation import arriving_cells, corrupt_clouds
from diffkd_ros.training.frames import Mixture
from diffkd_ros.training.recipe import Data
from diffkd_ros.training.targets import DetectionTarget, detection_target


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame of an ego and its neighbours. Points are (p, 4): x, y, z in metres, intensity.

    Attributes:
        clouds: each agent's points in its own LiDAR frame, possibly corrupted; the ego's first.
        clean: the same without corruption.
        union: all agents' clean points, the teacher's holistic view, in the ego's LiDAR frame or, with
            `view`, in a rotated and shifted one.
        view: (2, 3) affine map from the ego's normalised grid coordinates to those of the union; None if
            they are the same.
        warps: (n, 2, 3) affine maps from the ego's normalised grid coordinates to each agent's.
        arriving: (n, 1, height, width) 0 where a cell of an agent's map is lost on the link, else 1.
        target: training target in the ego's grid.
    """

    clouds: list[NDArray[np.float32]]
    clean: list[NDArray[np.float32]]
    union: NDArray[np.float32]
    view: NDArray[np.float32] | None
    warps: NDArray[np.float32]
    arriving: NDArray[np.float32]
    target: DetectionTarget


def make_sample(
    frame: CoopFrame,
    sensed: CoopFrame,
    agents: Sequence[int],
    grid: BevGrid,
    min_points: int,
    arriving: NDArray[np.float32] | None = None,
    view: Matrix | None = None,
) -> Sample:
    """Make a training sample from a frame with ground truth.

    Args:
        frame: the clean frame.
        sensed: the frame after corruption; only its clouds are used.
        agents: ids, the ego's first.
        grid: of the feature map.
        min_points: vehicles with fewer returns are ignored: neither target nor background.
        arriving: as in `Sample`; None for all cells.
        view: (4, 4) ego's LiDAR frame <- frame of the union; None for the same frame.

    Raises:
        FrameError: if the frame has no ground truth.
    """
    ego = agents[0]
    sweeps = [frame.agents[agent] for agent in agents]
    poses = [sweep.pose for sweep in sweeps]
    from_map = inverse(poses[0])
    union = np.concatenate([transform_points(from_map @ sweep.pose, sweep.points) for sweep in sweeps])
    truth = ground_truth_in(frame, ego)
    # The frame's own counts include agents that are not in the sample.
    seen = count_points(union, truth.boxes)
    if arriving is None:
        arriving = np.ones((len(agents), 1, grid.height, grid.width), np.float32)
    return Sample(
        clouds=[sensed.agents[agent].points for agent in agents],
        clean=[sweep.points for sweep in sweeps],
        union=union if view is None else transform_points(inverse(view), union),
        view=None if view is None else grid_warps([np.eye(4), view], grid)[1],
        warps=grid_warps(poses, grid),
        arriving=arriving,
        target=detection_target(truth.boxes, seen, min_points, grid),
    )


@dataclass(frozen=True)
class Clouds:
    """Several concatenated clouds.

    Attributes:
        points: (p, 4) x, y, z, intensity.
        index: (p,) int64 index of each point's cloud.
        count: number of clouds.
    """

    points: Tensor
    index: Tensor
    count: int

    @classmethod
    def join(cls, clouds: Sequence[NDArray[np.float32]]) -> Clouds:
        """Concatenate clouds (p, 4)."""
        sizes = torch.tensor([len(cloud) for cloud in clouds])
        points = torch.from_numpy(np.concatenate(clouds))
        return cls(points, torch.repeat_interleave(torch.arange(len(clouds)), sizes), len(clouds))

    def to(self, device: torch.device) -> Clouds:
        """Copy to a device."""
        return Clouds(self.points.to(device), self.index.to(device), self.count)


@dataclass(frozen=True)
class Batch:
    """Several samples; fields as in `Sample` where not said otherwise.

    Attributes:
        agents: every agent's cloud, frame by frame, each frame's ego first.
        clean: the same clouds without corruption.
        unions: one clean union cloud per frame.
        views: (frames, 2, 3), or None.
        sizes: number of agents of each frame.
        warps: (sum of sizes, 2, 3).
        arriving: (sum of sizes, 1, height, width).
        heatmap, regression, regressed, counted, foreground: (frames, ...) as in `DetectionTarget`, float32.
    """

    agents: Clouds
    clean: Clouds
    unions: Clouds
    views: Tensor | None
    sizes: list[int]
    warps: Tensor
    arriving: Tensor
    heatmap: Tensor
    regression: Tensor
    regressed: Tensor
    counted: Tensor
    foreground: Tensor

    def to(self, device: torch.device) -> Batch:
        """Copy to a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if f.name != 'sizes'}
        return replace(self, **{name: part.to(device) for name, part in moved.items() if part is not None})


def collate(samples: Sequence[Sample]) -> Batch:
    """Combine samples into a batch; either all or none of them have a view."""
    views = [sample.view for sample in samples if sample.view is not None]
    targets = {
        f.name: torch.from_numpy(np.stack([getattr(sample.target, f.name) for sample in samples])).float()
        for f in fields(DetectionTarget)
    }
    return Batch(
        agents=Clouds.join([cloud for sample in samples for cloud in sample.clouds]),
        clean=Clouds.join([cloud for sample in samples for cloud in sample.clean]),
        unions=Clouds.join([sample.union for sample in samples]),
        views=torch.from_numpy(np.stack(views)) if views else None,
        sizes=[len(sample.clouds) for sample in samples],
        warps=torch.from_numpy(np.concatenate([sample.warps for sample in samples])),
        arriving=torch.from_numpy(np.concatenate([sample.arriving for sample in samples])),
        **targets,
    )


class Samples(Dataset[Sample]):
    """Random training samples: each index draws a frame, an ego, its neighbours and corruptions.

    Args:
        data: the recipe's data section.
        grid: of the feature map.
        stream: number of the stream; different streams give different samples.
        steps: batches of the stream to give.
        rank: of this process, which takes every `processes`-th batch.
        processes: number of processes.
    """

    def __init__(
        self, data: Data, grid: BevGrid, stream: int, steps: range, rank: int = 0, processes: int = 1
    ) -> None:
        self._data, self._grid, self._stream, self._steps = data, grid, stream, steps
        self._rank, self._processes = rank, processes

    @cached_property
    def _frames(self) -> Mixture:
        return Mixture(self._data)

    def __len__(self) -> int:
        return len(self._steps) * self._data.batch

    def __getitem__(self, index: int) -> Sample:
        """The sample of an index; the same index gives the same bytes.

        Raises:
            DatasetError: if a data set cannot be read.
        """
        data = self._data
        step, place = divmod(index, data.batch)
        number = (self._steps[step] * self._processes + self._rank) * data.batch + place
        rng = np.random.default_rng((data.train_seed, self._stream, number))
        drive = None
        if data.frames_per_drive > 1:
            key = (data.train_seed, self._stream, number // data.frames_per_drive, 1)
            drive = np.random.default_rng(key)
        frame = self._frames.draw(rng, drive)
        others = [int(agent) for agent in rng.permutation(sorted(frame.agents))]
        ego = others[0] if data.any_ego else frame.ego
        others.remove(ego)
        if rng.random() < data.drop_neighbours:
            others = others[: int(rng.integers(len(others) + 1))]
        agents = [ego, *others[: data.max_agents - 1]]
        frame = replace(frame, agents={agent: frame.agents[agent] for agent in agents}, ego=ego)
        sensed, arriving = frame, None
        if data.augmentation is not None:
            sensed = corrupt_clouds(frame, data.augmentation, rng)
            arriving = arriving_cells(
                len(agents), self._grid.height, self._grid.width, data.augmentation, rng
            )
        view = _view(rng, data.turned, self._grid.cell) if data.turned else None
        return make_sample(frame, sensed, agents, self._grid, data.min_points, arriving, view)


def _view(rng: np.random.Generator, turned: float, cell: float) -> Matrix:
    """Pose of the union's frame: with probability `turned` of any heading and offset within a cell.

    This is how one vehicle's grid may lie in another's.
    """
    if rng.random() >= turned:
        return np.eye(4)
    x, y = rng.uniform(0, cell, 2)
    return pose_from_euler([x, y, 0.0], 0.0, 0.0, rng.uniform(-np.pi, np.pi))


def training_batches(
    data: Data, grid: BevGrid, stream: int, steps: range, rank: int = 0, processes: int = 1
) -> Iterable[Batch]:
    """Batches of a stream, in a fixed order, made in worker processes; arguments as for `Samples`."""
    return DataLoader(
        Samples(data, grid, stream, steps, rank, processes),
        batch_size=data.batch,
        collate_fn=collate,
        num_workers=data.workers,
        prefetch_factor=4 if data.workers else None,
    )
