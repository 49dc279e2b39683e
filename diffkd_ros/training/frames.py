# SPDX-License-Identifier: Apache-2.0
"""Frames to train and validate on, of any source or a mixture of sources."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from diffkd_ros.documents import user_path
from diffkd_ros.frame import CoopFrame
from diffkd_ros.runtime.link.memory import may_recall
from diffkd_ros.sources.dataset import DatasetError, readable
from diffkd_ros.sources.source import SIMULATOR, Source
from diffkd_ros.training.recipe import Data, FrameSource, RecipeError

_SCENARIOS = 1_000_000  # of the simulator, from which one is drawn
Drawn = tuple[CoopFrame, CoopFrame | None]
_ATTEMPTS = 50  # consecutive broken frames after which a data set is given up


def expand(path: str) -> Path:
    """A path with ~ and environment variables expanded.

    Raises:
        RecipeError: if a variable is not set.
    """
    expanded = os.path.expandvars(path)
    if missing := re.search(r'\$\{?(\w+)', expanded):
        raise RecipeError(f'{path}: the environment variable {missing[1]} is not set')
    return user_path(expanded)


def _source(
    section: FrameSource, data: Data, seed: int, scenarios: int | None = None, frames: int | None = None
) -> Source:
    """The source that a recipe's section describes; `seed` is the simulator's."""
    return Source(
        section.kind if section.kind == SIMULATOR else f'{section.kind}:{expand(section.folder)}',
        scenarios,
        frames,
        section.split,
        None if section.split_file is None else expand(section.split_file),
        default_seed=seed,
        simulator=(section.simulator or data.simulator).model_dump(),
    )


class _Simulated:
    def __init__(self, source: Source) -> None:
        # Drawing a scenario takes longer than simulating a frame of it.
        self._scenario = lru_cache(maxsize=1)(source.open_simulator().scenario)

    def draw(self, rng: np.random.Generator, drive: np.random.Generator, before: int) -> Drawn:
        scenario = self._scenario(int(drive.integers(_SCENARIOS)))
        number = int(rng.integers(len(scenario)))
        earlier = scenario.frame(number - before) if 0 < before <= number else None
        return scenario.frame(number), earlier


class _Recorded:
    def __init__(self, source: Source) -> None:
        self._dataset = source.open_dataset()

    def draw(self, rng: np.random.Generator, drive: np.random.Generator, before: int) -> Drawn:
        for _ in range(_ATTEMPTS):
            number = int(rng.integers(len(self._dataset)))
            frame = readable(self._dataset.__getitem__, number)
            if frame is not None:
                if not 0 < before <= number:
                    return frame, None
                earlier = readable(self._dataset.__getitem__, number - before)
                same = earlier is not None and earlier.scenario == frame.scenario
                return frame, earlier if same else None
        raise DatasetError(f'{self._dataset.root}: {_ATTEMPTS} consecutive broken frames')


class Mixture:
    """Frames of several sources, drawn with the frequencies given by their shares.

    Raises:
        RecipeError: if an environment variable is not set.
        DatasetError: if a data set cannot be opened.
    """

    def __init__(self, data: Data) -> None:
        sources = [_source(section, data, data.train_seed) for section in data.sources]
        self._sources = [
            _Simulated(source) if source.kind == SIMULATOR else _Recorded(source) for source in sources
        ]
        shares = np.array([section.share for section in data.sources])
        self._shares = shares / shares.sum()

    def draw(
        self, rng: np.random.Generator, drive: np.random.Generator | None = None, before: int = 0
    ) -> Drawn:
        """A random frame of a random source.

        Args:
            rng: chooses.
            drive: chooses the scenario of a simulated frame, so that several frames can be drawn from the
                same one; `rng` by default.
            before: number of frames by which the second frame precedes the first; 0 for none.

        Returns:
            The frame, and an earlier one of the same scenario; None if there is none, or if it is so old
            that an ego would not remember it.
        """
        source = self._sources[int(rng.choice(len(self._sources), p=self._shares))]
        frame, earlier = source.draw(rng, rng if drive is None else drive, before)
        recalled = earlier is not None and may_recall(frame.stamp, earlier.stamp)
        return frame, earlier if recalled else None


def held_out_frames(data: Data) -> list[CoopFrame]:
    """`validation_frames` evenly spaced frames of each of the first `validation_scenarios` scenarios.

    Broken frames of a data set are left out, with a line in the log.

    Raises:
        RecipeError: if an environment variable is not set.
        DatasetError: if the data set cannot be opened, or none of these frames can be read.
    """
    source = _source(
        data.validation, data, data.validation_seed, data.validation_scenarios, data.validation_frames
    )
    frames = [
        frame
        for scenario in source.open_scenarios()
        for position in source.positions(scenario)
        if (frame := readable(scenario.frame, position)) is not None
    ]
    if not frames:
        raise DatasetError(f'{source.spec}: no readable frame to validate on')
    return frames
