# SPDX-License-Identifier: Apache-2.0
"""Where the vehicles of a late sweep are now."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.layered import LayeredCooperation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import Perceiver
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import ground_truth_in, transform_boxes
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.overlap import bev_iou
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.runtime.card import MOST_REMEMBERED
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.link.motion import Motion, Track, Tracks, displaced, moved_map
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

TENTH = 100_000_000
GRID = BevGrid(-12.8, -6.4, -3.0, 12.8, 6.4, 1.0, 16, 32)


def cars(*places: tuple[float, float, float]) -> np.ndarray:
    """Cars at x, y with a yaw."""
    return np.array([[x, y, 0.0, 4.0, 2.0, 1.5, yaw] for x, y, yaw in places]).reshape(-1, 7)


def eastward(boxes: np.ndarray, metres: float) -> np.ndarray:
    return boxes + np.eye(7)[0] * metres


def followed(*sweeps: np.ndarray) -> np.ndarray:
    """Velocities of the boxes of the last of these sweeps, a tenth of a second apart."""
    track = Track()
    for number, boxes in enumerate(sweeps):
        track.add(number * TENTH, boxes)
    return track.velocities((len(sweeps) - 1) * TENTH, sweeps[-1])


def test_velocities_of_noisy_boxes_and_none_of_those_that_stand() -> None:
    noise, driven = np.random.default_rng(0), np.array([12.0, -7.0, 3.0, 0.0, 0.0, 0.0])
    yaws = np.array([0.0, 1.0, -2.5, 0.3, 1.5, -1.0])
    velocity = driven[:, None] * np.stack((np.cos(yaws), np.sin(yaws)), axis=1)
    start = np.stack((np.arange(6) * 15.0, np.arange(6) * -4.0), axis=1)
    errors, stood = [], []
    for _ in range(50):
        sweeps = []
        for number in range(6):
            places = start + 0.1 * number * velocity + noise.normal(0, 0.1, (6, 2))
            sweeps.append(cars(*zip(*places.T, yaws, strict=True)))
        found = followed(*sweeps)
        errors.append(np.hypot(*(found - velocity)[:3].T))
        stood.append(found[3:])
    assert np.mean(errors) < 0.4
    assert np.mean(np.hypot(*np.array(stood).reshape(-1, 2).T) > 0) < 0.02


def test_a_box_that_is_turned_round_keeps_its_velocity() -> None:
    sweeps = [cars((1.2 * k, 0.0, np.pi * (k % 2))) for k in range(6)]
    np.testing.assert_allclose(followed(*sweeps), [[12.0, 0.0]], atol=1e-6)


def test_vehicles_of_a_queue_are_not_taken_for_each_other() -> None:
    """They are 6 m apart and drive 2 m from sweep to sweep; the first leaves the view, another enters it."""
    sweeps = [cars(*((2.0 * k - 6.0 * n, 0.0, 0.0) for n in range(k, k + 4))) for k in range(5)]
    np.testing.assert_allclose(followed(*sweeps)[:3], [[20.0, 0.0]] * 3, atol=1e-6)


def test_what_is_seen_for_the_first_time_or_crosses_the_path_of_another_stands() -> None:
    first = cars((0.0, 0.0, 0.0))
    for other in ((0.2, 2.0, 0.0), (6.0, 0.0, 0.0), (0.0, 4.0, np.pi / 2), (2.5, 2.5, np.pi / 4)):
        assert not followed(first, cars(other)).any()


def test_a_lost_sweep_is_bridged_and_a_long_gap_is_not() -> None:
    for gap, velocity in ((2, 10.0), (7, 0.0)):
        track = Track()
        for number in (0, 1, 2, 2 + gap):
            track.add(number * TENTH, cars((1.0 * number, 0.0, 0.0)))
        found = track.velocities((2 + gap) * TENTH, cars((2.0 + gap, 0.0, 0.0)))
        np.testing.assert_allclose(found, [[velocity, 0.0]], atol=1e-6)


def test_sweeps_out_of_order_change_nothing() -> None:
    track = Track()
    for number in (0, 2, 1, 3):
        track.add(number * TENTH, cars((1.0 * number, 0.0, 0.0)))
    np.testing.assert_allclose(track.velocities(3 * TENTH, cars((3.0, 0.0, 0.0))), [[10.0, 0.0]], atol=1e-6)
    assert not track.velocities(TENTH, cars((1.0, 0.0, 0.0))).any()


def test_more_boxes_of_a_sweep_that_arrive_later_are_followed_too() -> None:
    track, second = Track(), cars((50.0, 0.0, 0.0))
    for number in range(4):
        first = cars((1.0 * number, 0.0, 0.0))
        track.add(number * TENTH, first)
        both = np.concatenate((eastward(second, 2.0 * number), first))
        track.add(number * TENTH, both)
    velocities = track.velocities(3 * TENTH, both)
    np.testing.assert_allclose(velocities, [[20.0, 0.0], [10.0, 0.0]], atol=1e-6)
    # Of other boxes under the same stamp nothing is known.
    assert not track.velocities(3 * TENTH, both[::-1].copy()).any()


def test_what_strangers_invent_is_bounded() -> None:
    """Neither stamps that are close to each other nor many boxes make vehicles fast or matching slow."""
    track = Track()
    for stamp, x in ((0, 0.0), (1, 4.0), (2, 8.0)):
        track.add(stamp, cars((x, 0.0, 0.0)))
    assert not track.velocities(2, cars((8.0, 0.0, 0.0))).any()
    many = cars(*((10.0 * k, 0.0, 0.0) for k in range(255)))
    track = Track()
    for number in range(4):
        track.add(number * TENTH, eastward(many, number))
    assert all(len(sweep.boxes) == 100 for sweep in track.sweeps)
    found = track.velocities(3 * TENTH, eastward(many, 3.0))
    np.testing.assert_allclose(found[:100], np.tile([10.0, 0.0], (100, 1)), atol=1e-6)
    assert not found[100:].any()


def received(boxes: np.ndarray | None) -> ReceivedMap:
    found = None if boxes is None else Boxes3D(boxes, scores=np.full(len(boxes), 0.9))
    return ReceivedMap(found, np.full((4, 8), -1, np.int16), np.full((1, 16, 32), -1, np.int16), {})


def test_displacements_are_those_since_the_senders_sweep_in_its_own_frame() -> None:
    """The sender drives, too, and looks to the left of where the map's x axis points."""
    tracks = Tracks()
    for number in range(4):
        sender = pose_from_euler((3.0, 2.0 * number, 0.0), yaw=np.pi / 2)
        map_boxes = cars((1.0 * number, 5.0, 0.0), (20.0, 30.0, 0.5))
        theirs = transform_boxes(np.linalg.inv(sender), map_boxes)
        motion = Motion(tracks, ['b', 'c', 'd'], [(number + 3) * TENTH, *3 * [number * TENTH]])
        maps, poses = [received(theirs), received(None), received(theirs)], [np.eye(4), *3 * [sender]]
        offsets = motion.note(maps, poses, [0, 1])
    assert offsets[1:] == [None, None]
    # 10 m/s for 0.3 s along the map's x axis, which is to the sender's right.
    np.testing.assert_allclose(offsets[0], [[0.0, -3.0], [0.0, 0.0]], atol=1e-6)
    moved = displaced(received(theirs).boxes, offsets[0])
    assert moved is not None
    np.testing.assert_allclose(transform_boxes(sender, moved.boxes)[0, :2], [6.0, 5.0], atol=1e-6)
    # However late, by no more than 0.45 s.
    (offset,) = replace(motion, agents=['b'], stamps=[40 * TENTH, 3 * TENTH]).note(maps[:1], poses[:2])
    assert offset is not None
    np.testing.assert_allclose(offset[0], [0.0, -4.5], atol=1e-6)


