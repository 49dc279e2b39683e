# SPDX-License-Identifier: Apache-2.0
"""The graphs and tables of a layered message, run as vehicles run them, against the training's torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_recipe import LINK, ONE_FRAME, first_batch, make_lively, small_recipe
from torch import Tensor

from diffkd_ros.export.graphs import LAST_INPUTS, RESTORE_INPUTS, RestoreGraph
from diffkd_ros.export.model_folder import write_model_folder
from diffkd_ros.frame import Boxes3D
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import EGO, RESTORE, SENDER, ModelCard
from diffkd_ros.runtime.decoding import Decoding
from diffkd_ros.runtime.detector import OUTPUTS
from diffkd_ros.runtime.link.maps import OutgoingMap
from diffkd_ros.runtime.link.packing import Packer
from diffkd_ros.runtime.link.sender import OUTPUTS as SENDER_OUTPUTS
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.runtime.session import open_session
from diffkd_ros.training.data import Batch
from diffkd_ros.training.link import (
    Before,
    Received,
    Sending,
    Sent,
    best_tiles,
    decode,
    receive,
    restored_maps,
    rows,
)

TOLERANCE = 1e-3


@pytest.fixture(scope='module')
def received(student: Student, batch: Batch, sent: Sent) -> Received:
    return receive(sent, best_tiles(sent.order, 0.4, 2), batch, student)


@pytest.fixture(scope='module')
def messages(card: ModelCard, sent: Sent, batch: Batch) -> list[dict[str, np.ndarray]]:
    """Output of the sender's graph for each agent."""
    session = open_session(card.graph_path(SENDER), 1, 'cpu')
    maps = zip(sent.features.numpy(), sent.density.numpy(), strict=True)
    inputs = ({'feature': feature[None], 'density': density[None]} for feature, density in maps)
    return [dict(zip(SENDER_OUTPUTS, session.run(SENDER_OUTPUTS, each), strict=True)) for each in inputs]


def test_a_vehicle_computes_the_codes_that_training_does(
    messages: list[dict[str, np.ndarray]], sent: Sent
) -> None:
    assert len(messages) == 3
    for agent, message in enumerate(messages):
        coarse, fine = sent.coded.codes.coarse[agent], sent.coded.codes.fine[agent]
        # A cell that lies as near to two codes may get either.
        assert (message['coarse'][0, 0] == coarse.numpy()).mean() > 0.99
        np.testing.assert_array_equal(message['occupied'][0, 0] > 0, fine[0].numpy() > 0)
        np.testing.assert_allclose(message['benefit'][0], sent.order[agent].numpy(), atol=TOLERANCE)


def test_what_is_packed_and_unpacked_is_what_training_decodes(
    card: ModelCard, messages: list[dict[str, np.ndarray]], sent: Sent, student: Student, batch: Batch
) -> None:
    tables = LinkTables.load(card)
    complete = receive(sent, best_tiles(sent.order, 1.0, 2), batch, student)
    nothing = Boxes3D(np.zeros((0, 7)), scores=np.zeros(0, np.float32))
    for agent in batch.neighbours.tolist():
        message = messages[agent]
        coarse, occupied = message['coarse'][0, 0].astype(np.uint8), message['occupied'][0, 0] > 0
        outgoing = OutgoingMap(nothing, coarse, message['normal'][0], occupied, message['benefit'][0, 0])
        chunks = Packer(tables).pack(outgoing, 1 << 20)
        found = Unpacker(tables).unpack(chunks).feature(tables)
        near = np.isclose(found.feature, complete.features[agent].numpy(), atol=TOLERANCE)
        # A cell that lies as near to two codes may get either.
        assert near.mean() > 0.99
        assert (found.level == 1).all()
        np.testing.assert_array_equal(~found.known_empty, complete.density[agent, 0].numpy() > 0)


def test_the_ego_restores_as_in_training(
    card: ModelCard, received: Received, student: Student, batch: Batch
) -> None:
    expected = restored_maps(received, batch, student)
    found = restored(card, received, batch.warps)
    assert (expected[1:] - received.features[1:]).abs().max() > 0.1
    np.testing.assert_allclose(found, expected[1:].detach().numpy(), atol=TOLERANCE)


