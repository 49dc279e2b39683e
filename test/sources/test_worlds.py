# SPDX-License-Identifier: Apache-2.0
"""The two simulated worlds: that of version 0.1 is unchanged; the varied one holds what it says."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diffkd_ros.geometry.boxes import count_points
from diffkd_ros.geometry.overlap import bev_iou
from diffkd_ros.geometry.poses import euler_from_pose, inverse, transform_points
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.simulator.intensity import LAWS
from diffkd_ros.sources.simulator.sensors import DRAWN, SENSORS
from diffkd_ros.sources.simulator.traffic import COUPLING

VARIED = SimulatorConfig(world='varied', frames_per_scenario=40)


@pytest.fixture(scope='module')
def scenarios():
    return [Simulator(VARIED, 3).scenario(k) for k in range(24)]


def table(heading):
    """Rows of the first table below a heading of the page on the simulator, as lists of cells."""
    page = (Path(__file__).parents[2] / 'docs' / 'simulator.md').read_text()
    lines = page.split(f'## {heading}\n')[1].split('\n## ')[0].splitlines()
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines if line.startswith('| `')]


def test_documented_sensors_and_laws():
    rows = {row[0].strip('`'): row for row in table('Sensors')}
    assert list(rows) == list(SENSORS)
    for name, model in SENSORS.items():
        _, _, rings, elevations, columns, limit, drawn, _ = rows[name]
        assert int(rings) == len(model.elevations)
        ends = [
            float(number) for number in re.findall(r'-?\d+\.?\d*', elevations.replace('\N{MINUS SIGN}', '-'))
        ]
        assert ends[0] == pytest.approx(model.elevations[0], abs=0.005)
        assert pytest.approx(model.elevations[-1], abs=0.005) in ends
        assert columns == ', '.join(map(str, model.columns))
        assert limit == ' to '.join(f'{end:g}' for end in dict.fromkeys(model.max_range))
        assert drawn == (f'{DRAWN[name]:g}' if name in DRAWN else 'held out')
    assert set(re.findall(r'`([^`]+)`', ' '.join(row[0] for row in table('Intensity laws')))) == set(LAWS)


def of_layout(layout, count=6, **changes):
    config = VARIED.model_copy(update={'layouts': {layout: 1.0}, **changes})
    return [Simulator(config, 5).scenario(k) for k in range(count)]


def test_the_world_of_0_1_is_unchanged():
    """Returns, their sums and boxes of three frames, as computed by version 0.1."""
    frames = {
        0: (
            [29339, 28606, 29398],
            [31534.262, 9282.617, -7590.025, 7266.261],
            40, 24466, [-305.519, -311.057, 41.941, 201.522, 76.445, 62.032, 118.629],
        ),
        1: (
            [30631, 30443, 30879],
            [29528.662, 17220.474, -16394.664, 4623.549],
            52, 13340, [-451.097, 261.811, 54.367, 273.529, 100.547, 85.543, 197.388],
        ),
        2: (
            [29832, 29723, 29579],
            [-33182.545, 55381.134, -12650.658, 4980.048],
            45, 16913, [-162.675, -50.907, 46.431, 222.159, 85.429, 71.730, 139.422],
        ),
    }  # fmt: skip
    simulator = Simulator(SimulatorConfig(), 3)
    for index, (returns, sums, boxes, hits, box_sums) in frames.items():
        frame = simulator.scenario(index).frame(50)
        # A return may be lost or won where another processor rounds differently.
        assert [len(sweep.points) for sweep in frame.agents.values()] == pytest.approx(returns, abs=2)
        assert frame.agents[1].points.astype(float).sum(axis=0) == pytest.approx(sums, rel=1e-3)
        assert len(frame.ground_truth) == boxes
        assert frame.ground_truth.num_points.sum() == pytest.approx(hits, abs=3)
        assert frame.ground_truth.boxes.sum(axis=0) == pytest.approx(box_sums, abs=2e-3)


def test_same_seed_same_bytes_in_any_order():
    first, again = (Simulator(VARIED, 5).scenario(2) for _ in range(2))
    in_order = [first.frame(k) for k in range(6)]
    for k in (4, 1, 5, 1):
        frame = again.frame(k)
        assert frame.ground_truth.boxes.tobytes() == in_order[k].ground_truth.boxes.tobytes()
        for agent, sweep in frame.agents.items():
            assert sweep.points.tobytes() == in_order[k].agents[agent].points.tobytes()
    names = {Simulator(SimulatorConfig(world=world), 5).scenario(2).name for world in ('basic', 'varied')}
    assert names == {'simulated_5_2', 'varied_5_2'}


def test_agents_of_one_frame_have_different_sensors(scenarios):
    rings = [{len(lidar.elevations) for lidar in scenario.lidars} for scenario in scenarios]
    assert np.mean([len(each) > 1 for each in rings]) > 0.5
    assert {16, 32, 64, 128} <= set().union(*rings)
    laws = {(lidar.law.kind, lidar.law.gain, lidar.law.steps) for s in scenarios for lidar in s.lidars}
    assert len(laws) > 20


def test_no_two_bodies_of_vehicles_overlap(scenarios):
    for scenario in scenarios[:12]:
        walkers = [vehicle.kind.name != 'pedestrian' for vehicle in scenario.vehicles]
        sizes = np.array([vehicle.size for vehicle in scenario.vehicles])[walkers]
        for motion in scenario.motion[::13]:
            at = motion[walkers]
            boxes = np.column_stack([at[:, :2], np.zeros(len(sizes)), sizes, at[:, 2]])
            iou = bev_iou(boxes, boxes)
            np.fill_diagonal(iou, 0)
            assert iou.max() == 0


def test_trailers_follow_their_tractors():
    """Coupled at a constant gap, both on the path: nearly in line, as long vehicles do not turn off."""
    pairs = 0
    for scenario in of_layout('straight', 10):
        kinds = [vehicle.kind.name for vehicle in scenario.vehicles]
        length = np.array([vehicle.size[0] for vehicle in scenario.vehicles])
        for trailer in np.flatnonzero(np.array(kinds) == 'trailer'):
            gaps = {}
            for tractor in np.flatnonzero(np.array(kinds) == 'tractor'):
                apart = scenario.motion[:, tractor] - scenario.motion[:, trailer]
                distance = np.hypot(apart[:, 0], apart[:, 1])
                gaps[tractor] = distance - (length[tractor] + length[trailer]) / 2 - COUPLING
            mine = min(gaps, key=lambda k: np.abs(gaps[k]).max())
            assert np.abs(gaps[mine]).max() < 0.05
            heading = scenario.motion[:, trailer, 2]
            ahead = scenario.motion[:, mine, :2] - scenario.motion[:, trailer, :2]
            along = ahead[:, 0] * np.cos(heading) + ahead[:, 1] * np.sin(heading)
            assert along.min() > 0
            pairs += 1
    assert pairs >= 3


def test_returns_of_vehicles_lie_in_their_boxes(scenarios):
    """Also on slopes, with sensors of all kinds: what is counted lies within 0.3 m of the box.

    Where sensor or vehicle moves during the turn, returns of fast vehicles lie up to a metre off.
    """
    counted = inside = raw = 0
    for scenario in scenarios[:12]:
        frame = scenario.frame(20)
        truth = frame.ground_truth
        swollen = truth.boxes + np.array([0, 0, 0, 0.6, 0.6, 0.6, 0])
        tight = truth.boxes + np.array([0, 0, 0, 0.1, 0.1, 0.1, 0])
        points = np.concatenate([transform_points(s.pose, s.points) for s in frame.agents.values()])
        points = points[:, :3].astype(np.float64)
        counted += truth.num_points.sum()
        inside += np.minimum(count_points(points, swollen), truth.num_points).sum()
        raw += np.minimum(count_points(points, tight), truth.num_points).sum()
    assert inside > 0.97 * counted
    assert 0.8 * counted < raw < inside


def test_clutter_is_not_labelled(scenarios):
    kinds, labelled = Counter(), Counter()
    for scenario in scenarios:
        truth = scenario.frame(0).ground_truth
        kinds.update(vehicle.kind.name for vehicle in scenario.vehicles)
        labelled.update(scenario.vehicles[track - 1].kind.name for track in truth.track_ids)
    clutter = {'motorcycle', 'bicycle', 'pedestrian'}
    assert clutter | {'compact', 'sedan', 'suv', 'van', 'truck', 'bus', 'tractor', 'trailer'} == set(kinds)
    assert not clutter & set(labelled)
    assert labelled['trailer'] > 0


def test_pedestrians_walk_on_the_pavement():
    for scenario in of_layout('four_way', 4):
        people = [k for k, vehicle in enumerate(scenario.vehicles) if vehicle.kind.name == 'pedestrian']
        steps = np.diff(scenario.motion[:, people, :2], axis=0) * 10
        pace = np.hypot(steps[..., 0], steps[..., 1])
        assert pace.max(initial=0.0) < 1.8
        np.testing.assert_allclose(pace, scenario.speed[1:, people], atol=1e-6)


def test_road_side_units():
    """In about a third of the drives; points in a levelled frame, 2 m above the ground, below the sensor."""
    posts = 0
    for number in range(30):
        scenario = Simulator(VARIED.model_copy(update={'sensor': 'opv2v'}), 8).scenario(number)
        if scenario.post is None:
            continue
        posts += 1
        frame = scenario.frame(3)
        assert list(frame.agents) == [1, 2, -1]
        sweep = frame.agents[-1]
        roll, pitch, yaw = euler_from_pose(sweep.pose)
        assert (roll, pitch) == (0.0, 0.0)
        x, y, z = scenario.post.pose[:3, 3]
        assert 4.0 <= z - scenario.ground.height(x, y) <= 7.0
        _, tilt, facing = euler_from_pose(scenario.post.pose)
        assert 0.0 <= tilt <= np.radians(26)
        assert np.cos(facing - yaw) > 0.999
        # Its returns are where the sensor on the post measured them: none above its highest ring.
        seen = transform_points(inverse(scenario.post.pose) @ sweep.pose, sweep.points)
        elevation = np.degrees(np.arctan2(seen[:, 2], np.hypot(seen[:, 0], seen[:, 1])))
        assert elevation.min() > -25.01
        assert elevation.max() < 2.01
        ground = sweep.points[np.abs(sweep.points[:, 2] + 2.0) < 0.8]
        assert len(ground) > 0.2 * len(sweep.points)
    assert 4 <= posts <= 16


def test_straight_roads_have_a_long_sight():
    """Vehicles are hit more than 100 m away, and ground or buildings at 140 m."""
    farthest = vehicles = 0.0
    for scenario in of_layout('straight', 5, sensor='pandar64'):
        sweep = scenario.frame(5).agents[1]
        farthest = max(farthest, np.linalg.norm(sweep.points[:, :3], axis=1).max())
        ego = scenario.motion[5, 0, :2]
        vehicles = max(vehicles, np.hypot(*(scenario.motion[5, :, :2] - ego).T).max())
    assert farthest > 125.0
    assert vehicles > 140.0


def test_car_parks_are_full_and_queues_are_dense():
    parked = [np.sum(s.speed.max(axis=0) == 0) for s in of_layout('car_park', 6)]
    assert np.mean(parked) > 25
    dense = 0
    for scenario in of_layout('straight', 8):
        moving = np.flatnonzero((scenario.speed.max(axis=0) > 0) & (scenario.speed.mean(axis=0) < 5))
        dense += len(moving) > 30
    assert dense >= 1


def test_ground_slopes_and_vehicles_lie_on_it(scenarios):
    steepest = 0.0
    for scenario in scenarios[:8]:
        near = scenario.ground.heights[130:231, 130:231]
        steepest = max(steepest, np.abs(near[:, -1] - near[:, 0]).max() / 100)
        frame = scenario.frame(0)
        boxes = frame.ground_truth.boxes
        foot = boxes[:, 2] - boxes[:, 5] / 2 - scenario.ground.at(boxes[:, 0], boxes[:, 1])
        # A body begins 0.2 to 0.45 m above the ground.
        assert foot.min() > 0.1
        assert foot.max() < 0.75
    assert 0.02 < steepest < 0.08


def test_a_recipe_selects_the_world():
    """Samples with any agent as ego, road-side units included, have vehicles to find."""
    pytest.importorskip('torch', reason='training needs the train extra')
    from diffkd_ros.geometry.grid import BevGrid
    from diffkd_ros.training.data import Samples
    from diffkd_ros.training.recipe import Data

    data = Data(simulator={'world': 'varied', 'frames_per_scenario': 10}, batch=1)
    grid = BevGrid(-51.2, -25.6, -3.0, 51.2, 25.6, 1.0, 64, 128)
    samples = Samples(data, grid, 0, range(12))
    targets = [samples[k] for k in range(12)]
    assert np.mean([sample.target.foreground.sum() for sample in targets]) > 5
    # In every agent's frame the ground is 1 to 3 m below, in the grid's range of heights.
    heights = [np.median(cloud[cloud[:, 2] < -0.8, 2]) for sample in targets for cloud in sample.clouds]
    assert -3.0 < np.mean(heights) < -1.4
