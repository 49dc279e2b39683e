# SPDX-License-Identifier: Apache-2.0
"""Names of sources of frames.

``sim[:SEED][,world=WORLD][,sensor=SENSOR][,intensity=LAW]``, ``opv2v:DIR``, ``dair:DIR``,
``bag:FILE[,FILE...]``, ... `formats` has all of them but the simulator.
"""

from __future__ import annotations

import itertools
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from diffkd_ros.documents import user_path
from diffkd_ros.frame import CoopFrame
from diffkd_ros.sources.dataset import DatasetError, FrameDataset, readable
from diffkd_ros.sources.formats import FORMATS

if TYPE_CHECKING:
    from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

SIMULATOR = 'sim'
_IGNORE = 'ignore'
DEFAULT_SEED = 3
"""Seed of ``sim`` without one; the shipped model was trained on seed 1 and validated on seed 2."""
SIMULATOR_OPTIONS = ('world', 'sensor', 'intensity')
"""What follows the seed of a simulated source: fields of `SimulatorConfig`."""
# Of simulated ones, since they are listed by name.
_MOST_SCENARIOS = 100_000


class Scenario(Protocol):
    """Frames in sequence, which can be read in any order."""

    @property
    def name(self) -> str:
        """As in `CoopFrame.scenario`."""

    def __len__(self) -> int: ...

    def frame(self, index: int) -> CoopFrame:
        """The frame at this position.

        Raises:
            DatasetError: if one of its files is missing or damaged.
        """


@dataclass(frozen=True, slots=True)
class RecordedScenario:
    """A scenario of a data set.

    Attributes:
        name: of the scenario.
        dataset: the whole set.
        rows: numbers of its frames in the set.
        dark: whether all intensities are set to 0.
    """

    name: str
    dataset: FrameDataset
    rows: range
    dark: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def frame(self, index: int) -> CoopFrame:
        """The frame at this position."""
        frame = self.dataset[self.rows[index]]
        if not self.dark:
            return frame
        without = np.array([1, 1, 1, 0], np.float32)
        agents = {
            agent: replace(sweep, points=sweep.points * without) for agent, sweep in frame.agents.items()
        }
        return replace(frame, agents=agents)


