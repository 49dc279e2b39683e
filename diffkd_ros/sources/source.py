# SPDX-License-Identifier: Apache-2.0
"""One way to name any source of frames: ``sim``, ``opv2v:DIR``, ``dair:DIR`` or ``bag:FILE``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import CoopFrame


class SourceError(DiffkdError):
    """A source that does not exist or cannot be opened."""


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """What a simulated source needs to know; recorded ones know it already.

    Attributes:
        seed: of the simulator; the drives are numbered from 0.
        agents: connected vehicles, the ego included.
        rate: frames per second of simulated time.
        frames_per_scenario: length of a drive; the next one follows without end.
    """

    seed: int = 0
    agents: int = 3
    rate: float = 10.0
    frames_per_scenario: int = 20


def _simulator(place: str, options: SimulationOptions) -> Iterable[CoopFrame]:
    from pydantic import ValidationError

    from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

    if place:
        raise SourceError(f'source sim takes no folder, got {place}')
    try:
        config = SimulatorConfig(
            agents=options.agents, rate=options.rate, frames_per_scenario=options.frames_per_scenario
        )
    except ValidationError as error:
        problems = [f'{problem["loc"][0]} {problem["input"]}: {problem["msg"]}' for problem in error.errors()]
        raise SourceError(f'source sim: {"; ".join(problems)}') from error
    return Simulator(config, seed=options.seed).frames(itertools.count())


def _opv2v(place: str, options: SimulationOptions) -> Iterable[CoopFrame]:
    from diffkd_ros.sources.dataset import readable_frames
    from diffkd_ros.sources.opv2v import Opv2vDataset

    return readable_frames(Opv2vDataset(_existing('opv2v', place)))


def _dair_v2x(place: str, options: SimulationOptions) -> Iterable[CoopFrame]:
    from diffkd_ros.sources.dair_v2x import DairV2xDataset
    from diffkd_ros.sources.dataset import readable_frames

    return readable_frames(DairV2xDataset(_existing('dair', place)))


def _rosbag(place: str, options: SimulationOptions) -> Iterable[CoopFrame]:
    from diffkd_ros.sources.dataset import readable_frames
    from diffkd_ros.sources.rosbag import RosbagDataset

    return readable_frames(RosbagDataset(bag_paths(place)))


def bag_paths(place: str) -> list[Path]:
    """The bags named in ``bag:FILE[,FILE...]``: one, or several that are read as one.

    Args:
        place: what stands after the colon.

    Raises:
        SourceError: if one is missing.
    """
    return [_existing('bag', part) for part in place.split(',')]


def _existing(kind: str, place: str) -> Path:
    path = Path(place).expanduser()
    if not place or not path.exists():
        raise SourceError(f'source {kind}:{place} needs a folder that exists')
    return path


# Each room of `sources` joins by one line here.
_SOURCES: dict[str, Callable[[str, SimulationOptions], Iterable[CoopFrame]]] = {
    'sim': _simulator,
    'opv2v': _opv2v,
    'bag': _rosbag,
    'dair': _dair_v2x,
}


def open_source(spec: str, options: SimulationOptions | None = None) -> Iterable[CoopFrame]:
    """Open a source of frames.

    Args:
        spec: ``sim`` (endless), ``opv2v:DIR``, ``dair:DIR`` or ``bag:FILE[,FILE...]``, several bags being
            read as one. A broken frame of a recorded set is left out, with a line in the log.
        options: for the simulator.

    Raises:
        SourceError: if there is no such source, or the simulator's options are out of range.
        ValueError: if the folder is not of that kind.
    """
    kind, _, place = spec.partition(':')
    if kind not in _SOURCES:
        raise SourceError(
            f'unknown source {spec!r}; known are {", ".join(_SOURCES)}, with :DIR where recorded'
        )
    return _SOURCES[kind](place, options or SimulationOptions())
