# SPDX-License-Identifier: Apache-2.0
"""Reads a whole data set, counts what it holds and lists every broken file: `diffkd data check`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from diffkd_ros.frame import FrameError
from diffkd_ros.sources.dataset import DatasetError, FrameDataset, account
from diffkd_ros.sources.formats import FORMATS
from diffkd_ros.sources.source import Source
from diffkd_ros.workers import worker_pool


@dataclass(slots=True)
class Report:
    """Contents of a data set.

    Attributes:
        format: name of the format.
        scenarios: number of scenarios.
        frames: number of frames.
        broken_frames: frames that cannot be used; the counts below are of the others.
        agents: vehicles and road-side units, each counted once per scenario.
        sweeps: LiDAR revolutions.
        points: returns in them.
        boxes: labelled vehicles, each counted once per frame.
        problems: a line for each problem, with file and reason, without repetitions, and for everything that
            was left out of frames.
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
    left_out: Mapping[str, int] = field(default_factory=dict)


def check(
    source: Source,
    on_problem: Callable[[str], object] = lambda line: None,
    on_frame: Callable[[int, int], object] = lambda done, total: None,
    workers: int = 0,
) -> Report:
    """Read everything in a data set, including agents out of communication range.

    Args:
        source: a recorded source.
        on_problem: called with the line of each problem as it is found.
        on_frame: called after each frame with the number of frames done and the number of all.
        workers: processes that read; 0 reads in this one.

    Raises:
        DatasetError: if the data set cannot be opened; everything else is a problem in the report.
        DiffkdError: if a worker process is killed.
    """
    known = FORMATS.get(source.kind)
    if known and 'communication_range' in known.options:
        source = replace(source, communication_range=math.inf)
    dataset = source.open_dataset()
    report = Report(known.title if known else '', len(dataset.scenarios()), len(dataset))
    agents: set[tuple[str, int]] = set()
    seen: set[str] = set()

    def note(problem: str) -> None:
        if problem not in seen:
            seen.add(problem)
            report.problems.append(problem)
            on_problem(problem)

    left_out: Counter[str] = Counter()
    for stray in dataset.strays():
        note(str(stray))
    for done, examined in enumerate(_examined(dataset, workers), 1):
        for problem in examined.problems:
            note(problem)
        left_out.update(examined.left_out)
        if examined.problems:
            report.broken_frames += 1
        else:
            agents.update((examined.scenario, agent) for agent in examined.agents)
            report.sweeps += len(examined.agents)
            report.points += examined.points
            report.boxes += examined.boxes
        on_frame(done, len(dataset))
    for line in account(left_out):
        note(line)
    report.agents = len(agents)
    return report


def _examine(dataset: FrameDataset, index: int) -> _Examined:
    try:
        frame = dataset[index]
    except (DatasetError, FrameError) as error:
        # Reading stops at the first broken file; there may be more.
        return _Examined(problems=tuple(map(str, dataset.problems(index))) or (f'frame {index}: {error}',))
    return _Examined(
        frame.scenario,
        tuple(frame.agents),
        sum(len(sweep.points) for sweep in frame.agents.values()),
        0 if frame.ground_truth is None else len(frame.ground_truth),
        left_out=frame.left_out,
    )


def _examined(dataset: FrameDataset, workers: int) -> Iterator[_Examined]:
    """Examine all frames in order."""
    if workers == 0:
        yield from (_examine(dataset, index) for index in range(len(dataset)))
        return
    with worker_pool(workers, _keep, (dataset,)) as pool:
        yield from pool.map(_examine_kept, range(len(dataset)))


# A worker process's own copy of the data set.
_kept: FrameDataset | None = None


def _keep(dataset: FrameDataset) -> None:
    global _kept
    _kept = dataset


def _examine_kept(index: int) -> _Examined:
    assert _kept is not None
    return _examine(_kept, index)
