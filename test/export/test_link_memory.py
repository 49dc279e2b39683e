# SPDX-License-Identifier: Apache-2.0
"""What the ego makes of a drive with a memory, as nodes compute it, against the training's torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arrived_map import as_received
from linked_student import remembering_student
from small_recipe import ONE_FRAME
from torch import Tensor

from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.grid import grid_warps
from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import EGO, RESTORE, ModelCard, ModelError
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.boxes import draw_boxes
from diffkd_ros.runtime.link.memory import MapMemory, Moment, occupied_cells
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.session import open_session
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.training.data import Batch, Earlier, collate, make_sample
from diffkd_ros.training.link import Arrival, Before, Sending, Sent, receive, restored_maps
from diffkd_ros.training.stages import fuse_frames

TOLERANCE = 1e-3
HEARD = [(1, 2), (1,), (1, 2), ()]
"""The neighbours, by place, whose messages arrive in each sweep: the second one's is lost twice."""


@pytest.fixture(scope='module')
def card(remembering_model: Path) -> ModelCard:
    return ModelCard.load(remembering_model)


@pytest.fixture(scope='module')
def student() -> Student:
    return remembering_student()


@pytest.fixture(scope='module')
def frames() -> list[CoopFrame]:
    drive = Simulator(SimulatorConfig(**ONE_FRAME['simulator']), 5).scenario(0)
    return [drive.frame(k) for k in range(len(HEARD))]


