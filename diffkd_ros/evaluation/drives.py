# SPDX-License-Identifier: Apache-2.0
"""Frames to evaluate on: drives of any source, of each the same few frames for every condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from diffkd_ros.evaluation.errors import ExperimentError
from diffkd_ros.frame import CoopFrame
from diffkd_ros.sources.dataset import FrameDataset
from diffkd_ros.sources.simulator import Scenario, Simulator, SimulatorConfig
from diffkd_ros.sources.source import SourceError, bag_paths

SIMULATOR_SEED = 3
"""Another than the shipped model was trained (1) or validated (2) on."""


class Drive(Protocol):
    """One scenario; its frames can be had in any order."""

    @property
    def name(self) -> str:
        """As in `CoopFrame.scenario`."""

    def __len__(self) -> int: ...

    def frame(self, index: int) -> CoopFrame:
        """The frame at this position.

        Raises:
            DiffkdError: if its files are broken.
        """


@dataclass(frozen=True, slots=True)
class RecordedDrive:
    """A part of a recorded set.

    Attributes:
        name: of the scenario.
        recording: the set.
        rows: its frames in the set.
    """

    name: str
    recording: FrameDataset
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def frame(self, index: int) -> CoopFrame:
        """The frame at this position."""
        return self.recording[self.rows[index]]


def _opv2v(place: str, split: str | None, split_file: Path | None) -> FrameDataset:
    from diffkd_ros.sources.opv2v import Opv2vDataset

    if split_file is not None:
        raise ExperimentError('the splits of opv2v are folders, so it takes no split file')
    return Opv2vDataset(Path(place).expanduser(), split=split)


def _dair(place: str, split: str | None, split_file: Path | None) -> FrameDataset:
    from diffkd_ros.sources.dair_v2x import DairV2xDataset

    return DairV2xDataset(Path(place).expanduser(), split_file, split)


def _bag(place: str, split: str | None, split_file: Path | None) -> FrameDataset:
    from diffkd_ros.sources.rosbag import RosbagDataset

    if split or split_file:
        raise ExperimentError('a bag has no splits')
    return RosbagDataset(bag_paths(place))


# Each recorded source joins by one line here and one in `_PROTOCOLS`.
_RECORDINGS: dict[str, Callable[[str, str | None, Path | None], FrameDataset]] = {
    'opv2v': _opv2v,
    'dair': _dair,
    'bag': _bag,
}
_PROTOCOLS = {'sim': 'sim', 'opv2v': 'opencood', 'dair': 'heal_dair', 'bag': 'sim'}


@dataclass(frozen=True, slots=True)
class Source:
    """Where frames come from, in a few words that every process can open for itself.

    Attributes:
        spec: `sim`, `sim:SEED`, `opv2v:DIR`, `dair:DIR`, or `bag:FILE[,FILE...]`, several bags being read as
            one.
        scenarios: how many drives, the first ones; None for all of a recorded set.
        frames: how many frames of each drive, evenly spaced; None for all of a recorded drive.
        split: of a recorded set, None for all of it.
        split_file: that lists the splits of a set, for DAIR-V2X.

    Raises:
        ExperimentError: if there is no such source.
    """

    spec: str
    scenarios: int | None
    frames: int | None
    split: str | None = None
    split_file: Path | None = None

    def __post_init__(self) -> None:
        known = ('sim', *_RECORDINGS)
        if self.kind not in known:
            raise ExperimentError(
                f'no source {self.spec!r}; there are {", ".join(known)}, with :DIR where recorded'
            )
        if self.kind == 'bag':
            try:
                bag_paths(self._rest)
            except SourceError as error:
                raise ExperimentError(str(error)) from error
        elif self.kind != 'sim' and not Path(self._rest).expanduser().is_dir():
            raise ExperimentError(f'source {self.spec!r} needs a folder that exists')
        if self.kind == 'sim' and not (self._rest.isdecimal() or self.spec == 'sim'):
            raise ExperimentError(f'source sim takes a seed as in sim:3, got {self.spec!r}')
        if self.kind == 'sim' and (self.split or self.split_file):
            raise ExperimentError('the simulator has no splits')
        if self.kind == 'sim' and (self.scenarios is None or self.frames is None):
            raise ExperimentError('the simulator is endless: say how many scenarios, and frames of each')

    @property
    def kind(self) -> str:
        """Which reader it needs."""
        return self.spec.partition(':')[0]

    @property
    def protocol(self) -> str:
        """Name of the protocol with which figures on this source are published."""
        return _PROTOCOLS[self.kind]

    @property
    def _rest(self) -> str:
        return self.spec.partition(':')[2]

    def names(self) -> list[str]:
        """Names of the drives evaluated on; a drive's place here is its number.

        Raises:
            DiffkdError: if the source cannot be opened.
        """
        if self.kind == 'sim':
            return [f'simulated_{self._seed}_{number}' for number in range(self.scenarios or 0)]
        return [drive.name for drive in self._drives()[: self.scenarios]]

    def drive(self, number: int) -> Drive:
        """Open a drive."""
        if self.kind == 'sim':
            return _simulated(self._seed, number)
        return self._drives()[number]

    def shares_drives(self, other: Source) -> bool:
        """Whether the two have frames of the same drives in common, whatever they are called by.

        Raises:
            DiffkdError: if a recorded source cannot be opened.
        """
        if self.kind != other.kind:
            return False
        if self.kind == 'sim':
            return not set(self.names()).isdisjoint(other.names())
        return not self._files().isdisjoint(other._files())

    def _files(self) -> set[Path]:
        drives = self._drives()[: self.scenarios]
        return {file for drive in drives for file in drive.recording.files(drive.rows)}

    def _drives(self) -> list[RecordedDrive]:
        return _recorded(self.kind, self._rest, self.split, self.split_file)

    @property
    def _seed(self) -> int:
        return int(self._rest) if self._rest else SIMULATOR_SEED

    def positions(self, drive: Drive, history: int) -> list[int]:
        """Which frames of a drive are scored.

        Args:
            drive: the drive.
            history: frames before the first scored one, if enough are left then.
        """
        length = len(drive)
        if self.frames is None or self.frames > length - history:
            return list(range(length))[: self.frames]
        return [int(i) for i in np.linspace(history, length - 1, self.frames).round()]


@cache
def _simulated(seed: int, number: int) -> Scenario:
    return Simulator(SimulatorConfig(), seed).scenario(number)


@cache
def _recorded(kind: str, place: str, split: str | None, split_file: Path | None) -> list[RecordedDrive]:
    recording = _RECORDINGS[kind](place, split, split_file)
    return [RecordedDrive(name, recording, rows) for name, rows in recording.drives()]


def needed_frames(positions: Sequence[int], history: int) -> Iterator[tuple[int, bool]]:
    """Positions to run through in order, and whether each is scored, given `history` frames before each."""
    scored = set(positions)
    needed = sorted({p - back for p in scored for back in range(history + 1) if p - back >= 0})
    for position in needed:
        yield position, position in scored


def history_frames(max_age: float, rate: float = 10.0) -> int:
    """How many frames back a message may be and still be fused."""
    return math.ceil(max_age * rate)