def test_names_are_few_and_nothing_is_known_after_time_jumped_back() -> None:
    tracks = Tracks()

    def known(agents: list[int], now: int) -> list[int]:
        found = [len(track.sweeps) for track in tracks.of(agents, now)]
        for track in tracks.of(agents, now):
            track.add(now, cars((0.0, 0.0, 0.0)))
        return found

    for agent in range(MOST_REMEMBERED + 1):
        assert known([agent], 0) == [0]
    assert known([0, 5], 1) == [0, 1]
    # As many as are fused at once, whatever their number.
    every = list(range(2 * MOST_REMEMBERED))
    known(every, 2)
    assert min(known(every, 3)) == 1
    assert known([5], 2) == [0]


def test_a_map_moves_with_its_vehicles() -> None:
    """By whole cells, cell for cell; the standing vehicle and all else stay."""
    draw = np.random.default_rng(1)
    feature = draw.normal(size=(3, 16, 32)).astype(np.float32)
    whole = BevFeature(feature, np.ones((16, 32), np.float32))
    boxes = Boxes3D(cars((-8.0, 0.0, 0.0), (6.4, 3.0, 0.0)), scores=np.array([0.9, 0.8]))
    moved = moved_map(whole, boxes, np.array([[4.8, 0.0], [0.0, 0.0]]), GRID)
    # The car's cells with a margin of one: columns 2 to 9 and rows 6 to 9; 4.8 m are six columns.
    np.testing.assert_allclose(moved.feature[:, 6:10, 9:14], feature[:, 6:10, 3:8], atol=1e-6)
    changed = (moved.feature != feature).any(axis=0)
    assert not changed[:, 16:].any()
    assert not changed[:5].any()
    assert not changed[11:].any()
    left = moved.density == 0
    assert left[7:9, 3:8].all()
    assert not left[:, 9:].any()
    assert not moved.feature[:, left].any()
    assert moved_map(whole, boxes, np.zeros((2, 2)), GRID) is whole