def restore_inputs(received: Received, warps: Tensor) -> list[Tensor]:
    neighbours = received.features[1:], received.density[1:], received.context.level[1:]
    return [received.features[:1], received.density[:1], *neighbours, received.context.boxes[1:], warps[1:]]


def restored(card: ModelCard, received: Received, warps: Tensor) -> np.ndarray:
    session = open_session(card.graph_path(RESTORE), 1, 'cpu')
    values = restore_inputs(received, warps)
    inputs = {name: value.numpy() for name, value in zip(RESTORE_INPUTS, values, strict=True)}
    return session.run(['restored'], inputs)[0]


@pytest.mark.parametrize('count', [1, 4])
def test_any_number_of_neighbours_is_restored(
    count: int, card: ModelCard, received: Received, student: Student, batch: Batch
) -> None:
    chosen = torch.tensor([0, *[1, 2, 2, 1][:count]])
    some = Received(*rows(received, chosen))
    warps = batch.warps[chosen]
    with torch.no_grad():
        expected = RestoreGraph(student)(*restore_inputs(some, warps))
    found = restored(card, some, warps)
    np.testing.assert_allclose(found, expected.numpy(), atol=TOLERANCE)


def test_restored_maps_are_fused_without_being_restored_again(
    card: ModelCard, received: Received, student: Student, batch: Batch
) -> None:
    maps = torch.cat((received.features[:1], torch.from_numpy(restored(card, received, batch.warps))))
    with torch.no_grad():
        fusion = student.fuse(maps, maps, received.density, batch.warps)
        heatmap, regression = student.head(fusion.fused)
    session = open_session(card.graph_path(EGO), 1, 'cpu')
    inputs = {'features': maps, 'density': received.density, 'ego_to_agent': batch.warps}
    found = session.run(OUTPUTS[:2], {name: value.numpy() for name, value in inputs.items()})
    np.testing.assert_allclose(found[0], heatmap.numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(found[1], regression.numpy(), atol=TOLERANCE)


def test_a_model_without_restoration_has_no_such_graph(student: Student, tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = Student(small_recipe('teacher', model=LINK | {'restoration': 'none'}).model)
    card = write_model_folder(plain, tmp_path / 'plain', 'A test.', Decoding(0.1, 0.15, 100), {}, {})
    assert card.link
    assert RESTORE not in card.files


def test_the_ego_remembers_as_in_training(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = LINK | {'context': ('mask', 'boxes', 'ego', 'others', 'last')}
    data = ONE_FRAME | {'earlier': True}
    recipe = small_recipe('teacher', model=model, data=data)
    batch, student = first_batch(recipe), Student(recipe.model).eval()
    make_lively(student)
    card = write_model_folder(student, tmp_path / 'linked', 'Untrained.', Decoding(0.1, 0.15, 100), {}, {})
    assert batch.earlier is not None
    now, then = batch.agents, batch.earlier.agents
    sending = Sending(student)
    with torch.no_grad():
        sent = sending(now.points, now.index, now.count)
        earlier = sending(then.points, then.index, then.count)
        kept = torch.ones(now.count, 1, 1, 1)
        before = Before(earlier, best_tiles(earlier.order, 0.6, 2), kept)
        received = receive(sent, best_tiles(sent.order, 0.3, 2), batch, student, before)
        expected = restored_maps(received, batch, student)
        decoded = decode(before.sent, before.arrival, batch, student.restoration)
        is_ego = torch.tensor([1.0, *[0.0] * (now.count - 1)])[:, None, None, None]
        occupied = decoded.seen * (1 - decoded.known_empty * (1 - is_ego))
    inputs = dict(zip(RESTORE_INPUTS, restore_inputs(received, batch.warps), strict=True))
    last = (decoded.features, occupied, batch.earlier.age, batch.earlier.warps)
    inputs |= dict(zip(LAST_INPUTS, last, strict=True))
    session = open_session(card.graph_path(RESTORE), 1, 'cpu')
    found = session.run(['restored'], {name: value.numpy() for name, value in inputs.items()})[0]
    assert found.shape == expected.shape
    assert (expected[0] - received.features[0]).abs().max() > 0.1
    np.testing.assert_allclose(found, expected.numpy(), atol=TOLERANCE)
