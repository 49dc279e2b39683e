# SPDX-License-Identifier: Apache-2.0
"""Reads an OPV2V set, and the parts that sets in its layout share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.poses import Matrix, inverse
from diffkd_ros.sources.dataset import DatasetError, raised, returns_within
from diffkd_ros.sources.opv2v.frame_files import (
    Objects,
    read_objects,
    read_pose,
    read_sweep,
    read_velocity,
    seconds_per_step,
    truth_of,
    union,
)
from diffkd_ros.sources.opv2v.layout import (
    FRAME_FILES,
    FRAME_INTERVAL,
    NO_FRAMES,
    SPLITS,
    ScenarioFiles,
    list_scenario,
    read_document,
    subfolders,
    with_unique_names,
)

COMMUNICATION_RANGE = 70.0
PoseSource = Literal['lidar_pose', 'true_ego_pos', 'predicted_ego_pos']
_LOG = logging.getLogger(__name__)


class FolderDataset:
    """Cooperative frames of a set in the layout of OPV2V, one scenario after the other; a `FrameDataset`.

    The ego is the vehicle whose folder name sorts first (1007 before 962), as in the published loaders;
    road-side units have negative ids. Agents further than `communication_range` from the ego are left out of
    a frame, as in the published protocol, and ground truth is the union of the vehicles listed by the
    remaining agents, the ego's first. Returns within a car's length of a vehicle's LiDAR are removed, since
    they lie on the vehicle itself.

    A scenario has the name of its folder, or `split.folder` where several splits have a folder of that name.

    A subclass defines how a pose, a cloud and a list of objects are read, and how the union becomes ground
    truth.

    Args:
        root: root of the set, which holds splits, or a split, which holds scenarios.
        communication_range: metres between the LiDARs, in the map's plane; that of the published loader by
            default.
        split: read only this one of `SPLITS`; all of them by default.

    Raises:
        DatasetError: if the folder is missing, or holds no scenario or no such split.
    """

    published_range: ClassVar[float]

    def __init__(
        self, root: str | Path, communication_range: float | None = None, split: str | None = None
    ) -> None:
        self.root = Path(root)
        self.communication_range = (
            self.published_range if communication_range is None else communication_range
        )
        if not self.root.is_dir():
            raise DatasetError(f'{self.root}: not a folder')
        if split is not None and not (split in SPLITS and (self.root / split).is_dir()):
            raise DatasetError(f'{self.root}: has no split {split!r}; known are {", ".join(SPLITS)}')
        folders: list[Path] = []
        for folder in subfolders(self.root if split is None else self.root / split):
            folders += subfolders(folder) if folder.name in SPLITS and split is None else [folder]
        listed = {folder: list_scenario(folder) for folder in folders}
        self._others = {folder: reason for folder, reason in listed.items() if isinstance(reason, str)}
        self._scenarios = with_unique_names([s for s in listed.values() if isinstance(s, ScenarioFiles)])
        self._index = [(scenario, k) for scenario in self._scenarios for k in range(len(scenario.numbers))]
        if not self._index:
            known = (f'{folder}: {reason}' for folder, reason in self._others.items() if reason != NO_FRAMES)
            raise DatasetError(next(known, f'{self.root}: holds no <scenario>/{FRAME_FILES}'))
        self._steps: dict[Path, float] = {}

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> CoopFrame:
        scenario, position = self._index[index]
        number = scenario.numbers[position]
        paths = {agent: scenario.document(agent, number) for agent in scenario.agents_at(number)}
        documents = {agent: read_document(path) for agent, path in paths.items()}
        exact = {agent: self._pose(documents[agent], path) for agent, path in paths.items()}
        ego_xy = exact[scenario.ego][:2, 3]
        near = [a for a in paths if np.hypot(*(exact[a][:2, 3] - ego_xy)) <= self.communication_range]
        agents = {
            agent: self._sweep(
                scenario.cloud(agent, number), agent, exact[agent], documents[agent], paths[agent]
            )
            for agent in near
        }
        listed = [
            self._objects(documents[agent], agent, exact[agent], paths[agent])
            for agent in sorted(near, key=lambda agent: agent != scenario.ego)
        ]
        truth = self._truth(listed, agents, len(near) == len(paths), max(scenario.documents))
        left_out: Counter[str] = sum((objects.left_out for objects in listed), Counter())
        stamp = round((number - scenario.numbers[0]) * self._step(scenario) * 1e9)
        frame = CoopFrame(agents, scenario.ego, stamp, truth, scenario.name, position, dict(left_out))
        return self._placed(frame, documents, paths)

    def _pose(self, document: dict[str, Any], path: Path) -> Matrix:
        """(4, 4) map <- LiDAR."""
        raise NotImplementedError

    def _sweep(
        self, cloud: Path, agent: int, pose: Matrix, document: dict[str, Any], path: Path
    ) -> AgentSweep:
        """An agent's sweep; `path` is the document's."""
        raise NotImplementedError

    def _objects(self, document: dict[str, Any], agent: int, pose: Matrix, path: Path) -> Objects:
        """The vehicles that an agent's document lists, in the map."""
        raise NotImplementedError

    def _truth(
        self, listed: list[Objects], agents: dict[int, AgentSweep], complete: bool, last: int
    ) -> Boxes3D:
        """Ground truth in the map.

        Args:
            listed: by the agents in range, the ego's first.
            agents: their sweeps.
            complete: whether no agent of the frame is out of range.
            last: largest agent id of the scenario.
        """
        raise NotImplementedError

    def _placed(
        self, frame: CoopFrame, documents: dict[int, dict[str, Any]], paths: dict[int, Path]
    ) -> CoopFrame:
        """The frame with the poses that the user has selected."""
        return frame

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
            scenario.document(scenario.ego, scenario.numbers[position]).resolve()
            for scenario, position in (self._index[row] for row in rows)
        }

    def problems(self, index: int) -> list[DatasetError]:
        """The error of each file of a frame, including the files of agents out of range."""
        scenario, position = self._index[index]
        number = scenario.numbers[position]
        reads: list[Callable[[], object]] = []
        for agent in scenario.agents_at(number):
            cloud = scenario.cloud(agent, number)
            reads.append(partial(self._read_document, scenario.document(agent, number), agent))
            reads.append(partial(self._sweep, cloud, agent, np.eye(4), {}, cloud))
        return [error for read in reads if (error := raised(read))]

    def _read_document(self, path: Path, agent: int) -> None:
        """Read everything that a frame uses of a YAML file."""
        document = read_document(path)
        self._objects(document, agent, self._pose(document, path), path)

    def strays(self) -> Iterator[DatasetError]:
        """Folders that are not scenarios, unreadable `data_protocol.yaml`, and files of no frame."""
        for folder, reason in self._others.items():
            yield DatasetError(f'{folder}: not a scenario: {reason}')
        for scenario in self._scenarios:
            if error := raised(partial(_recorded_step, scenario)):
                yield error
            for path, reason in scenario.unused():
                yield DatasetError(f'{path}: in no frame: {reason}')

    def _step(self, scenario: ScenarioFiles) -> float:
        """Seconds between two file numbers of a scenario."""
        if scenario.folder not in self._steps:
            try:
                step = _recorded_step(scenario)
            except DatasetError as error:
                _LOG.warning('%s; its frames are taken to be %g s apart', error, FRAME_INTERVAL)
                step = None
            if step is None:
                gaps = np.diff(scenario.numbers)
                step = FRAME_INTERVAL / (int(gaps.min()) if len(gaps) else 1)
            self._steps[scenario.folder] = step
        return self._steps[scenario.folder]


