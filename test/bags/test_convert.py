# SPDX-License-Identifier: Apache-2.0
"""Frames of any source written as a bag, by the command a user types."""

from __future__ import annotations

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from typer.testing import CliRunner

from diffkd_ros.bags.convert import write_bag
from diffkd_ros.bags.writer import BagError
from diffkd_ros.cli import app
from diffkd_ros.evaluation.drives import Source
from diffkd_ros.evaluation.errors import ExperimentError
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.sources.opv2v import write_opv2v
from diffkd_ros.sources.restamping import SCENARIO_GAP
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.simulator import LidarConfig, Simulator, SimulatorConfig

CONFIG = SimulatorConfig(agents=2, frames_per_scenario=3, lidar=LidarConfig(columns=128))


@pytest.fixture(scope='module')
def frames():
    return list(Simulator(CONFIG, seed=8).frames(range(2)))


@pytest.fixture(scope='module')
def bag(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp('written') / 'bag'
    write_bag(frames, path)
    return path


def test_what_was_written_comes_back(frames, bag):
    dataset = RosbagDataset(bag)
    assert (dataset.agents, dataset.ego, dataset.incomplete) == ([1, 2], 1, 0)
    assert [(name, len(rows)) for name, rows in dataset.drives()] == [('bag_000', 3), ('bag_001', 3)]
    assert dataset[3].stamp - dataset[2].stamp == SCENARIO_GAP
    for back, frame in zip(dataset, frames, strict=True):
        for agent, sweep in frame.agents.items():
            for column in ('points', 'ring', 'time'):
                np.testing.assert_array_equal(getattr(back.agents[agent], column), getattr(sweep, column))
            np.testing.assert_allclose(back.agents[agent].pose, sweep.pose, atol=1e-9)
            np.testing.assert_allclose(back.agents[agent].velocity, sweep.velocity, atol=1e-9)
        truth, expected = ground_truth_in(back, 1), ground_truth_in(frame, 1)
        np.testing.assert_allclose(truth.boxes[:, :6], expected.boxes[:, :6], atol=1e-4)
        np.testing.assert_array_equal(truth.num_points, expected.num_points)


def test_viewers_find_every_lidar_in_the_map(frames, bag):
    with AnyReader([bag]) as reader:
        wanted = [connection for connection in reader.connections if connection.topic == '/tf']
        _, _, data = next(reader.messages(wanted))
        transforms = reader.deserialize(data, 'tf2_msgs/msg/TFMessage').transforms
    found = {t.child_frame_id: t for t in transforms}
    assert sorted(found) == ['cav_1/lidar', 'cav_2/lidar']
    assert all(t.header.frame_id == 'map' for t in transforms)
    place = found['cav_2/lidar'].transform.translation
    np.testing.assert_allclose([place.x, place.y, place.z], frames[0].agents[2].pose[:3, 3])


def test_the_same_frames_give_the_same_bag(frames, bag, tmp_path):
    write_bag(frames, tmp_path / 'bag')
    assert (tmp_path / 'bag' / 'bag.mcap').read_bytes() == (bag / 'bag.mcap').read_bytes()


def test_a_bag_is_never_overwritten_and_never_empty(frames, tmp_path):
    (tmp_path / 'there').mkdir()
    with pytest.raises(BagError, match='cannot write a bag'):
        write_bag(frames, tmp_path / 'there')
    with pytest.raises(BagError, match='no frames'):
        write_bag([], tmp_path / 'empty')
    assert not (tmp_path / 'empty').exists()


def test_a_drive_of_a_bag_can_be_evaluated_in_any_order(frames, bag):
    source = Source(f'bag:{bag}', None, 2)
    assert source.names() == ['bag_000', 'bag_001']
    drive = source.drive(1)
    assert source.positions(drive, 0) == [0, 2]
    for position in (2, 0):
        frame = drive.frame(position)
        assert (frame.scenario, frame.index) == ('bag_001', position)
        np.testing.assert_array_equal(frame.agents[1].points, frames[3 + position].agents[1].points)
    with pytest.raises(ExperimentError, match='splits'):
        Source(f'bag:{bag}', None, None, split='test').names()


@pytest.fixture
def diffkd():
    runner = CliRunner()

    def run(*arguments):
        return runner.invoke(app, ['bag', *map(str, arguments)])

    return run


def test_from_opv2v(diffkd, frames, tmp_path):
    write_opv2v(frames, tmp_path / 'set')
    done = diffkd('from-opv2v', tmp_path / 'set', tmp_path / 'bag')
    assert done.exit_code == 0, done.output
    assert '6 of 6 frames, 2 drives, 2 agents' in done.output
    for back, frame in zip(RosbagDataset(tmp_path / 'bag'), frames, strict=True):
        np.testing.assert_allclose(back.agents[2].points, frame.agents[2].points, atol=1e-4)
    done = diffkd('from-opv2v', tmp_path, tmp_path / 'other')
    assert done.exit_code == 1
    assert 'diffkd bag from-opv2v:' in done.output
    assert not (tmp_path / 'other').exists()


def test_from_sim(diffkd, tmp_path):
    options = ('--drives', 1, '--frames-per-drive', 2, '--vehicles', 2, '--seed', 8)
    done = diffkd('from-sim', tmp_path / 'bag', *options)
    assert done.exit_code == 0, done.output
    assert len(RosbagDataset(tmp_path / 'bag')) == 2
    done = diffkd('from-sim', tmp_path / 'bag', *options)
    assert done.exit_code == 1
    assert 'exists already' in done.output