@dataclass(frozen=True, slots=True)
class Source:
    """A source of frames and the part of it that is used; each process opens it for itself.

    Attributes:
        spec: ``sim`` (endless), ``sim:SEED`` or a key of `FORMATS` with a path, as in ``opv2v:DIR``; several
            bags, separated by commas, are read as one. Options follow a seed, as in
            ``sim:3,world=varied,intensity=carla``.
        scenarios: use only the first so many, of simulated ones at most 100,000; None for all.
        frames_per_scenario: `positions` chooses so many of each scenario; None for all.
        split: of a data set; None for all of it.
        split_file: file that lists the splits of a data set.
        labels: folder of labels used instead of the data set's own, or `original`.
        pose: which of the recorded poses places the clouds.
        communication_range: metres from the ego within which agents belong to a frame.
        topics: names of topics in bags, as of `sources.bag_contents.find_contents`.
        base_to_lidar: mountings of LiDARs in bags, as of `sources.bag_contents.Mountings`.
        intensity_scale: range of the recorded intensities, one of `messages.clouds.INTENSITY_SCALES`; other
            recorded sources than bags only take `ignore`, which sets all to 0.
        default_seed: seed of a ``sim`` without one; the seed in the spec takes precedence.
        simulator: keyword arguments of `SimulatorConfig`; options in the spec take precedence, and recorded
            sources ignore them.

    Raises:
        DatasetError: if there is no such source, or its format does not take one of the options.
    """

    spec: str
    scenarios: int | None = None
    frames_per_scenario: int | None = None
    split: str | None = None
    split_file: Path | None = None
    labels: Path | None = None
    pose: str | None = None
    communication_range: float | None = None
    topics: tuple[str, ...] = ()
    base_to_lidar: tuple[str, ...] = ()
    intensity_scale: str | None = None
    default_seed: int = DEFAULT_SEED
    simulator: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kind == SIMULATOR:
            if _simulated_spec(self.spec)[1]:
                self._simulator_config()
            if self.scenarios is not None and self.scenarios > _MOST_SCENARIOS:
                raise DatasetError(f'sim has at most {_MOST_SCENARIOS} scenarios, got {self.scenarios}')
        elif self.kind not in FORMATS:
            known = ', '.join((SIMULATOR, *FORMATS))
            raise DatasetError(f'no source {self.spec!r}; known are {known}, with :DIR where recorded')
        # Unlike `Path.exists`, this does not raise for names that are too long.
        elif not self._place or not all(map(os.path.exists, self.paths)):
            raise DatasetError(f'source {self.spec!r} needs a path that exists')
        takes = () if self.kind == SIMULATOR else FORMATS[self.kind].options
        if self.kind != SIMULATOR and self.intensity_scale == _IGNORE:
            takes = (*takes, 'intensity_scale')
        if refused := [name for name in self.options if name not in takes]:
            raise DatasetError(f'source {self.spec} takes no {refused[0].replace("_", " ")}')

    @property
    def kind(self) -> str:
        """``sim`` or a key of `FORMATS`."""
        return self.spec.partition(':')[0]

    @property
    def _place(self) -> str:
        return self.spec.partition(':')[2]

    @property
    def paths(self) -> list[Path]:
        """Files and folders of a recorded source."""
        places = self._place.split(',') if FORMATS[self.kind].several else [self._place]
        return [user_path(place) for place in places]

    @property
    def seed(self) -> int:
        """Seed of a simulated source."""
        seed = _simulated_spec(self.spec)[0]
        return self.default_seed if seed is None else seed

    @property
    def protocol(self) -> str:
        """Evaluation protocol of published results on this source."""
        return 'sim' if self.kind == SIMULATOR else FORMATS[self.kind].protocol

    @property
    def options(self) -> dict[str, Any]:
        """The options of recorded sources that are set, by name."""
        names = (
            *('split', 'split_file', 'labels', 'pose', 'communication_range'),
            *('topics', 'base_to_lidar', 'intensity_scale'),
        )
        return {name: value for name in names if (value := getattr(self, name)) not in (None, ())}

    def absolute(self) -> Source:
        """The same source for processes with another working folder: all paths absolute."""
        if self.kind == SIMULATOR:
            return self
        # Not all labels are a folder.
        split_file, labels = (
            path.absolute() if path is not None and path.exists() else path
            for path in (self.split_file, self.labels)
        )
        spec = f'{self.kind}:{",".join(str(path.absolute()) for path in self.paths)}'
        return replace(self, spec=spec, split_file=split_file, labels=labels)

    def open_dataset(self) -> FrameDataset:
        """Open a recorded source.

        Raises:
            DatasetError: if it is simulated, or does not follow its format.
        """
        if self.kind == SIMULATOR:
            raise DatasetError(f'source {self.spec} is simulated and has no files')
        chosen = FORMATS[self.kind]
        reader = pkgutil.resolve_name(chosen.reader)
        options = {name: value for name, value in self.options.items() if name in chosen.options}
        return reader(self.paths if chosen.several else self.paths[0], **options)

    def _simulator_config(self) -> SimulatorConfig:
        from pydantic import ValidationError

        from diffkd_ros.sources.simulator import SimulatorConfig

        try:
            return SimulatorConfig(**{**self.simulator, **_simulated_spec(self.spec)[1]})
        except ValidationError as error:
            problems = [
                f'{" ".join(map(str, part["loc"]))} {part["input"]}: {part["msg"]}' for part in error.errors()
            ]
            raise DatasetError(f'source sim: {"; ".join(problems)}') from error

    def open_simulator(self) -> Simulator:
        """Open a simulated source.

        Raises:
            DatasetError: if an option of the simulator is out of range.
        """
        from diffkd_ros.sources.simulator import Simulator

        return Simulator(self._simulator_config(), self.seed)

    def open_scenarios(self) -> Iterator[Scenario]:
        """Open the source; its scenarios follow one after the other, without end for an endless source.

        Raises:
            DatasetError: if it cannot be opened.
        """
        if self.kind != SIMULATOR:
            return iter(_opened(self))
        numbers = itertools.count() if self.scenarios is None else range(self.scenarios)
        return map(self.open_simulator().scenario, numbers)

    def frames(self, first: int | None = None) -> Iterator[CoopFrame]:
        """Frames of one scenario after the other. The source is opened at once, frames are read lazily.

        A broken frame is left out, with a line in the log.

        Args:
            first: read only so many frames of each scenario.

        Raises:
            DatasetError: if the source cannot be opened.
        """
        scenarios = self.open_scenarios()
        return (
            frame
            for scenario in scenarios
            for index in range(len(scenario))[:first]
            if (frame := readable(scenario.frame, index)) is not None
        )

    def length(self, first: int | None = None) -> int | None:
        """Number of frames that `frames` gives if none is broken; None if the source is endless.

        Raises:
            DatasetError: if it cannot be opened.
        """
        if self.kind != SIMULATOR:
            return sum(len(scenario.rows[:first]) for scenario in _opened(self))
        each = range(self.open_simulator().config.frames_per_scenario)[:first]
        return None if self.scenarios is None else self.scenarios * len(each)

    def names(self) -> list[str]:
        """Names of the scenarios used, by number.

        Raises:
            DatasetError: if the source is endless or cannot be opened.
        """
        if self.kind != SIMULATOR:
            return [scenario.name for scenario in _opened(self)]
        if self.scenarios is None:
            raise DatasetError('the simulator is endless: give the number of scenarios')
        from diffkd_ros.sources.simulator import scenario_name

        config = self._simulator_config()
        return [scenario_name(config, self.seed, number) for number in range(self.scenarios)]

    def scenario(self, number: int) -> Scenario:
        """A scenario, by number from 0; opened once in a process."""
        return _simulated(self, number) if self.kind == SIMULATOR else _opened(self)[number]

    def positions(self, scenario: Scenario, history: int = 0) -> list[int]:
        """The frames of a scenario that are used, evenly spaced.

        Args:
            scenario: one of this source.
            history: frames kept before the first one, if the scenario is long enough.
        """
        length, wanted = len(scenario), self.frames_per_scenario
        if wanted is None or wanted > length - history:
            return list(range(length))[:wanted]
        return [int(i) for i in np.linspace(history, length - 1, wanted).round()]

    def remarks(self) -> list[str]:
        """What is wrong with a recorded source as a whole, a line each.

        Raises:
            DatasetError: if it cannot be opened.
        """
        recorded = [] if self.kind == SIMULATOR else _opened(self)[:1]
        return [str(stray) for scenario in recorded for stray in scenario.dataset.strays()]

    def shares_scenarios(self, other: Source) -> bool:
        """Whether the two sources have frames of the same scenarios, also under different names.

        Raises:
            DatasetError: if a source is endless or cannot be opened.
        """
        if self.kind != other.kind:
            return False
        mine, theirs = (
            source.names() if source.kind == SIMULATOR else source._files() for source in (self, other)
        )
        return not set(mine).isdisjoint(theirs)

    def _files(self) -> set[Path]:
        return {file for scenario in _opened(self) for file in scenario.dataset.files(scenario.rows)}


