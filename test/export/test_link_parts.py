# SPDX-License-Identifier: Apache-2.0
"""What a vehicle sends and what the ego makes of it, as nodes compute it, against the training's torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from arrived_map import as_received

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import grid_warps
from diffkd_ros.geometry.poses import inverse
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.decoding import decode_boxes, observed_cells
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.boxes import draw_boxes
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.training.data import Batch
from diffkd_ros.training.link import Arrival, Received, Sent, receive, restored_maps

TOLERANCE = 1e-3


@pytest.fixture(scope='module')
def poses(card: ModelCard, batch: Batch) -> list[np.ndarray]:
    """Poses in the ego's frame that lead to the warps of the batch."""
    half = np.array([card.grid.x_max - card.grid.x_min, card.grid.y_max - card.grid.y_min]) / 2
    poses = []
    for warp in batch.warps.numpy().astype(np.float64):
        agent_from_ego = np.eye(4)
        agent_from_ego[:2, :2] = warp[:, :2] * half[:, None] / half[None]
        agent_from_ego[:2, 3] = warp[:, 2] * half  # the grid's centre is the LiDAR
        poses.append(inverse(agent_from_ego))
    np.testing.assert_allclose(grid_warps(poses, card.grid), batch.warps.numpy(), atol=1e-5)
    return poses


def test_a_vehicle_sends_its_own_detections_and_the_codes_that_training_does(
    card: ModelCard, sent: Sent, student: Student
) -> None:
    assert student.sender is not None
    sender, alone = MapSender(card), np.eye(2, 3, dtype=np.float32)[None]
    tables = LinkTables.load(card)
    for agent in range(3):
        feature, density = sent.features[agent].numpy(), sent.density[agent, 0].numpy()
        outgoing = sender.prepare(BevFeature(feature, density))
        with torch.no_grad():
            heatmap, regression = student.sender.detect(sent.features[agent][None])
        observed = observed_cells(density[None], alone, card.grid)
        boxes = decode_boxes(heatmap[0, 0].numpy(), regression[0].numpy(), observed, card.grid, card.decoding)
        assert len(boxes) > 3
        np.testing.assert_allclose(outgoing.boxes.boxes, boxes.boxes, atol=TOLERANCE)
        np.testing.assert_allclose(outgoing.boxes.scores, boxes.scores, atol=TOLERANCE)
        expected = sent.coded.codes.fine[agent].numpy()
        # A cell that lies as near to two codes may get either.
        assert (outgoing.coarse == sent.coded.codes.coarse[agent].numpy()).mean() > 0.99
        np.testing.assert_array_equal(outgoing.occupied, expected[0] > 0)
        normal = outgoing.normal[:, outgoing.occupied].T
        depth = np.full(len(normal), len(expected))
        fine = tables.code(normal, depth)
        assert (fine == expected[:, outgoing.occupied]).mean() > 0.99
        depth[::2] = 1  # of these the first level only
        coded = tables.code(normal, depth)
        np.testing.assert_array_equal(coded[0], fine[0])
        np.testing.assert_array_equal(coded[1], np.where(depth > 1, fine[1], 0))
        np.testing.assert_allclose(outgoing.benefit, sent.order[agent, 0].numpy(), atol=TOLERANCE)


@pytest.fixture(scope='module')
def arrival(sent: Sent) -> Arrival:
    """Some tiles of each level, of one neighbour only the coarse codes of the others and the boxes."""
    draw = torch.Generator().manual_seed(2)
    first = (torch.rand(sent.order.shape, generator=draw) < 0.4).float()
    second = first * (torch.rand(sent.order.shape, generator=draw) < 0.5)
    whole = torch.ones_like(sent.order)
    some = torch.tensor([1.0, 1.0, 0.0])[:, None, None, None]
    return Arrival(torch.cat((first, second), dim=1), whole * some, 2 * (1 - some))


@pytest.fixture(scope='module')
def boxes(card: ModelCard, sent: Sent) -> list[Boxes3D | None]:
    """Of each agent; those of the last do not arrive."""
    features = (BevFeature(sent.features[k].numpy(), sent.density[k, 0].numpy()) for k in range(2))
    return [*(MapSender(card).prepare(feature).boxes for feature in features), None]


@pytest.fixture(scope='module')
def received(
    sent: Sent, arrival: Arrival, boxes: list, batch: Batch, student: Student, card: ModelCard
) -> Received:
    drawn = [
        np.zeros((9, card.grid.height, card.grid.width)) if b is None else draw_boxes(b, card.grid)
        for b in boxes
    ]
    sent = sent._replace(boxes=torch.from_numpy(np.stack(drawn)).float())
    return receive(sent, arrival, batch, student)


def test_the_ego_decodes_and_restores_as_in_training(
    card: ModelCard,
    sent: Sent,
    arrival: Arrival,
    received: Received,
    boxes: list[Boxes3D | None],
    poses: list[np.ndarray],
    batch: Batch,
    student: Student,
) -> None:
    ego = BevFeature(sent.features[0].numpy(), sent.density[0, 0].numpy())
    maps = [as_received(sent, arrival, agent, boxes[agent]) for agent in (1, 2)]
    _, *found = MapReceiver(card).features(ego, maps, poses)
    with torch.no_grad():
        expected = restored_maps(received, batch, student)[1:].numpy()
    assert np.abs(expected - received.features[1:].numpy()).max() > 0.1
    np.testing.assert_allclose([each.feature for each in found], expected, atol=TOLERANCE)
    np.testing.assert_array_equal([each.density for each in found], received.density[1:, 0].numpy())


def test_complete_maps_are_not_restored(card: ModelCard, sent: Sent, poses: list[np.ndarray]) -> None:
    ego = BevFeature(sent.features[0].numpy(), sent.density[0, 0].numpy())
    everything = Arrival(
        torch.ones(3, 2, *sent.order.shape[2:]), torch.ones_like(sent.order), torch.zeros(3, 1, 1, 1)
    )
    maps = [as_received(sent, everything, agent, None) for agent in (1, 2)]
    receiver = MapReceiver(card)
    decoded = [each.feature(receiver.tables).feature for each in maps]
    _, *found = receiver.features(ego, maps, poses)
    np.testing.assert_array_equal([each.feature for each in found], decoded)


def test_evidence_of_a_box_is_what_is_not_known_to_be_empty(
    card: ModelCard, sent: Sent, arrival: Arrival, poses: list[np.ndarray]
) -> None:
    """Decoding keeps a box where a density is above 0: a cell that did not arrive may hold something."""
    ego = BevFeature(sent.features[0].numpy(), sent.density[0, 0].numpy())
    given = as_received(sent, arrival, 1, None)
    density = MapReceiver(card).features(ego, [given], poses[:2])[1].density
    arrived, coarse = given.fine[0] >= 0, given.coarse.repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(density[arrived] > 0, given.fine[0][arrived] > 0)
    np.testing.assert_array_equal(density[~arrived] > 0, coarse[~arrived] != 0)
    nothing = replace(given, fine=np.full_like(given.fine, -1), coarse=np.full_like(given.coarse, -1))
    assert (MapReceiver(card).features(ego, [nothing], poses[:2])[1].density == 1).all()
