# SPDX-License-Identifier: Apache-2.0
"""Each attack changes what its name says, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from diffkd_ros.attacks.catalogue import ATTACKS, GHOSTS
from diffkd_ros.attacks.liars import Liars
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.overlap import bev_iou
from diffkd_ros.geometry.poses import inverse, yaw_of
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.merging import merge_boxes

PLAIN = [name for name, attack in ATTACKS.items() if not attack.optimised]


def lie(name, honest, knowledge, seed=0):
    return ATTACKS[name].lie(honest, knowledge(seed))


def on_vehicles(knowledge):
    """Masks of the cells close to the centre of a vehicle, and of those far from all vehicles."""
    known = knowledge(0)
    grid = known.grid
    x = grid.x_min + (np.arange(grid.width) + 0.5) * grid.cell
    y = grid.y_min + (np.arange(grid.height) + 0.5) * grid.cell
    centres = known.vehicles[:, :2]
    to = np.hypot(x[None, None] - centres[:, 0, None, None], y[None, :, None] - centres[:, 1, None, None])
    half_width = known.vehicles[:, 4] / 2
    longest = np.hypot(*known.vehicles[:, 3:5].T) / 2 + 2.0
    inside = (to < half_width[:, None, None]).any(axis=0)
    outside = (to > longest[:, None, None]).all(axis=0)
    return inside, outside


def found(network, statement, boxes):
    """How many of the boxes the liar's own network finds in its map."""
    detected = network.sender.prepare(statement.bev).boxes
    return int((bev_iou(boxes, detected.boxes[detected.scores > 0.3]) > 0.3).any(axis=1).sum())


@pytest.mark.parametrize('name', PLAIN)
def test_a_lie_is_drawn_from_its_seed(name, honest, knowledge):
    first, again = (lie(name, honest, knowledge) for _ in range(2))
    np.testing.assert_array_equal(first.bev.feature, again.bev.feature)
    np.testing.assert_array_equal(first.bev.density, again.bev.density)
    np.testing.assert_array_equal(first.pose, again.pose)
    if name in ('spoof', 'noise', 'noise_on_vehicles', 'pose_5m'):
        other = lie(name, honest, knowledge, seed=1)
        same = (first.bev.feature == other.bev.feature).all() and (first.pose == other.pose).all()
        assert not same


@pytest.mark.parametrize('name', PLAIN)
def test_a_lie_travels_as_any_map(name, honest, knowledge):
    bev = lie(name, honest, knowledge).bev
    decoded = codec.decode(codec.encode(bev), *bev.feature.shape)
    step = np.abs(bev.feature).max() / 127
    assert np.abs(decoded.feature - bev.feature).max() <= 0.51 * step


def test_spoofed_vehicles_are_copies_where_there_are_none(honest, knowledge, network):
    known = knowledge(0)
    said = lie('spoof', honest, knowledge)
    ghosts = said.boxes.boxes[~(said.boxes.boxes[:, None] == honest.boxes.boxes[None]).all(-1).any(1)]
    assert len(ghosts) == GHOSTS
    assert not bev_iou(ghosts, known.vehicles).any()
    assert len(said.boxes) == len(honest.boxes) + GHOSTS
    # Every one is a real vehicle, moved by whole cells, with the features that it has.
    cell = known.grid.cell
    for ghost in ghosts:
        alike = known.vehicles[(known.vehicles[:, 2:] == ghost[2:]).all(axis=1)]
        moves = (ghost[:2] - alike[:, :2]) / cell
        assert np.abs(moves - moves.round()).max(axis=1).min() < 1e-6
        right, down = moves[np.abs(moves - moves.round()).max(axis=1).argmin()].round().astype(int)
        column, row = ((ghost[:2] - [known.grid.x_min, known.grid.y_min]) / cell).astype(int)
        np.testing.assert_array_equal(
            said.bev.feature[:, row, column], honest.bev.feature[:, row - down, column - right]
        )
    changed = (said.bev.feature != honest.bev.feature).any(axis=0)
    assert 0 < changed.mean() < 0.1
    assert found(network, honest, ghosts) <= 1
    assert found(network, said, ghosts) >= 0.7 * GHOSTS


def test_erased_vehicles_are_not_found_any_more(honest, knowledge, network):
    known = knowledge(0)
    said = lie('removal', honest, knowledge)
    assert len(said.boxes) == 0
    assert found(network, honest, known.vehicles) >= 5
    assert found(network, said, known.vehicles) <= 1
    np.testing.assert_array_equal(said.bev.density, honest.bev.density)
    outside = on_vehicles(knowledge)[1]
    np.testing.assert_array_equal(said.bev.feature[:, outside], honest.bev.feature[:, outside])


def test_noise_keeps_to_the_honest_range(honest, knowledge):
    said = lie('noise', honest, knowledge).bev
    low, high = (getattr(honest.bev.feature, end)(axis=(1, 2)) for end in ('min', 'max'))
    assert (said.feature.min(axis=(1, 2)) >= low - 1e-6).all()
    assert (said.feature.max(axis=(1, 2)) <= high + 1e-6).all()
    used = high > low
    np.testing.assert_allclose(said.feature.mean(axis=(1, 2))[used], ((low + high) / 2)[used], atol=0.5)
    assert (said.density > 0).all()


def test_saturated_and_scaled_maps(honest, knowledge):
    full = lie('saturation', honest, knowledge).bev
    assert (full.feature == honest.bev.feature.max(axis=(1, 2))[:, None, None]).all()
    assert (full.density > 0).all()
    scaled = lie('scale', honest, knowledge).bev
    np.testing.assert_array_equal(scaled.feature, 10 * honest.bev.feature)
    np.testing.assert_array_equal(scaled.density, honest.bev.density)
    # So the boxes are those of the scaled map.
    assert lie('scale', honest, knowledge).boxes is None