def test_between_cells_a_map_is_interpolated() -> None:
    """Along the rows of a map that rises evenly, a shift by any length is a difference of values."""
    rising = np.tile(np.arange(32, dtype=np.float32), (1, 16, 1))
    boxes = Boxes3D(cars((0.0, 0.0, 0.0)), scores=np.array([0.9]))
    moved = moved_map(BevFeature(rising, np.ones((16, 32), np.float32)), boxes, np.array([[0.3, 0.0]]), GRID)
    np.testing.assert_allclose(moved.feature[0, 7:9, 15:18], rising[0, 7:9, 15:18] - 0.3 / 0.8, atol=1e-5)


def test_vehicles_of_late_messages_are_found_where_they_are(shipped_model) -> None:
    """Messages are late by 0.2 s: as many that drive are found well as of messages that are not late."""
    drive = Simulator(SimulatorConfig(agents=3, frames_per_scenario=14), seed=3).scenario(2)
    frames = [CleanFrame(drive.frame(position)) for position in range(14)]
    model, late = Model(shipped_model), Condition('delay', 2, who='neighbours')

    def found_well(condition: Condition, *, follows: bool = True) -> float:
        perceiver, overlaps = Perceiver(LayeredCooperation(model), condition), []
        for position, frame in enumerate(frames):
            seen = perceiver.take(frame)
            if not follows:
                perceiver._cooperation._tracks.clear()
            found = perceiver.perceive(frame, seen).detection.boxes.boxes
            if position > 6:
                overlaps += bev_iou(driving_in(drive, position), found).max(axis=1, initial=0).tolist()
        assert len(overlaps) > 50
        return float(np.mean(np.array(overlaps) >= 0.7))

    clean = found_well(Condition(CLEAN))
    assert found_well(late) > 0.9 * clean
    assert found_well(late, follows=False) < 0.5 * clean


def driving_in(drive, position: int) -> np.ndarray:
    """Boxes (n, 7) in the ego's frame of the vehicles that move by more than half a metre in 0.1 s."""
    frame, before = drive.frame(position), drive.frame(position - 1)
    now, then = (ground_truth_in(each, each.ego) for each in (frame, before))
    pose, earlier = frame.agents[frame.ego].pose, before.agents[before.ego].pose
    places = dict(zip(then.track_ids, transform_boxes(earlier, then.boxes)[:, :2], strict=True))
    moved = [
        np.hypot(*(place - places.get(track, place))) > 0.5
        for track, place in zip(now.track_ids, transform_boxes(pose, now.boxes)[:, :2], strict=True)
    ]
    return now.boxes[np.array(moved, bool)]
