# SPDX-License-Identifier: Apache-2.0
"""Frames of any source written as a bag, by the command a user types."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from recorded_sets import dair_label, write_dair, write_json
from rosbags.highlevel import AnyReader
from typer.testing import CliRunner

from diffkd_ros.bags.convert import convert, write_bag
from diffkd_ros.bags.writer import BagError
from diffkd_ros.cli import app
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.metrics.protocol import protocol_named
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.opv2v import Opv2vDataset, write_opv2v
from diffkd_ros.sources.restamping import SCENARIO_GAP
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.simulator import LidarConfig, Simulator, SimulatorConfig
from diffkd_ros.sources.source import Source

CONFIG = SimulatorConfig(agents=2, frames_per_scenario=3, lidar=LidarConfig(columns=128))


@pytest.fixture(scope='module')
def frames():
    drives = map(Simulator(CONFIG, seed=8).scenario, range(2))
    return [drive.frame(k) for drive in drives for k in range(len(drive))]


@pytest.fixture(scope='module')
def bag(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp('written') / 'bag'
    write_bag(frames, path)
    return path


def test_what_was_written_comes_back(frames, bag):
    dataset = RosbagDataset(bag)
    assert (dataset.agents, dataset.ego, dataset.incomplete) == ([1, 2], 1, 0)
    assert [(name, len(rows)) for name, rows in dataset.scenarios()] == [('bag_000', 3), ('bag_001', 3)]
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
        convert([], tmp_path / 'empty')
    assert not (tmp_path / 'empty').exists()


@pytest.mark.parametrize('to', ['bag', 'opv2v'])
def test_an_interrupted_conversion_leaves_nothing(frames, tmp_path, to):
    def interrupted():
        yield from frames[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(interrupted(), tmp_path / 'out', to)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from diffkd_ros.bags.convert import convert
from diffkd_ros.sources.simulator import LidarConfig, Simulator, SimulatorConfig
config = SimulatorConfig(agents=2, frames_per_scenario=3, lidar=LidarConfig(columns=128))
scenario = Simulator(config, seed=8).scenario(0)
def frames():
    yield from map(scenario.frame, range(2))
    os.kill(os.getpid(), signal.SIGKILL)
convert(frames(), Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize('to', ['bag', 'opv2v'])
def test_a_killed_conversion_does_not_look_whole(frames, tmp_path, to):
    out = tmp_path / 'out'
    done = subprocess.run([sys.executable, '-c', KILLED, str(out), to], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ['out.unfinished']
    assert convert(frames, out, to).frames == len(frames)
    assert [path.name for path in tmp_path.iterdir()] == ['out']
    assert len(list(Source(f'{to}:{out}').frames())) == len(frames)


def test_the_own_box_of_the_ego_is_kept(frames, bag):
    """Protocols of published results count it."""
    opencood = protocol_named('opencood')
    for back, frame in zip(RosbagDataset(bag), frames, strict=True):
        assert back.ego in back.ground_truth.track_ids
        assert len(opencood.truth(back)) == len(opencood.truth(frame)) > 0
        np.testing.assert_allclose(opencood.truth(back).boxes, opencood.truth(frame).boxes, atol=1e-4)
        assert len(ground_truth_in(back, 1)) == len(back.ground_truth) - 1


def test_a_drive_of_a_bag_can_be_evaluated_in_any_order(frames, bag):
    source = Source(f'bag:{bag}', None, 2)
    assert source.names() == ['bag_000', 'bag_001']
    drive = source.scenario(1)
    assert source.positions(drive, 0) == [0, 2]
    for position in (2, 0):
        frame = drive.frame(position)
        assert (frame.scenario, frame.index) == ('bag_001', position)
        np.testing.assert_array_equal(frame.agents[1].points, frames[3 + position].agents[1].points)
    with pytest.raises(DatasetError, match='takes no split'):
        Source(f'bag:{bag}', split='test')


@pytest.fixture
def bag_convert():
    runner = CliRunner()

    def run(*arguments):
        return runner.invoke(app, ['bag', 'convert', *map(str, arguments)])

    return run


def test_from_opv2v(bag_convert, frames, tmp_path):
    write_opv2v(frames, tmp_path / 'set')
    done = bag_convert(f'opv2v:{tmp_path / "set"}', tmp_path / 'bag')
    assert done.exit_code == 0, done.output
    assert '6 of 6 frames, 2 scenarios, 2 agents' in done.output
    for back, frame in zip(RosbagDataset(tmp_path / 'bag'), frames, strict=True):
        np.testing.assert_allclose(back.agents[2].points, frame.agents[2].points, atol=1e-4)
    (tmp_path / 'notes').mkdir()
    done = bag_convert(f'opv2v:{tmp_path / "notes"}', tmp_path / 'other')
    assert done.exit_code == 1
    assert done.stderr.startswith('diffkd bag convert: ')
    assert 'holds no' in done.stderr
    assert not (tmp_path / 'other').exists()


def test_only_the_first_frames_and_scenarios(bag_convert, frames, tmp_path):
    write_opv2v(frames, tmp_path / 'set')
    chosen = ('--scenarios', 1, '--frames-per-scenario', 2)
    done = bag_convert(f'opv2v:{tmp_path / "set"}', tmp_path / 'bag', *chosen)
    assert '2 of 2 frames, 1 scenarios' in done.output, done.output
    first, second = RosbagDataset(tmp_path / 'bag')
    assert second.stamp - first.stamp == frames[1].stamp - frames[0].stamp


def test_from_the_simulator(bag_convert, tmp_path):
    options = ('--scenarios', 1, '--length', 2, '--vehicles', 2)
    done = bag_convert('sim:8', tmp_path / 'bag', *options)
    assert done.exit_code == 0, done.output
    drive = Simulator(SimulatorConfig(agents=2, frames_per_scenario=2), 8).scenario(0)
    for back, frame in zip(RosbagDataset(tmp_path / 'bag'), map(drive.frame, range(2)), strict=True):
        np.testing.assert_array_equal(back.agents[2].points, frame.agents[2].points)
    done = bag_convert('sim:8', tmp_path / 'bag', *options)
    assert done.exit_code == 1
    assert 'exists already' in done.output


def test_to_opv2v(bag_convert, tmp_path):
    out = tmp_path / 'set'
    done = bag_convert('sim:8', out, '--to', 'opv2v', '--scenarios', 1, '--length', 2, '--vehicles', 2)
    assert done.exit_code == 0, done.output
    drive = Simulator(SimulatorConfig(agents=2, frames_per_scenario=2), 8).scenario(0)
    for back, frame in zip(Opv2vDataset(out), map(drive.frame, range(2)), strict=True):
        np.testing.assert_array_equal(back.agents[2].points, frame.agents[2].points)
    done = bag_convert('sim:8', out, '--to', 'opv2v')
    assert done.exit_code == 1
    assert 'exists already' in done.output


def test_labels_and_poses_are_chosen(bag_convert, tmp_path):
    """Complemented labels have one more vehicle than the set's own."""
    root = write_dair(tmp_path / 'dair')
    labels = tmp_path / 'labels'
    shutil.copytree(root / 'cooperative' / 'label_world', labels)
    for path in labels.iterdir():
        write_json(path, [*json.loads(path.read_text()), dair_label()])
    counts = []
    for name, options in (('own', ()), ('complemented', ('--labels', labels))):
        done = bag_convert(f'dair:{root}', tmp_path / name, *options)
        assert done.exit_code == 0, done.output
        counts.append([len(frame.ground_truth) for frame in RosbagDataset(tmp_path / name)])
    assert counts[1] == [count + 1 for count in counts[0]]
    done = bag_convert(f'dair:{root}', tmp_path / 'bag', '--pose', 'predicted_ego_pos')
    assert done.stderr == f'diffkd bag convert: source dair:{root} takes no pose\n'
    done = bag_convert(f'dair:{root}', tmp_path / 'bag', '--vehicles', 2)
    assert '--vehicles and --length are options of sim' in done.stderr