def _simulated_spec(spec: str) -> tuple[int | None, dict[str, str]]:
    """Seed and options of a simulated source.

    Raises:
        DatasetError: if there is something else, or something twice.
    """
    seed: int | None = None
    options: dict[str, str] = {}
    for part in spec.partition(':')[2].split(',') if ':' in spec else ():
        name, _, value = part.partition('=')
        if value and name in SIMULATOR_OPTIONS and name not in options:
            options[name] = value
        elif seed is None and not options and re.fullmatch('[0-9]{1,18}', part):
            seed = int(part)
        else:
            raise DatasetError(
                f'source sim takes a seed, then {", ".join(SIMULATOR_OPTIONS)}, as in '
                f'sim:3,world=varied,intensity=carla; got {spec!r}'
            )
    return seed, options


def recognise(place: str) -> str:
    """The spec of a source, given as a spec or as a folder whose format is recognised by the files in it.

    Raises:
        DatasetError: if the folder is missing or of no known format.
    """
    if place.partition(':')[0] in (SIMULATOR, *FORMATS):
        return place
    folder = user_path(place)
    if not os.path.isdir(folder):
        raise DatasetError(f'{folder}: not a folder')
    for kind, known in FORMATS.items():
        if any(any(folder.glob(mark)) for mark in known.marks):
            return f'{kind}:{place}'
    titles = ', '.join(known.title for known in FORMATS.values())
    raise DatasetError(f'{folder}: none of the known formats ({titles})')


def forget_scenarios() -> None:
    """Open sources anew at the next use: their files may have changed."""
    _opened.cache_clear()
    _simulated.cache_clear()


@cache
def _opened(source: Source) -> list[RecordedScenario]:
    dataset = source.open_dataset()
    dark = source.intensity_scale == _IGNORE
    return [
        RecordedScenario(name, dataset, rows, dark) for name, rows in dataset.scenarios()[: source.scenarios]
    ]


@cache
def _simulated(source: Source, number: int) -> Scenario:
    return source.open_simulator().scenario(number)
