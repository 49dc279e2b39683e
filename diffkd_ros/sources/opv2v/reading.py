# SPDX-License-Identifier: Apache-2.0
"""Reads an OPV2V set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.poses import Matrix, inverse
from diffkd_ros.sources.dataset import DatasetError, raised
from diffkd_ros.sources.opv2v.frame_files import (
    ground_truth,
    read_pose,
    read_sweep,
    read_vehicles,
    read_velocity,
    recorded_counts,
    seconds_per_step,
)
from diffkd_ros.sources.opv2v.layout import (
    FRAME_INTERVAL,
    SPLITS,
    ScenarioFiles,
    list_scenario,
    read_yaml,
    subfolders,
    with_unique_names,
)

COMMUNICATION_RANGE = 70.0
PoseSource = Literal['lidar_pose', 'true_ego_pos', 'predicted_ego_pos']


class Opv2vDataset:
    """Cooperative frames of a set, one scenario after the other; a `FrameDataset`.

    The ego is the vehicle whose folder name sorts first (1007 before 962), as in the published loaders;
    road-side units have negative ids. Agents further than `communication_range` from the ego are left out of
    a frame, as in the published protocol, and ground truth is the union of the vehicles listed by the
    remaining agents. An agent's own vehicle is listed by the other agents only, so an ego without neighbours
    has no box of its own. Returns within a car's length of a vehicle's LiDAR are removed, since in this data
    set they lie on the vehicle itself.

    A scenario has the name of its folder, or `split.folder` where several splits have a folder of that name.

    Each file holds three poses of its agent; `pose` selects the one that places the cloud:

    - `lidar_pose`: exact pose of the LiDAR.
    - `true_ego_pos`: exact pose of the vehicle or road-side unit, whose origin is on the ground. It is moved
      to the LiDAR by the mounting, true_ego_pos^-1 lidar_pose, which gives `lidar_pose` again.
    - `predicted_ego_pos`: the same pose with the errors of the vehicle's localisation, moved to the LiDAR by
      the same mounting. Ground truth moves along with the ego's error, so that it stays exact in the ego's
      LiDAR frame; the neighbours are displaced by their error relative to the ego's. Scenarios recorded
      without localisation errors repeat `true_ego_pos`.

    The number of returns on a vehicle is counted in its box, unless `write_opv2v` has recorded it and no
    agent is out of range. Ranges and counts are always computed with the exact poses.

    Args:
        root: root of the set, which holds splits, or a split, which holds scenarios.
        communication_range: metres between the LiDARs, in the map's plane.
        split: read only this one of `SPLITS`; all of them by default.
        pose: recorded pose that places the clouds.

    Raises:
        DatasetError: if the folder is missing, or holds no scenario or no such split, or `pose` is unknown.
    """

    def __init__(
        self,
        root: str | Path,
        communication_range: float = COMMUNICATION_RANGE,
        split: str | None = None,
        pose: PoseSource = 'lidar_pose',
    ) -> None:
        self.root = Path(root)
        self.communication_range = communication_range
        if pose not in get_args(PoseSource):
            raise DatasetError(f'pose must be one of {", ".join(get_args(PoseSource))}, got {pose!r}')
        self.pose = pose
        if not self.root.is_dir():
            raise DatasetError(f'{self.root}: not a folder')
        if split is not None and not (split in SPLITS and (self.root / split).is_dir()):
            raise DatasetError(f'{self.root}: has no split {split!r}; known are {", ".join(SPLITS)}')
        folders: list[Path] = []
        for folder in subfolders(self.root if split is None else self.root / split):
            folders += subfolders(folder) if folder.name in SPLITS and split is None else [folder]
        listed = {folder: list_scenario(folder) for folder in folders}
        self._others = [folder for folder, scenario in listed.items() if scenario is None]
        self._scenarios = with_unique_names([s for s in listed.values() if s is not None])
        self._index = [(scenario, k) for scenario in self._scenarios for k in range(len(scenario.numbers))]
        if not self._index:
            raise DatasetError(f'{self.root}: holds no <scenario>/<agent id>/<6-digit number>.yaml')
        self._steps: dict[Path, float] = {}

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> CoopFrame:
        scenario, position = self._index[index]
        number = scenario.numbers[position]
        paths = {agent: scenario.path(agent, number, 'yaml') for agent in scenario.agents_at(number)}
        documents = {agent: read_yaml(path) for agent, path in paths.items()}
        exact = {agent: read_pose(documents[agent], 'lidar_pose', path) for agent, path in paths.items()}
        ego_xy = exact[scenario.ego][:2, 3]
        near = [a for a in paths if np.hypot(*(exact[a][:2, 3] - ego_xy)) <= self.communication_range]
        agents = {
            agent: read_sweep(
                scenario.path(agent, number, 'pcd'),
                agent,
                exact[agent],
                read_velocity(documents[agent], exact[agent], paths[agent]),
            )
            for agent in near
        }
        near_documents = {paths[agent]: documents[agent] for agent in near}
        truth = ground_truth(near_documents, agents)
        if len(near) == len(documents) and (counts := recorded_counts(truth, near_documents)) is not None:
            truth = replace(truth, num_points=counts)
        if self.pose != 'lidar_pose':
            placed = {a: self._placed(documents[a], exact[a], paths[a]) for a in near}
            moved = placed[scenario.ego] @ inverse(exact[scenario.ego])
            truth = truth.with_boxes(transform_boxes(moved, truth.boxes))
            agents = {agent: replace(sweep, pose=placed[agent]) for agent, sweep in agents.items()}
        stamp = round((number - scenario.numbers[0]) * self._step(scenario) * 1e9)
        return CoopFrame(agents, scenario.ego, stamp, truth, scenario.name, position)

    def scenarios(self) -> list[tuple[str, range]]:
        """Name and frame numbers of each scenario, in order."""
        ends = accumulate(len(scenario.numbers) for scenario in self._scenarios)
        return [
            (scenario.name, range(end - len(scenario.numbers), end))
            for scenario, end in zip(self._scenarios, ends, strict=True)
        ]

    def files(self, rows: range) -> set[Path]:
        """The ego's YAML file of each of these frames."""
        return {
            scenario.path(scenario.ego, scenario.numbers[position], 'yaml').resolve()
            for scenario, position in (self._index[row] for row in rows)
        }

    def problems(self, index: int) -> list[DatasetError]:
        """The error of each file of a frame, including the files of agents out of range."""
        scenario, position = self._index[index]
        number = scenario.numbers[position]
        reads: list[Callable[[], object]] = [partial(self._step, scenario)]
        for agent in scenario.agents_at(number):
            reads.append(partial(self._read_document, scenario.path(agent, number, 'yaml')))
            reads.append(partial(read_sweep, scenario.path(agent, number, 'pcd'), agent, np.eye(4), None))
        return [error for read in reads if (error := raised(read))]

    def _read_document(self, path: Path) -> None:
        """Read everything that a frame uses of a YAML file."""
        document = read_yaml(path)
        self._placed(document, read_pose(document, 'lidar_pose', path), path)
        read_velocity(document, np.eye(4), path)
        read_vehicles(document, path)

    def strays(self) -> Iterator[DatasetError]:
        """Folders that are not scenarios, clouds without a YAML file, and files at no frame of the ego."""
        for folder in self._others:
            yield DatasetError(
                f'{folder}: not a scenario: holds no <agent id>/<6-digit number>.yaml of a vehicle'
            )
        for scenario in self._scenarios:
            own = scenario.frames[scenario.ego]
            for agent, clouds in scenario.clouds.items():
                documents = scenario.frames.get(agent, frozenset())
                for number in sorted(clouds - documents):
                    path = scenario.path(agent, number, 'pcd')
                    yield DatasetError(f'{path}: in no frame: {number:06d}.yaml is missing')
                for number in sorted(documents - own):
                    path = scenario.path(agent, number, 'yaml')
                    yield DatasetError(
                        f'{path}: in no frame: the ego, agent {scenario.ego}, has no {number:06d}.yaml'
                    )

    def _placed(self, document: dict[str, Any], exact: Matrix, path: Path) -> Matrix:
        """(4, 4) map <- LiDAR by the selected recorded pose."""
        if self.pose == 'lidar_pose':
            return exact
        mounting = inverse(read_pose(document, 'true_ego_pos', path)) @ exact
        return read_pose(document, self.pose, path) @ mounting

    def _step(self, scenario: ScenarioFiles) -> float:
        """Seconds between two file numbers of a scenario."""
        if scenario.folder not in self._steps:
            path = scenario.folder / 'data_protocol.yaml'
            step = seconds_per_step(read_yaml(path), path) if path.is_file() else None
            if step is None:
                gaps = np.diff(scenario.numbers)
                step = FRAME_INTERVAL / (int(gaps.min()) if len(gaps) else 1)
            self._steps[scenario.folder] = step
        return self._steps[scenario.folder]
