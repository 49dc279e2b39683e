# SPDX-License-Identifier: Apache-2.0
"""Reading complete, incomplete and damaged bags; `test/nodes/test_playing.py` reads one recorded over DDS."""

from __future__ import annotations

import pickle
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from small_bags import STEP, TYPES, frames, messages_of, write, write_sqlite

from diffkd_ros.bags.answers import read_answers
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.messages.building import boxes_message, header_message, make_from
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.rosbag import RosbagDataset


@pytest.fixture
def everything():
    return [item for frame in frames(3) for item in messages_of(frame)]


def assert_same(back, originals):
    assert [frame.stamp for frame in back] == [frame.stamp for frame in originals]
    for frame, original in zip(back, originals, strict=True):
        assert sorted(frame.agents) == sorted(original.agents)
        for agent, sweep in original.agents.items():
            np.testing.assert_array_equal(frame.agents[agent].points, sweep.points)
            np.testing.assert_allclose(frame.agents[agent].pose, sweep.pose, atol=1e-9)
            assert frame.agents[agent].velocity is None
        truth, expected = ground_truth_in(frame, 5), ground_truth_in(original, 5)
        np.testing.assert_allclose(truth.boxes, expected.boxes, atol=1e-5)
        np.testing.assert_array_equal(truth.num_points, [0, 2])


def test_frames_come_back_in_order_with_all_agents(tmp_path, everything):
    # Messages may be recorded in another order than that of their stamps.
    dataset = RosbagDataset(write(tmp_path / 'bag', everything[::-1]))
    assert (dataset.agents, dataset.ego, dataset.incomplete) == ([-1, 2, 5], 5, 0)
    back = list(dataset)
    assert_same(back, list(frames(3)))
    assert [(frame.scenario, frame.index) for frame in back] == [('bag_000', i) for i in range(3)]
    assert_same([pickle.loads(pickle.dumps(dataset))[1]], list(frames(3))[1:2])


def test_sqlite3_with_and_without_message_definitions(tmp_path, everything):
    path = write_sqlite(tmp_path / 'bag', everything)
    assert_same(list(RosbagDataset(path)), list(frames(3)))
    (database,) = path.glob('*.db3')
    with sqlite3.connect(database) as connection:
        # Bags of ROS 2 Humble have no definitions.
        connection.execute('delete from message_definitions')
    assert_same(list(RosbagDataset(path)), list(frames(3)))


def test_answers_are_read_without_message_definitions(tmp_path):
    make = make_from(TYPES.types)
    header = header_message(STEP, 'cav_5/lidar', make)
    boxes = Boxes3D(np.ones((1, 7)), scores=np.ones(1, np.float32))
    status = make(
        'diffkd_ros/msg/FusionStatus', header=header, model_id='', neighbours=[], ego_reliability=0.5,
        stages=['fuse'], latency_ms=np.array([7], np.float32),
        sweeps_received=1, sweeps_fused=1, sweeps_overwritten=0, sweeps_refused=0,
        grid_range=np.array([-8, -4, -1, 8, 4, 1], np.float32), height=8, width=16,
        seen_by=np.zeros(0, np.uint8), sensor_faults=[], own_map_used=True, degradation=3,
        degradation_cause='no neighbour in reach',
    )  # fmt: skip
    answers = {'detections': boxes_message(header, boxes, ['vehicle'], make), 'fusion_status': status}
    written = [
        (STEP, (f'/cav_5/{topic}', m.__msgtype__, TYPES.serialize_cdr(m, m.__msgtype__)))
        for topic, m in answers.items()
    ]
    (database,) = write_sqlite(tmp_path / 'bag', written).glob('*.db3')
    with sqlite3.connect(database) as connection:
        connection.execute('delete from message_definitions')
    (answer,) = read_answers([tmp_path / 'bag'], 5).values()
    assert answer.status.stages == {'fuse': 7.0}
    assert (answer.status.degradation, answer.status.cause) == (3, 'no neighbour in reach')


def test_one_bag_of_each_vehicle_is_read_as_one(tmp_path, everything):
    parts = {'cav_2': [], 'cav_5': [], 'rsu_1': [], 'ground_truth': []}
    for stamp, message in everything:
        parts[message.topic.split('/')[1]].append((stamp, message))
    paths = [write(tmp_path / name, messages) for name, messages in parts.items()]
    dataset = RosbagDataset(paths)
    assert dataset.incomplete == 0
    assert_same(list(dataset), list(frames(3)))


def test_a_neighbour_s_sweep_may_be_off_in_time(tmp_path):
    late = []
    for frame in frames(3):
        shifted = replace(frame, stamp=frame.stamp + 30_000_000)
        late += [item for item in messages_of(frame) if item[1].topic[1:6] not in ('cav_2', 'rsu_1')]
        late += [item for item in messages_of(shifted) if item[1].topic[1:6] in ('cav_2', 'rsu_1')]
    dataset = RosbagDataset(write(tmp_path / 'bag', late))
    assert dataset.incomplete == 0
    assert [frame.stamp for frame in dataset] == [STEP, 2 * STEP, 3 * STEP]
    for frame, original in zip(dataset, frames(3), strict=True):
        np.testing.assert_array_equal(frame.agents[2].points, original.agents[2].points)


