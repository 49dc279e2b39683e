# SPDX-License-Identifier: Apache-2.0
"""Cooperative frames to train and validate on: simulated, recorded, or a mixture."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from diffkd_ros.frame import CoopFrame, FrameError
from diffkd_ros.sources.dataset import DatasetError, FrameDataset, log_broken_frame
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.training.recipe import Data, FrameSource, RecipeError

_SCENARIOS = 1_000_000  # of the simulator, any of which may be drawn
_ATTEMPTS = 50  # broken frames in a row before a data set is given up


def expand(path: str) -> Path:
    """A path with ~ and environment variables put in.

    Raises:
        RecipeError: if a variable is not set.
    """
    expanded = os.path.expandvars(path)
    if missing := re.search(r'\$\{?(\w+)', expanded):
        raise RecipeError(f'{path}: the environment variable {missing[1]} is not set')
    return Path(expanded).expanduser()


class Frames(Protocol):
    """Frames that can be drawn at random."""

    def draw(self, rng: np.random.Generator, drive: np.random.Generator) -> CoopFrame:
        """Any one of them; see `Mixture.draw`."""


class _Simulated:
    def __init__(self, config: SimulatorConfig, seed: int) -> None:
        self._simulator = Simulator(config, seed)
        # Drawing a drive takes longer than simulating a frame of it.
        self._scenario = lru_cache(maxsize=1)(self._simulator.scenario)

    def draw(self, rng: np.random.Generator, drive: np.random.Generator) -> CoopFrame:
        scenario = self._scenario(int(drive.integers(_SCENARIOS)))
        return scenario.frame(int(rng.integers(len(scenario))))


class _Recorded:
    def __init__(self, recording: FrameDataset) -> None:
        self._recording = recording

    def draw(self, rng: np.random.Generator, drive: np.random.Generator) -> CoopFrame:
        for _ in range(_ATTEMPTS):
            frame = _readable(self._recording, int(rng.integers(len(self._recording))))
            if frame is not None:
                return frame
        raise DatasetError(f'{self._recording.root}: {_ATTEMPTS} broken frames in a row')


def _readable(recording: FrameDataset, index: int) -> CoopFrame | None:
    """A frame, or None and a line in the log if it is broken."""
    try:
        return recording[index]
    except (DatasetError, FrameError) as error:
        log_broken_frame(index, error)
        return None


class Mixture:
    """Frames of several sources, each drawn as often as its share says.

    Args:
        data: the recipe's data section.

    Raises:
        RecipeError: if an environment variable is not set.
        DatasetError: if a data set cannot be opened.
    """

    def __init__(self, data: Data) -> None:
        self._sources: list[Frames] = [
            _Simulated(data.simulator, data.train_seed)
            if source.kind == 'sim'
            else _Recorded(open_recording(source))
            for source in data.sources
        ]
        shares = np.array([source.share for source in data.sources])
        self._shares = shares / shares.sum()

    def draw(self, rng: np.random.Generator, drive: np.random.Generator | None = None) -> CoopFrame:
        """Any frame of any source.

        Args:
            rng: chooses source and frame.
            drive: chooses a simulated frame's drive, so that several frames can be of the same; `rng` by
                default.
        """
        source = self._sources[int(rng.choice(len(self._sources), p=self._shares))]
        return source.draw(rng, rng if drive is None else drive)


def open_recording(source: FrameSource) -> FrameDataset:
    """The data set of a source that is none of the simulator.

    Raises:
        RecipeError: if an environment variable is not set.
        DatasetError: if it cannot be opened.
    """
    folder = expand(source.folder)
    if source.kind == 'opv2v':
        from diffkd_ros.sources.opv2v import Opv2vDataset

        return Opv2vDataset(folder, split=source.split)
    from diffkd_ros.sources.dair_v2x import DairV2xDataset

    split_file = None if source.split_file is None else expand(source.split_file)
    return DairV2xDataset(folder, split_file, source.split)


def held_out_frames(data: Data) -> list[CoopFrame]:
    """`validation_frames` evenly spaced frames of each of the first `validation_scenarios` scenarios.

    Broken frames of a data set are left out, with a line in the log.
    """

    def spread(length: int) -> list[int]:
        return [int(i) for i in np.linspace(0, length - 1, min(data.validation_frames, length)).round()]

    if data.validation.kind == 'sim':
        simulator = Simulator(data.simulator, data.validation_seed)
        scenarios = [simulator.scenario(number) for number in range(data.validation_scenarios)]
        return [scenario.frame(i) for scenario in scenarios for i in spread(len(scenario))]
    recording = open_recording(data.validation)
    chosen = [
        _readable(recording, rows[i])
        for _, rows in recording.drives()[: data.validation_scenarios]
        for i in spread(len(rows))
    ]
    frames = [frame for frame in chosen if frame is not None]
    if not frames:
        raise DatasetError(f'{recording.root}: no readable frame to validate on')
    return frames
