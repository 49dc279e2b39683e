# SPDX-License-Identifier: Apache-2.0
"""Folders and files of an OPV2V set, and its YAML documents."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from diffkd_ros.sources.dataset import DatasetError, located

SPLITS = ('train', 'validate', 'test', 'test_culvercity')
FRAME_INTERVAL = 0.1
"""Seconds between frames of a scenario that does not record its simulation step: the data set's 10 Hz."""
_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
_DUMPER = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)
_AGENT = re.compile(r'-?[0-9]{1,18}')
_FILE = re.compile(r'([0-9]{1,8})\.(yaml|pcd)')


@dataclass(frozen=True, slots=True)
class ScenarioFiles:
    """The files of a scenario.

    Attributes:
        folder: of the scenario.
        name: of the scenario.
        ego: agent that fuses.
        frames: numbers of the YAML files, by agent.
        clouds: numbers of the PCD files, by agent.
        numbers: of the ego's YAML files, ascending.
    """

    folder: Path
    name: str
    ego: int
    frames: dict[int, frozenset[int]]
    clouds: dict[int, frozenset[int]]
    numbers: tuple[int, ...]

    def path(self, agent: int, number: int, suffix: str) -> Path:
        """Path of one file."""
        return file_path(self.folder, agent, number, suffix)

    def agents_at(self, number: int) -> list[int]:
        """Agents that have a YAML file of this number, ascending."""
        return sorted(agent for agent, numbers in self.frames.items() if number in numbers)


def file_path(folder: Path, agent: int, number: int, suffix: str) -> Path:
    """Path of an agent's file in the folder of a scenario."""
    return folder / str(agent) / f'{number:06d}.{suffix}'


def first_by_name(agents: Iterable[int]) -> int | None:
    """The vehicle whose folder name sorts first, which is the ego; None without vehicles."""
    return min((agent for agent in agents if agent >= 0), key=str, default=None)


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted by name.

    Raises:
        DatasetError: if it cannot be listed.
    """
    with located(folder), os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir())


def list_scenario(folder: Path) -> ScenarioFiles | None:
    """List the files of a scenario; None for a folder without frames of a vehicle.

    Raises:
        DatasetError: if a folder cannot be listed.
    """
    frames, clouds = {}, {}
    for path in subfolders(folder):
        if not _AGENT.fullmatch(path.name):
            continue
        numbers: dict[str, set[int]] = {'yaml': set(), 'pcd': set()}
        with located(path):
            names = os.listdir(path)
        for match in filter(None, map(_FILE.fullmatch, names)):
            numbers[match[2]].add(int(match[1]))
        agent = int(path.name)
        if numbers['yaml']:
            frames[agent] = frozenset(numbers['yaml'])
        clouds[agent] = frozenset(numbers['pcd'])
    ego = first_by_name(frames)
    if ego is None:
        return None
    return ScenarioFiles(folder, folder.name, ego, frames, clouds, tuple(sorted(frames[ego])))


def with_unique_names(scenarios: list[ScenarioFiles]) -> list[ScenarioFiles]:
    """The scenarios, named `split.folder` where several folders have the same name."""
    times = Counter(scenario.name for scenario in scenarios)
    return [
        replace(scenario, name=f'{scenario.folder.parent.name}.{scenario.name}')
        if times[scenario.name] > 1
        else scenario
        for scenario in scenarios
    ]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a document.

    Raises:
        DatasetError: if the file is missing, not YAML, or not a mapping.
    """
    with located(path), path.open('rb') as file:
        document = yaml.load(file, _LOADER)
    if not isinstance(document, dict):
        raise DatasetError(f'{path}: expected a mapping, got {type(document).__name__}')
    return document


def write_yaml(path: Path, document: dict[str, Any]) -> None:
    """Write a document, keys in their order."""
    with path.open('w', encoding='utf-8') as file:
        yaml.dump(document, file, _DUMPER, sort_keys=False)
