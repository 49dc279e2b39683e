# SPDX-License-Identifier: Apache-2.0
"""Cooperative frames as batches of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.boxes import count_points, ground_truth_in
from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.poses import Matrix, inverse, pose_from_euler, transform_points
from diffkd_ros.runtime.link.memory import MOST_SWEEPS
from diffkd_ros.training.augmentation import arriving_cells, corrupt_clouds, draw_corruptions
from diffkd_ros.training.frames import Mixture
from diffkd_ros.training.recipe import Data
from diffkd_ros.training.targets import DetectionTarget, detection_target

Movable = TypeVar('Movable', bound='_Movable')


SWEEPS_BEFORE = (1, MOST_SWEEPS + 1)
"""Range, its end excluded, of the sweeps by which an earlier one precedes a sample's."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier sweep of each agent of a sample.

    Attributes:
        clouds: as in `Sample`; empty for an agent that has none.
        warps: (n, 2, 3) affine maps from an agent's normalised grid coordinates to those of then.
        age: (n, 1) seconds since then.
    """

    clouds: list[NDArray[np.float32]]
    warps: NDArray[np.float32]
    age: NDArray[np.float32]

    @classmethod
    def of(cls, now: CoopFrame, then: CoopFrame | None, agents: Sequence[int], grid: BevGrid) -> Earlier:
        """The sweeps of some agents in an earlier frame, which may be missing, as seen from a frame."""
        sweeps = [None if then is None else then.agents.get(agent) for agent in agents]
        nothing = np.zeros((0, 4), np.float32)
        poses = [now.agents[agent].pose for agent in agents]
        before = [pose if sweep is None else sweep.pose for pose, sweep in zip(poses, sweeps, strict=True)]
        age = 0.0 if then is None else (now.stamp - then.stamp) * 1e-9
        return cls(
            clouds=[nothing if sweep is None else sweep.points for sweep in sweeps],
            warps=np.stack([grid_warps(pair, grid)[1] for pair in zip(poses, before, strict=True)]),
            age=np.full((len(agents), 1), age, np.float32),
        )


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
        earlier: an earlier sweep of each agent, or None.
    """

    clouds: list[NDArray[np.float32]]
    clean: list[NDArray[np.float32]]
    union: NDArray[np.float32]
    view: NDArray[np.float32] | None
    warps: NDArray[np.float32]
    arriving: NDArray[np.float32]
    target: DetectionTarget
    earlier: Earlier | None = None


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
class _Movable:
    """Tensors, and parts that hold tensors, which are copied together."""

    def _each(self: Movable, copy: Callable[[Any], Any]) -> Movable:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: copy(v) for k, v in parts.items() if isinstance(v, Tensor | _Movable)}
        return replace(self, **moved)

    def to(self: Movable, device: torch.device, non_blocking: bool = True) -> Movable:
        """Copy to a device; the arguments are those of `Tensor.to`."""
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self: Movable) -> Movable:
        """Copy to pinned memory; called by torch's DataLoader."""
        return self._each(lambda part: part.pin_memory())


@dataclass(frozen=True)
class Clouds(_Movable):
    """Several concatenated clouds.

    Attributes:
        points: (p, 4) x, y, z, intensity.
        sizes: (count,) int64 number of points of each cloud.
    """

    points: Tensor
    sizes: Tensor

    @classmethod
    def join(cls, clouds: Sequence[NDArray[np.float32]]) -> Clouds:
        """Concatenate clouds (p, 4)."""
        return cls(torch.from_numpy(np.concatenate(clouds)), torch.tensor([len(cloud) for cloud in clouds]))

    @property
    def count(self) -> int:
        """Number of clouds."""
        return len(self.sizes)

    @cached_property
    def index(self) -> Tensor:
        """(p,) int64 index of each point's cloud."""
        clouds = torch.arange(self.count, device=self.sizes.device)
        # Without the size of the output, torch would wait for the device to know it.
        return torch.repeat_interleave(clouds, self.sizes, output_size=len(self.points))


@dataclass(frozen=True)
class EarlierSweeps(_Movable):
    """The earlier sweeps of all agents of a batch; fields as in `Earlier`."""

    agents: Clouds
    warps: Tensor
    age: Tensor


@dataclass(frozen=True)
class Batch(_Movable):
    """Several samples; fields as in `Sample` where not said otherwise.

    Attributes:
        agents: every agent's cloud, frame by frame, each frame's ego first.
        clean: the same clouds without corruption; None if they were not asked for.
        unions: one clean union cloud per frame.
        views: (frames, 2, 3), or None.
        sizes: number of agents of each frame.
        frame: (sum of sizes,) int64 index of each agent's frame.
        slots: (frames * most,) int64 index of the agent in each slot, where every frame has as many slots as
            the largest has agents.
        absent: (frames * most, 1, 1) bool, True for a slot without an agent.
        warps: (sum of sizes, 2, 3).
        arriving: (sum of sizes, 1, height, width).
        heatmap, regression, regressed, counted, foreground: (frames, ...) as in `DetectionTarget`, float32.
        earlier: an earlier sweep of each agent; None if the samples have none.
    """

    agents: Clouds
    clean: Clouds | None
    unions: Clouds
    views: Tensor | None
    sizes: list[int]
    frame: Tensor
    slots: Tensor
    absent: Tensor
    warps: Tensor
    arriving: Tensor
    heatmap: Tensor
    regression: Tensor
    regressed: Tensor
    counted: Tensor
    foreground: Tensor
    earlier: EarlierSweeps | None = None

    @cached_property
    def neighbours(self) -> Tensor:
        """(k,) int64 indices of the agents that are not an ego."""
        first = np.cumsum([0, *self.sizes[:-1]])
        others = np.setdiff1d(np.arange(sum(self.sizes)), first)
        return torch.from_numpy(others).to(self.frame.device)


