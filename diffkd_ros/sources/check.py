# SPDX-License-Identifier: Apache-2.0
"""Walks a whole data set, counts what it holds and names every broken file: `diffkd data check`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from diffkd_ros.frame import FrameError
from diffkd_ros.sources.dair_v2x import DairV2xDataset
from diffkd_ros.sources.dataset import DatasetError, FrameDataset, map_dataset
from diffkd_ros.sources.opv2v import Opv2vDataset


class UnknownFormatError(DatasetError):
    """A folder in the layout of no known data set."""


@dataclass(slots=True)
class Report:
    """What a data set holds.

    Attributes:
        format: name of the data set.
        scenarios: all drives or segments.
        frames: all of them.
        broken_frames: those that cannot be used; the counts below are of the others.
        agents: vehicles and road-side units, each counted once a scenario.
        sweeps: LiDAR revolutions.
        points: returns in them.
        boxes: labelled vehicles, each counted once a frame.
        problems: a line for everything that is wrong, file and reason; the same one only once.
    """

    format: str
    scenarios: int
    frames: int
    broken_frames: int = 0
    agents: int = 0
    sweeps: int = 0
    points: int = 0
    boxes: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Examined:
    scenario: str = ''
    agents: tuple[int, ...] = ()
    points: int = 0
    boxes: int = 0
    problems: tuple[str, ...] = ()


def open_dataset(root: str | Path) -> tuple[str, FrameDataset]:
    """Guess a folder's format by its subfolders and open it.

    Agents of OPV2V are taken at any distance, so that every file is read.

    Returns:
        The format's name, and the data set.

    Raises:
        DatasetError: `UnknownFormatError` if it is none, or what the format's own reader says.
    """
    root = Path(root)
    if not root.is_dir():
        raise UnknownFormatError(f'{root}: not a folder')
    if any((root / name).is_dir() for name in ('cooperative', 'cooperative-vehicle-infrastructure')):
        return 'DAIR-V2X-C', DairV2xDataset(root)
    try:
        return 'OPV2V', Opv2vDataset(root, communication_range=math.inf)
    except DatasetError as error:
        raise UnknownFormatError(
            f'{root}: neither OPV2V (it {error.args[0].partition(": ")[2]}) nor DAIR-V2X-C (it has no folder '
            f'cooperative)'
        ) from error


def check(
    root: str | Path,
    on_problem: Callable[[str], object] = lambda line: None,
    on_frame: Callable[[int, int], object] = lambda done, total: None,
    workers: int = 0,
) -> Report:
    """Read everything in a data set.

    Args:
        root: of a data set whose format is guessed.
        on_problem: called with the line of each problem as it is found.
        on_frame: called after each frame with how many are done, and how many there are.
        workers: processes that read; 0 reads in this one.

    Raises:
        DatasetError: if the folder is no data set at all; everything else is a problem in the report.
    """
    name, dataset = open_dataset(root)
    report = Report(name, len(dataset.drives()), len(dataset))
    agents: dict[str, set[int]] = {}
    seen: set[str] = set()

    def note(problem: str) -> None:
        if problem not in seen:
            seen.add(problem)
            report.problems.append(problem)
            on_problem(problem)

    for stray in dataset.strays():
        note(str(stray))
    for done, examined in enumerate(map_dataset(dataset, _examine, workers), 1):
        for problem in examined.problems:
            note(problem)
        if examined.problems:
            report.broken_frames += 1
        else:
            agents.setdefault(examined.scenario, set()).update(examined.agents)
            report.sweeps += len(examined.agents)
            report.points += examined.points
            report.boxes += examined.boxes
        on_frame(done, len(dataset))
    report.agents = sum(map(len, agents.values()))
    return report


def _examine(dataset: FrameDataset, index: int) -> _Examined:
    try:
        frame = dataset[index]
    except (DatasetError, FrameError) as error:
        # The first file that stops the frame need not be the only one.
        return _Examined(problems=tuple(map(str, dataset.problems(index))) or (f'frame {index}: {error}',))
    return _Examined(
        frame.scenario,
        tuple(frame.agents),
        sum(len(sweep.points) for sweep in frame.agents.values()),
        0 if frame.ground_truth is None else len(frame.ground_truth),
    )