def _recorded_step(scenario: ScenarioFiles) -> float | None:
    path = scenario.folder / 'data_protocol.yaml'
    return seconds_per_step(read_document(path), path) if path.is_file() else None


class Opv2vDataset(FolderDataset):
    """OPV2V, and V2XSet, which has the same files.

    An agent's own vehicle is listed by the other agents only, so an ego without neighbours has no box of its
    own. Each file holds three poses of its agent; `pose` selects the one that places the cloud:

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
        root: as for `FolderDataset`.
        communication_range: as for `FolderDataset`.
        split: as for `FolderDataset`.
        pose: recorded pose that places the clouds.

    Raises:
        DatasetError: as for `FolderDataset`, or if `pose` is unknown.
    """

    published_range = COMMUNICATION_RANGE

    def __init__(
        self,
        root: str | Path,
        communication_range: float | None = None,
        split: str | None = None,
        pose: PoseSource = 'lidar_pose',
    ) -> None:
        if pose not in get_args(PoseSource):
            raise DatasetError(f'pose must be one of {", ".join(get_args(PoseSource))}, got {pose!r}')
        self.pose = pose
        super().__init__(root, communication_range, split)

    def _pose(self, document: dict[str, Any], path: Path) -> Matrix:
        return read_pose(document, 'lidar_pose', path)

    def _sweep(
        self, cloud: Path, agent: int, pose: Matrix, document: dict[str, Any], path: Path
    ) -> AgentSweep:
        return read_sweep(cloud, agent, pose, read_velocity(document, pose, path))

    def _objects(self, document: dict[str, Any], agent: int, pose: Matrix, path: Path) -> Objects:
        return read_objects(document, path)

    def _truth(
        self, listed: list[Objects], agents: dict[int, AgentSweep], complete: bool, last: int
    ) -> Boxes3D:
        truth = truth_of(union(objects.boxes for objects in listed))
        counts = list(union(objects.returns for objects in listed).values())
        if complete and None not in counts:
            return replace(truth, num_points=np.array(counts, np.int64))
        assert truth.track_ids is not None
        return replace(truth, num_points=returns_within(truth.boxes, truth.track_ids, agents))

    def _placed(
        self, frame: CoopFrame, documents: dict[int, dict[str, Any]], paths: dict[int, Path]
    ) -> CoopFrame:
        if self.pose == 'lidar_pose':
            return frame
        placed = {
            agent: self._selected(documents[agent], sweep.pose, paths[agent])
            for agent, sweep in frame.agents.items()
        }
        moved = placed[frame.ego] @ inverse(frame.agents[frame.ego].pose)
        truth = frame.ground_truth
        assert truth is not None
        return replace(
            frame,
            agents={agent: replace(sweep, pose=placed[agent]) for agent, sweep in frame.agents.items()},
            ground_truth=truth.with_boxes(transform_boxes(moved, truth.boxes)),
        )

    def _selected(self, document: dict[str, Any], exact: Matrix, path: Path) -> Matrix:
        """(4, 4) map <- LiDAR by the selected recorded pose."""
        mounting = inverse(read_pose(document, 'true_ego_pos', path)) @ exact
        return read_pose(document, self.pose, path) @ mounting

    def _read_document(self, path: Path, agent: int) -> None:
        document = read_document(path)
        exact = self._pose(document, path)
        if self.pose != 'lidar_pose':
            self._selected(document, exact, path)
        read_velocity(document, exact, path)
        self._objects(document, agent, exact, path)