def collate(samples: Sequence[Sample], grid: BevGrid | None = None, clean: bool = True) -> Batch:
    """Combine samples into a batch; either all or none of them have a view, and earlier sweeps.

    Args:
        samples: to combine.
        grid: points outside it are left out, since no network uses them; None keeps all points.
        clean: whether to include the agents' clean clouds.
    """
    views = [sample.view for sample in samples if sample.view is not None]
    targets = {
        f.name: torch.from_numpy(np.stack([getattr(sample.target, f.name) for sample in samples])).float()
        for f in fields(DetectionTarget)
    }

    def join(clouds: Iterable[NDArray[np.float32]]) -> Clouds:
        return Clouds.join([cloud if grid is None else cloud[grid.contains(cloud)] for cloud in clouds])

    before = [sample.earlier for sample in samples if sample.earlier is not None]
    sizes = torch.tensor([len(sample.clouds) for sample in samples])
    slots = torch.arange(int(sizes.max())).expand(len(samples), -1)
    absent = slots >= sizes[:, None]
    first = (sizes.cumsum(0) - sizes)[:, None]
    return Batch(
        agents=join(cloud for sample in samples for cloud in sample.clouds),
        clean=join(cloud for sample in samples for cloud in sample.clean) if clean else None,
        unions=join(sample.union for sample in samples),
        views=torch.from_numpy(np.stack(views)) if views else None,
        sizes=sizes.tolist(),
        frame=torch.repeat_interleave(torch.arange(len(samples)), sizes),
        slots=(first + slots.masked_fill(absent, 0)).flatten(),
        absent=absent.flatten()[:, None, None],
        warps=torch.from_numpy(np.concatenate([sample.warps for sample in samples])),
        arriving=torch.from_numpy(np.concatenate([sample.arriving for sample in samples])),
        **targets,
        earlier=EarlierSweeps(
            join(cloud for each in before for cloud in each.clouds),
            torch.from_numpy(np.concatenate([each.warps for each in before])),
            torch.from_numpy(np.concatenate([each.age for each in before])),
        )
        if before
        else None,
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
        before = int(rng.integers(*SWEEPS_BEFORE)) if data.earlier else 0
        frame, then = self._frames.draw(rng, drive, before)
        others = [int(agent) for agent in rng.permutation(sorted(frame.agents))]
        ego = others[0] if data.any_ego else frame.ego
        others.remove(ego)
        if rng.random() < data.drop_neighbours:
            others = others[: int(rng.integers(len(others) + 1))]
        agents = [ego, *others[: data.max_agents - 1]]
        frame = replace(frame, agents={agent: frame.agents[agent] for agent in agents}, ego=ego)
        sensed, arriving = frame, None
        if data.augmentation is not None:
            drawn = draw_corruptions(frame.agents, data.augmentation, rng)
            sensed = corrupt_clouds(frame, drawn)
            then = None if then is None else corrupt_clouds(then, drawn, before)
            arriving = arriving_cells(
                len(agents), self._grid.height, self._grid.width, data.augmentation, rng
            )
        view = _view(rng, data.turned, self._grid.cell) if data.turned else None
        sample = make_sample(frame, sensed, agents, self._grid, data.min_points, arriving, view)
        if data.earlier:
            sample = replace(sample, earlier=Earlier.of(frame, then, agents, self._grid))
        return sample


def _view(rng: np.random.Generator, turned: float, cell: float) -> Matrix:
    """Pose of the union's frame: with probability `turned` of any heading and offset within a cell.

    This is how one vehicle's grid may lie in another's.
    """
    if rng.random() >= turned:
        return np.eye(4)
    x, y = rng.uniform(0, cell, 2)
    return pose_from_euler([x, y, 0.0], 0.0, 0.0, rng.uniform(-np.pi, np.pi))


def training_batches(
    data: Data,
    grid: BevGrid,
    stream: int,
    steps: range,
    rank: int = 0,
    processes: int = 1,
    clean: bool = True,
    pinned: bool = False,
) -> Iterable[Batch]:
    """Batches of a stream, in a fixed order, made in worker processes.

    Args:
        data: as for `Samples`, as are `grid` to `processes`.
        grid: points outside it are left out.
        stream: number of the stream.
        steps: batches of the stream to give.
        rank: of this process.
        processes: number of processes.
        clean: whether batches include the agents' clean clouds.
        pinned: whether to copy batches to pinned memory, from which a GPU reads faster.
    """
    return DataLoader(
        Samples(data, grid, stream, steps, rank, processes),
        batch_size=data.batch,
        collate_fn=partial(collate, grid=grid, clean=clean),
        num_workers=data.workers,
        prefetch_factor=4 if data.workers else None,
        pin_memory=pinned,
    )
