# SPDX-License-Identifier: Apache-2.0
"""`diffkd data check` and `evaluate` on miniature sets in the layouts of five public data sets.

Each is the same simulated traffic, so that what is read must be what was simulated.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from public_sets import (
    dump,
    entry,
    write_coloured,
    write_dair_like,
    write_opv2v_like,
    write_v2v4real_like,
    write_v2xreal_like,
)
from rich.console import Console
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.evaluation.conditions import make_conditions
from diffkd_ros.evaluation.evaluate import evaluate
from diffkd_ros.evaluation.run import Plan
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.geometry.poses import inverse
from diffkd_ros.metrics.protocol import PROTOCOLS
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.source import Source, recognise

BICYCLE = {901: entry((30, 4, 1), 0, (0, 0, 0))}


def renamed(frame, ids):
    """A frame of some of the agents under other ids, which their boxes get too; no return on the own body."""
    truth = frame.ground_truth
    agents = {}
    for old, new in ids.items():
        points = frame.agents[old].points.copy()
        points[:, 3] = np.round(255 * points[:, 3]) / np.float32(255)
        if new < 0:
            points = points[np.abs(points[:, :2]).max(axis=1) > 3]
        agents[new] = replace(frame.agents[old], points=points, ring=None, time=None)
    # The vehicle that carries the road-side unit's sensor is a vehicle like any other.
    vehicles = {old: new for old, new in ids.items() if new >= 0}
    tracks = np.array([vehicles.get(track, 100 + track) for track in truth.track_ids.tolist()])
    return replace(
        frame, agents=agents, ego=next(iter(agents)), ground_truth=replace(truth, track_ids=tracks)
    )


@pytest.fixture(scope='module')
def simulated():
    scenario = Simulator(
        SimulatorConfig(agents=3, frames_per_scenario=2, communication_range=45), seed=5
    ).scenario(0)
    return [scenario.frame(k) for k in range(2)]


def write(kind, root, frames):
    """Write the frames, and return the source and those that should be read."""
    if kind == 'opv2v':
        frames = [renamed(frame, {1: 641, 2: 650, 3: 659}) for frame in frames]
        write_opv2v_like(root / 'test', frames)
    elif kind == 'v2xset':
        frames = [renamed(frame, {1: 17, 2: 8, 3: -1}) for frame in frames]
        write_opv2v_like(
            root / 'test', frames, digits=5, more=lambda agent: {'vehicles': BICYCLE} if agent == 8 else {}
        )
    elif kind == 'v2v4real':
        frames = [renamed(frame, {1: 0, 2: 1}) for frame in frames]
        write_v2v4real_like(root / 'test', frames)
    elif kind == 'v2xreal':
        frames = [renamed(frame, {1: 1, 2: 2, 3: -1}) for frame in frames]
        write_v2xreal_like(root / 'test', frames)
    else:
        frames = [renamed(frame, {1: 1, 3: -1}) for frame in frames]
        write_dair_like(root / 'cooperative-vehicle-infrastructure', frames)
    return frames


SETS = {
    'opv2v': 'OPV2V',
    'v2xset': 'OPV2V',
    'v2v4real': 'V2V4Real',
    'v2xreal': 'V2X-Real',
    'dair': 'DAIR-V2X-C',
}


@pytest.fixture(params=SETS)
def data_set(request, simulated, tmp_path):
    """Kind of a set, its folder, and the frames in it."""
    return request.param, tmp_path, write(request.param, tmp_path, simulated)


def test_what_was_simulated_is_read(data_set):
    kind, root, frames = data_set
    source = Source(recognise(str(root)))
    read = list(source.frames())
    assert len(read) == 2
    for frame, wanted in zip(read, frames, strict=True):
        assert frame.ego == wanted.ego
        assert sorted(frame.agents) == sorted(wanted.agents)
        for agent, sweep in wanted.agents.items():
            points = sweep.points.copy()
            if kind == 'v2xreal':
                points[:, 3] = 0
            if agent >= 0 and kind != 'dair':
                x, y = points[:, 0], np.abs(points[:, 1])
                points = points[~((x >= -1.95) & (x <= 2.95) & (y <= 1.1))]
            np.testing.assert_allclose(frame.agents[agent].points, points, atol=1e-6)
            # Only where the agents are relative to each other matters.
            relative = inverse(wanted.agents[wanted.ego].pose) @ sweep.pose
            found = inverse(frame.agents[frame.ego].pose) @ frame.agents[agent].pose
            np.testing.assert_allclose(found, relative, atol=2e-5)
        truth, boxes = ground_truth_in(wanted, wanted.ego), ground_truth_in(frame, frame.ego)
        assert len(boxes) == len(truth) > 10
        order, found_order = (np.lexsort(part.boxes[:, :2].round(3).T) for part in (truth, boxes))
        np.testing.assert_allclose(boxes.boxes[found_order][:, :6], truth.boxes[order][:, :6], atol=1e-3)
        turn = boxes.boxes[found_order][:, 6] - truth.boxes[order][:, 6]
        np.testing.assert_allclose(np.sin(turn), 0, atol=1e-3)
        np.testing.assert_allclose(np.cos(turn), 1, atol=1e-3)


def test_objects_keep_their_ids_over_time(data_set):
    kind, root, _ = data_set
    first, second = (frame.ground_truth for frame in Source(recognise(str(root))).frames())
    if kind == 'dair':
        return  # the set does not track
    both = np.intersect1d(first.track_ids, second.track_ids)
    assert len(both) >= len(first) - 2
    moved = [
        np.linalg.norm(
            truth.boxes[truth.track_ids == track][0, :3] - other.boxes[other.track_ids == track][0, :3]
        )
        for truth, other in ((first, second),)
        for track in both.tolist()
    ]
    assert max(moved) < 4.0


def test_check(data_set):
    kind, root, frames = data_set
    done = CliRunner().invoke(app, ['data', 'check', str(root)])
    agents = len(frames[0].agents)
    assert f'{SETS[kind]}: 1 scenarios, 2 frames, {agents} agents, {2 * agents} sweeps' in done.output
    if kind == 'v2xset':
        # The bicycle of the first agent, in both frames.
        assert 'left out 2 times: an object without a size' in done.output
    else:
        assert done.exit_code == 0
        assert len(done.output.splitlines()) == 1


def test_evaluate(data_set, model, tmp_path):
    kind, root, _ = data_set
    source = Source(recognise(str(root)))
    assert source.protocol in PROTOCOLS
    # The range of the shipped model's grid.
    plan = Plan(tmp_path / 'out', source, model, 'sim')
    summary = evaluate(plan, make_conditions('none'), Console(quiet=True), draw=False).summary
    assert summary.frames == 2
    assert summary.truths > 20
    # The intensities of V2X-Real are not used.
    assert summary.clean.ap50 > (0.8 if kind == 'v2xreal' else 0.95)
    assert summary.run.left_out.frames == {}


def test_objects_without_an_association_are_objects_of_their_own(tmp_path):
    """Both agents number an object 3; neither is associated. The common object has two numbers."""
    folder = tmp_path / 'testoutput_CAV_data_1'
    for agent, x in ((0, 0.0), (1, 30.0)):
        pose = np.eye(4)
        pose[0, 3] = x
        vehicles = {
            3: entry((5, 9 + agent, 0), 0, (4, 2, 1.5), ass_id=-1),
            4 + agent: entry((20 - x, 0, 0), 90, (4, 2, 1.5), ass_id=12, obj_type='Truck'),
            8: entry((0, 0, -1), 0, (4, 2, 1.5), ass_id=agent),
        }
        dump(folder / str(agent) / '000000.yaml', {'lidar_pose': pose, 'vehicles': vehicles})
        write_coloured(folder / str(agent) / '000000.pcd', np.array([[20 - x, 0.5, 0, 0.2]], np.float32))
    [frame] = Source(f'v2v4real:{tmp_path}').frames()
    truth = frame.ground_truth
    ids = truth.track_ids.tolist()
    assert len(set(ids)) == len(ids) == 5
    # The boxes around the LiDARs are the agents; no other box is called 0 or 1.
    np.testing.assert_allclose([truth.boxes[ids.index(agent), 0] for agent in (0, 1)], [0, 30], atol=1e-9)
    [common] = np.flatnonzero(np.isclose(truth.boxes[:, 0], 20))
    np.testing.assert_allclose(truth.boxes[common], [20, 0, 0, 4, 2, 1.5, np.pi / 2], atol=1e-9)
    assert truth.num_points[common] == 2
    assert sorted(truth.boxes[:, 1].round(6).tolist()) == [0, 0, 0, 9, 10]


def test_clouds_of_v2x_real(simulated, tmp_path):
    write('v2xreal', tmp_path, simulated)
    folder = tmp_path / 'test' / '2023-03-17-15-53-02_1_0' / '2'
    cloud = folder / '000069.bin'
    cloud.write_bytes(cloud.read_bytes()[:-3])
    (folder / '000071.bin').unlink()
    done = CliRunner().invoke(app, ['data', 'check', f'v2xreal:{tmp_path}'])
    assert re.search(r'2/000069\.bin: \d+ bytes are not rows of four float32', done.output)
    assert '2/000071.bin: ' in done.output
    write_coloured(folder / '000071.pcd', np.array([[20, 5, 0, 0.2]], np.float32))
    [frame] = Source(f'v2xreal:{tmp_path}').frames()
    np.testing.assert_allclose(frame.agents[2].points, [[20, 5, 0, 0]])