def test_a_pose_between_two_is_interpolated(tmp_path):
    """Odometry at 20 Hz, never at a sweep's stamp; the vehicle moves 1 m a frame."""
    items = []
    for frame in frames(3, agents=(5,)):
        items += [item for item in messages_of(frame) if item[1].topic != '/cav_5/odometry']
        for early in (-60_000_000, -10_000_000, 40_000_000):
            sweep = frame.agents[5]
            pose = sweep.pose.copy()
            pose[1, 3] += early / STEP
            moved = replace(frame, agents={5: replace(sweep, pose=pose)}, stamp=frame.stamp + early)
            items += [item for item in messages_of(moved) if item[1].topic == '/cav_5/odometry']
    dataset = RosbagDataset(write(tmp_path / 'bag', items))
    assert (len(dataset), dataset.incomplete) == (3, 0)
    for frame, original in zip(dataset, frames(3, agents=(5,)), strict=True):
        np.testing.assert_allclose(frame.agents[5].pose, original.agents[5].pose, atol=1e-9)
    # A node to which they are replayed interpolates too, so it needs all of them.
    assert [len(dataset.recorded(k).odometry[5]) for k in range(3)] == [3, 2, 2]


def test_what_was_lost_is_missing_and_counted(tmp_path):
    parts = [messages_of(frame) for frame in frames(5)]
    lost = {1: '/cav_2/points', 2: '/cav_5/odometry', 3: '/ground_truth', 4: '/cav_5/points'}
    kept = [item for k, part in enumerate(parts) for item in part if item[1].topic != lost.get(k)]
    dataset = RosbagDataset(write(tmp_path / 'bag', kept))
    back = list(dataset)
    # The third and the fifth have no ego and cannot be frames.
    assert [sorted(frame.agents) for frame in back] == [[-1, 2, 5], [-1, 5], [-1, 2, 5]]
    assert [frame.ground_truth is None for frame in back] == [False, False, True]
    assert dataset.incomplete == 4


def test_a_long_recording_is_cut_into_scenarios(tmp_path):
    # 25 s at 1 Hz without a break, then 3 s more after a gap.
    stamps = [k * 1_000_000_000 for k in [*range(1, 26), *range(40, 43)]]
    (frame,) = frames(1)
    items = [item for stamp in stamps for item in messages_of(replace(frame, stamp=stamp))]
    dataset = RosbagDataset(write(tmp_path / 'run', items))
    assert [(name, len(rows)) for name, rows in dataset.scenarios()] == [
        ('run_000', 10), ('run_001', 10), ('run_002', 5), ('run_003', 3),
    ]  # fmt: skip
    assert (dataset[10].scenario, dataset[10].index) == ('run_001', 0)
    assert (dataset[-1].scenario, dataset[-1].index) == ('run_003', 2)


def test_another_ego_can_be_chosen(tmp_path):
    path = write(
        tmp_path / 'bag', [m for f in frames(1) for m in messages_of(f) if m[1].topic != '/ground_truth']
    )
    assert RosbagDataset(path).ego == -1
    (frame,) = RosbagDataset(path, ego=2)
    assert (frame.ego, frame.ground_truth) == (2, None)
    with pytest.raises(DatasetError, match=r'ego 9 is not among the agents .*\[-1, 2, 5\]'):
        RosbagDataset(path, ego=9)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DatasetError, match='no bag at'):
        RosbagDataset(tmp_path / 'nowhere')
    (tmp_path / 'folder').mkdir()
    with pytest.raises(DatasetError, match='is not a bag'):
        RosbagDataset(tmp_path / 'folder')
    (frame,) = frames(1)
    path = write(tmp_path / 'bag', [m for m in messages_of(frame) if m[1].topic == '/ground_truth'])
    with pytest.raises(DatasetError, match=r'has no agent with both .* it has /ground_truth'):
        RosbagDataset(path)


def test_clouds_and_odometry_with_different_clocks(tmp_path):
    early, late = frames(2)
    items = [item for item in messages_of(early) if item[1].topic.endswith('points')]
    items += [item for item in messages_of(late) if item[1].topic.endswith('odometry')]
    path = write(tmp_path / 'bag', items)
    with pytest.raises(DatasetError, match=r'no frame: no cloud of cav_5 has odometry within 0\.05 s'):
        RosbagDataset(path, ego=5)


def test_a_truncated_file_is_an_error_that_names_it(tmp_path, everything):
    (file,) = write(tmp_path / 'bag', everything).glob('*.mcap')
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DatasetError, match='bag'):
        list(RosbagDataset(tmp_path / 'bag'))


def test_bags_are_written_and_read_without_ros(tmp_path):
    script = """
import sys
ros = 'builtin_interfaces diffkd_ros.msg geometry_msgs nav_msgs rclpy sensor_msgs std_msgs tf2_msgs'
sys.modules.update(dict.fromkeys(ros.split()))
from pathlib import Path
from diffkd_ros.bags.convert import write_bag
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.simulator import LidarConfig, Simulator, SimulatorConfig
config = SimulatorConfig(agents=2, frames_per_scenario=1, lidar=LidarConfig(columns=64))
write_bag([Simulator(config, seed=1).scenario(0).frame(0)], Path(sys.argv[1]))
print(sorted(RosbagDataset(Path(sys.argv[1]))[0].agents))
"""
    run = [sys.executable, '-c', script, str(tmp_path / 'bag')]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == '[1, 2]\n'