@pytest.mark.parametrize('name', ['noise_on_vehicles', 'maximum_on_vehicles'])
def test_only_vehicles_change(name, honest, knowledge):
    said = lie(name, honest, knowledge).bev
    inside, outside = on_vehicles(knowledge)
    assert inside.any()
    assert (said.feature[:, inside] != honest.bev.feature[:, inside]).any(axis=0).all()
    np.testing.assert_array_equal(said.feature[:, outside], honest.bev.feature[:, outside])
    np.testing.assert_array_equal(said.density[outside], honest.bev.density[outside])


def test_pasted_vehicles_are_everywhere(honest, knowledge, network):
    said = lie('paste', honest, knowledge)
    detected = network.sender.prepare(said.bev).boxes
    assert len(detected) > 3 * len(honest.boxes)
    x, y = detected.boxes[:, :2].T
    grid = knowledge(0).grid
    halves = [(x < 0).mean(), (y < 0).mean()]
    assert 0.3 < min(halves) <= max(halves) < 0.7
    assert np.abs(said.boxes.boxes[:, 0]).max() <= grid.x_max + grid.cell


@pytest.mark.parametrize('yaw', [0.0, np.pi / 4, np.pi / 2])
def test_pasted_boxes_are_merged_around_the_ego(yaw, honest, knowledge, network):
    known = knowledge(0)
    vehicles = known.vehicles.copy()
    vehicles[:, 6] = yaw
    said = ATTACKS['paste'].lie(honest, replace(known, vehicles=vehicles))
    sent, decoding = said.boxes, network.card.decoding
    assert not np.triu(bev_iou(sent.boxes, sent.boxes), 1).any()
    nothing = Boxes3D.empty()
    merged = merge_boxes(nothing, [sent], [known.ego_pose, honest.pose], decoding).boxes
    assert len(merged) >= min(len(sent), decoding.max_boxes) - 1
    assert (np.abs(merged[:, :2]) < 20).all(axis=1).sum() >= 15


@pytest.mark.parametrize('name', ['spoof', 'paste'])
def test_boxes_are_invented_where_no_vehicle_was_sensed(name, honest, knowledge):
    empty = BevFeature(np.zeros_like(honest.bev.feature), np.zeros_like(honest.bev.density))
    blind = replace(honest, bev=empty, boxes=Boxes3D.empty())
    assert len(ATTACKS[name].lie(blind, knowledge(0)).boxes) >= GHOSTS


@pytest.mark.parametrize(('name', 'metres', 'degrees'), [('pose_5m', 5, 0), ('pose_30deg', 0, 30)])
def test_stated_poses_are_off(name, metres, degrees, honest, knowledge):
    said = lie(name, honest, knowledge)
    offset = inverse(honest.pose) @ said.pose
    assert np.hypot(*offset[:2, 3]) == pytest.approx(metres, abs=0.05)
    assert abs(np.degrees(yaw_of(offset))) == pytest.approx(degrees, abs=0.5)
    assert said.bev is honest.bev


def test_what_others_sensed_is_sent(honest, knowledge, say):
    theirs = say(3)
    other = lie('other_place', honest, knowledge)
    np.testing.assert_array_equal(other.bev.feature, theirs.bev.feature)
    np.testing.assert_array_equal(other.pose, honest.pose)
    earlier = lie('replay', honest, knowledge)
    np.testing.assert_array_equal(earlier.bev.feature, theirs.bev.feature)
    np.testing.assert_array_equal(earlier.pose, theirs.pose)


def test_sybils_stand_on_the_ego_and_take_a_place(honest, knowledge, frame):
    said = lie('sybils', honest, knowledge)
    np.testing.assert_array_equal(said.pose, frame.agents[frame.ego].pose)
    assert (said.bev.density > 0).sum() == 1
    assert len(said.boxes) == 0
    assert ATTACKS['sybils'].names == 4


def test_so_many_of_the_neighbours_lie():
    drives = [f'drive_{k}' for k in range(200)]
    neighbours = [2, 3, 5, -1]
    one, two = ([Liars(4, k).among(neighbours, 0, drive) for drive in drives] for k in (1, 2))
    assert {len(each) for each in one} == {1}
    assert {len(each) for each in two} == {2}
    assert all(set(few) < set(many) for few, many in zip(one, two, strict=True))
    counts = [sum(agent in each for each in one) for agent in neighbours]
    assert min(counts) > 25
    assert [Liars(4, 1).among(neighbours[::-1], 0, drive) for drive in drives] == one
    assert [Liars(4, 1).among(neighbours, 1, drive) for drive in drives] != one
    assert str(Liars(4, 2)) == '2of4'


def test_ghosts_stay_around_the_ego(honest, knowledge, frame):
    ghosts = lie('spoof', honest, knowledge).boxes.boxes[:GHOSTS]
    to_ego = inverse(frame.agents[frame.ego].pose) @ honest.pose
    x, y = transform_boxes(to_ego, ghosts)[:, :2].T
    assert np.abs(x).max() < 41
    assert np.abs(y).max() < 21


def test_without_a_map_of_the_ego_nothing_is_optimised(honest, knowledge):
    def optimiser(*_):
        raise AssertionError('called')

    known = replace(knowledge(0), others=list, optimiser=optimiser)
    assert ATTACKS['pgd_removal'].lie(honest, known).bev is honest.bev