class Drive:
    """Sweeps of three agents, of which random parts arrive."""

    def __init__(self, student: Student, card: ModelCard, frames: list[CoopFrame]) -> None:
        self.student, self.card, self.frames = student, card, frames
        self.ids = [frames[0].ego, *frames[0].neighbours]
        sending, sender = Sending(student), MapSender(card)
        self.sent: list[Sent] = []
        self.boxes: list[list[Boxes3D | None]] = []
        for frame in frames:
            clouds = self._batch(frame, [0, 1, 2], None).agents
            with torch.no_grad():
                sent = sending(clouds.points, clouds.index, clouds.count)
            own = BevFeature(sent.features[1].numpy(), sent.density[1, 0].numpy())
            boxes = sender.prepare(own).boxes
            drawn = torch.zeros_like(sent.boxes)
            drawn[1] = torch.from_numpy(draw_boxes(boxes, card.grid))
            self.sent.append(sent._replace(boxes=drawn))
            self.boxes.append([None, boxes, None])
        draw = torch.Generator().manual_seed(2)
        self.arrival = [self._arrival(draw) for _ in frames]

    def _arrival(self, draw: torch.Generator) -> Arrival:
        like = self.sent[0].order
        first = (torch.rand(like.shape, generator=draw) < 0.4).float()
        second = first * (torch.rand(like.shape, generator=draw) < 0.5)
        coarse = (torch.rand(like.shape, generator=draw) < 0.7).float()
        return Arrival(torch.cat((first, second), dim=1), coarse, torch.zeros(3, 1, 1, 1))

    def _batch(self, frame: CoopFrame, agents: list[int], earlier: Earlier | None) -> Batch:
        ids = [self.ids[agent] for agent in agents]
        frame = replace(frame, agents={agent: frame.agents[agent] for agent in ids})
        sample = make_sample(frame, frame, ids, self.card.grid, 5)
        return collate([replace(sample, earlier=earlier)], self.card.grid)

    def trained(self, now: int, before: dict[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Restored maps, densities and reliability at a sweep; `before` is the sweep remembered of agents."""
        agents, frame, grid = [0, *HEARD[now]], self.frames[now], self.card.grid
        single = [
            Earlier.of(frame, self.frames[before.get(agent, now)], [self.ids[agent]], grid)
            for agent in agents
        ]
        earlier = Earlier(
            [cloud for each in single for cloud in each.clouds],
            np.concatenate([each.warps for each in single]),
            np.concatenate([each.age for each in single]),
        )
        batch = self._batch(frame, agents, earlier)
        kept = torch.tensor([float(agent in before) for agent in agents])[:, None, None, None]
        then = [before.get(agent, now) for agent in agents]
        known = Before(*(rows([parts[k] for k in then], agents) for parts in (self.sent, self.arrival)), kept)
        sent, arrival = (rows([parts[now]] * len(agents), agents) for parts in (self.sent, self.arrival))
        with torch.no_grad():
            received = receive(sent, arrival, batch, self.student, known)
            restored = restored_maps(received, batch, self.student)
            fusion = fuse_frames(self.student, received.features, restored, received.density, batch)
            return restored, received.density, fusion.reliability


def rows(parts: Sequence[Any], agents: Sequence[int]) -> Any:
    """Of each part, a tensor or a tuple of parts, the row of an agent."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.stack([part[agent] for part, agent in zip(parts, agents, strict=True)])
    if isinstance(first, Arrival):
        return Arrival(*rows([(part.levels, part.coarse, part.least_score) for part in parts], agents))
    columns = (rows(column, agents) for column in zip(*parts, strict=True))
    return tuple(columns) if type(first) is tuple else type(first)(*columns)


@pytest.fixture(scope='module')
def drive(student: Student, card: ModelCard, frames: list[CoopFrame]) -> Drive:
    return Drive(student, card, frames)


def test_a_drive_with_lost_messages_is_restored_and_fused_as_in_training(
    drive: Drive, card: ModelCard, frames: list[CoopFrame]
) -> None:
    receiver, memory = MapReceiver(card), MapMemory()
    session = open_session(card.graph_path(EGO), 1, 'cpu')
    remembered = [{}, {0: 0, 1: 0}, {0: 1, 1: 1, 2: 0}, {0: 2}]
    for now, (frame, before) in enumerate(zip(frames, remembered, strict=True)):
        agents = [0, *HEARD[now]]
        sent, arrival = drive.sent[now], drive.arrival[now]
        ego = BevFeature(sent.features[0].numpy(), sent.density[0, 0].numpy())
        maps = [as_received(sent, arrival, agent, drive.boxes[now][agent]) for agent in HEARD[now]]
        poses = [frame.agents[drive.ids[agent]].pose for agent in agents]
        moment = Moment(memory, agents, [frame.stamp] * len(agents))
        found = receiver.features(ego, maps, poses, moment)
        restored, density, reliability = drive.trained(now, before)
        np.testing.assert_allclose([each.feature for each in found], restored.numpy(), atol=TOLERANCE)
        np.testing.assert_array_equal([each.density for each in found], density[:, 0].numpy())
        # The memory changes the ego's map, and what a neighbour's cells may hold.
        forgotten = receiver.features(ego, maps, poses)
        changes = [np.abs(a.feature - b.feature).max() for a, b in zip(found, forgotten, strict=True)]
        assert [change > 10 * TOLERANCE for change in changes] == [agent in before for agent in agents]
        opened = [(a.density > b.density).any() for a, b in zip(found[1:], forgotten[1:], strict=True)]
        assert opened == [agent in before for agent in agents[1:]]
        inputs = {
            'features': np.stack([each.feature for each in found]),
            'density': np.stack([each.density for each in found])[:, None],
            'ego_to_agent': grid_warps(poses, card.grid),
        }
        np.testing.assert_allclose(session.run(['reliability'], inputs)[0], reliability, atol=TOLERANCE)


def test_nothing_remembered_is_what_training_has_of_a_forgotten_sweep(
    drive: Drive, card: ModelCard, frames: list[CoopFrame], student: Student
) -> None:
    """Also where there is no earlier sweep at all, as in a validation."""
    sent, arrival = drive.sent[0], drive.arrival[0]
    batch = drive._batch(frames[0], [0, 1, 2], None)
    with torch.no_grad():
        restored = restored_maps(receive(sent, arrival, batch, student), batch, student)
    torch.testing.assert_close(restored, drive.trained(0, {})[0])
    assert not torch.equal(restored[0], sent.features[0])


def test_occupied_cells_of_a_whole_map_are_those_that_training_covers(drive: Drive) -> None:
    density = drive.sent[0].density
    expected = covered_cells(density)[0, 0].numpy() > 0
    bev = BevFeature(drive.sent[0].features[0].numpy(), density[0, 0].numpy())
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(occupied_cells(bev), expected)


def test_a_card_with_a_memory_needs_the_graph_that_uses_it(
    remembering_model: Path, linked_model: Path, tmp_path: Path
) -> None:
    assert ModelCard.load(remembering_model).memory
    card = ModelCard.load(linked_model)
    assert not card.memory
    files = {name: digest for name, digest in card.files.items() if name != RESTORE}
    with pytest.raises(ValueError, match=f'memory: needs link and {RESTORE}'):
        ModelCard.model_validate({**card.model_dump(), 'files': files, 'memory': True})
    # The memory would drop the map that it keeps first, the ego's.
    with pytest.raises(ValueError, match='memory: max_agents must be at most 16, is 17'):
        ModelCard.model_validate({**card.model_dump(), 'memory': True, 'max_agents': 17})
    with pytest.raises(ModelError, match='has no last_features'):
        MapReceiver(_with_memory(linked_model, tmp_path))


def _with_memory(folder: Path, tmp_path: Path) -> ModelCard:
    copied = tmp_path / 'copied'
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    card = (copied / 'card.yaml').read_text()
    (copied / 'card.yaml').write_text(card.replace('link: true', 'link: true\nmemory: true'))
    return ModelCard.load(copied)
