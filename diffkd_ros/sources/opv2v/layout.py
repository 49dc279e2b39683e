# SPDX-License-Identifier: Apache-2.0
"""Folders and files of a set in the layout of OPV2V."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from diffkd_ros.documents import read_yaml
from diffkd_ros.sources.dataset import DatasetError, located

SPLITS = ('train', 'validate', 'test', 'test_culvercity')
FRAME_INTERVAL = 0.1
"""Seconds between frames of a scenario that does not record its simulation step: the data set's 10 Hz."""
FRAME_FILES = '<agent id>/<number>.yaml'
NO_FRAMES = f'holds no {FRAME_FILES}'
_DUMPER = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)
_AGENT = re.compile(r'-?[0-9]{1,9}')
_FILE = re.compile(r'([0-9]{1,8})\.(yaml|pcd|bin)')


@dataclass(frozen=True, slots=True)
class ScenarioFiles:
    """The files of a scenario.

    Attributes:
        folder: of the scenario.
        name: of the scenario.
        ego: agent that fuses.
        folders: names of the agents' folders.
        documents: names of the YAML files, by agent and number.
        clouds: names of the clouds, by agent and number.
        numbers: of the ego's YAML files, ascending.
    """

    folder: Path
    name: str
    ego: int
    folders: Mapping[int, str]
    documents: Mapping[int, Mapping[int, str]]
    clouds: Mapping[int, Mapping[int, str]]
    numbers: tuple[int, ...]

    def document(self, agent: int, number: int) -> Path:
        """Path of a YAML file that exists."""
        return self._path(agent, self.documents[agent][number])

    def cloud(self, agent: int, number: int) -> Path:
        """Path of a cloud; where it is missing, its name is that of the YAML file."""
        name = self.clouds[agent].get(number)
        if name is not None:
            return self._path(agent, name)
        others = (other for names in self.clouds.values() for other in names.values())
        return self.document(agent, number).with_suffix(Path(next(others, '.pcd')).suffix or '.pcd')

    def _path(self, agent: int, name: str) -> Path:
        return self.folder / self.folders[agent] / name

    def agents_at(self, number: int) -> list[int]:
        """Agents that have a YAML file of this number, ascending."""
        return sorted(agent for agent, names in self.documents.items() if number in names)

    def unused(self) -> list[tuple[Path, str]]:
        """The files that belong to no frame, each with the reason."""
        own = self.documents[self.ego]
        found = []
        for agent, clouds in self.clouds.items():
            documents = self.documents.get(agent, {})
            found += [
                (self._path(agent, name), f'{Path(name).stem}.yaml is missing')
                for number, name in sorted(clouds.items())
                if number not in documents
            ]
            found += [
                (self._path(agent, name), f'the ego, agent {self.ego}, has no {name}')
                for number, name in sorted(documents.items())
                if number not in own
            ]
        return found


def file_path(folder: Path, agent: int, number: int, suffix: str) -> Path:
    """Path of an agent's file that is written, in the folder of a scenario."""
    return folder / str(agent) / f'{number:06d}.{suffix}'


def first_by_name(agents: Iterable[int], name_of: Callable[[int], str] = str) -> int | None:
    """The vehicle whose folder name sorts first, which is the ego; None without vehicles."""
    return min((agent for agent in agents if agent >= 0), key=name_of, default=None)


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted by name.

    Raises:
        DatasetError: if it cannot be listed.
    """
    with located(folder), os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir())


def list_scenario(folder: Path) -> ScenarioFiles | str:
    """List the files of a scenario; for a folder without frames of a vehicle, the reason.

    Raises:
        DatasetError: if a folder cannot be listed.
    """
    folders: dict[int, str] = {}
    documents: dict[int, dict[int, str]] = {}
    clouds: dict[int, dict[int, str]] = {}
    for path in subfolders(folder):
        if not _AGENT.fullmatch(path.name):
            continue
        agent = int(path.name)
        folders[agent] = path.name
        with located(path):
            names = sorted(os.listdir(path))
        found: dict[str, dict[int, str]] = {'yaml': {}, 'pcd': {}, 'bin': {}}
        for match in filter(None, map(_FILE.fullmatch, names)):
            found[match[2]].setdefault(int(match[1]), match[0])
        if found['yaml']:
            documents[agent] = found['yaml']
        clouds[agent] = {**found['pcd'], **found['bin']}
    ego = first_by_name(documents, folders.__getitem__)
    if ego is None:
        if documents:
            return (
                f'holds road-side units only ({", ".join(map(str, sorted(documents)))}); the ego is a vehicle'
            )
        return NO_FRAMES
    numbers = tuple(sorted(documents[ego]))
    return ScenarioFiles(folder, folder.name, ego, folders, documents, clouds, numbers)


def with_unique_names(scenarios: list[ScenarioFiles]) -> list[ScenarioFiles]:
    """The scenarios, named `split.folder` where several folders have the same name."""
    times = Counter(scenario.name for scenario in scenarios)
    return [
        replace(scenario, name=f'{scenario.folder.parent.name}.{scenario.name}')
        if times[scenario.name] > 1
        else scenario
        for scenario in scenarios
    ]


def read_document(path: Path) -> dict[str, Any]:
    """Read a document.

    Raises:
        DatasetError: if the file is missing, not YAML, or not a mapping.
    """
    with located(path):
        document = read_yaml(path)
    if not isinstance(document, dict):
        raise DatasetError(f'{path}: expected a mapping, got {type(document).__name__}')
    return document


def write_yaml(path: Path, document: dict[str, Any]) -> None:
    """Write a document, keys in their order."""
    with path.open('w', encoding='utf-8') as file:
        yaml.dump(document, file, _DUMPER, sort_keys=False)
