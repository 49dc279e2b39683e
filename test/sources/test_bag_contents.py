# SPDX-License-Identifier: Apache-2.0
"""Which topics of a bag are read, by name, option and type, and where the LiDARs are mounted."""

from __future__ import annotations

import numpy as np
import pytest
from small_bags import (
    MAKE,
    STEP,
    TYPES,
    changed,
    frames,
    made,
    messages_of,
    of_a_car,
    static_transforms,
    write,
)
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.geometry.poses import inverse, pose_from_euler
from diffkd_ros.messages.building import header_message, odometry_message, pose_message
from diffkd_ros.messages.poses import pose_of_odometry
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.source import Source

MOUNT = (1.2, -0.3, 1.9, 0.02, 0.1, 0.5)
MATRIX = pose_from_euler(MOUNT[:3], *MOUNT[3:])
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'


@pytest.fixture
def everything():
    return [item for frame in frames(3) for item in messages_of(frame)]


def fields_of(kind, stamp, pose):
    """The fields of a message of a type, with a pose if it can hold one."""
    header = header_message(stamp, 'map', MAKE)
    odometry = odometry_message(header, 'base_link', pose, None, MAKE)
    fields = {
        'nav_msgs/msg/Odometry': vars(odometry),
        'geometry_msgs/msg/PoseStamped': {'header': header, 'pose': pose_message(pose, MAKE)},
        'geometry_msgs/msg/PoseWithCovarianceStamped': {'header': header, 'pose': odometry.pose},
        'std_msgs/msg/Header': vars(header),
        'std_msgs/msg/String': {'data': 'hello'},
        'std_msgs/msg/Bool': {'data': True},
        'sensor_msgs/msg/LaserScan': {
            'header': header, 'ranges': np.zeros(4, np.float32), 'intensities': np.zeros(0, np.float32),
            **dict.fromkeys(
                ('angle_min', 'angle_max', 'angle_increment', 'time_increment', 'scan_time', 'range_min',
                 'range_max'), 0.0),
        },
    }  # fmt: skip
    return fields[kind]


def replaced(items, topic, kind):
    """The messages with those of one topic replaced by messages of another type."""
    poses = {frame.stamp: frame.agents[2].pose for frame in frames(3)}
    return [
        (stamp, made(topic, kind, **fields_of(kind, stamp, poses[stamp])) if m.topic == topic else m)
        for stamp, m in items
    ]


@pytest.mark.parametrize(
    'kind', ['geometry_msgs/msg/PoseStamped', 'geometry_msgs/msg/PoseWithCovarianceStamped']
)
@pytest.mark.parametrize('topic', ['odometry', 'pose'])
def test_stamped_poses_are_poses(tmp_path, everything, kind, topic):
    items = [
        (stamp, m._replace(topic=f'/cav_2/{topic}') if m.topic == '/cav_2/odometry' else m)
        for stamp, m in replaced(everything, '/cav_2/odometry', kind)
    ]
    dataset = RosbagDataset(write(tmp_path / 'bag', items))
    for frame, original in zip(dataset, frames(3), strict=True):
        np.testing.assert_allclose(frame.agents[2].pose, original.agents[2].pose, atol=1e-9)
        assert frame.left_out == {}
    # A node to which they are replayed gets the same poses, as odometry of the cloud's frame.
    (data,) = dataset.recorded(1).odometry[2]
    odometry = TYPES.deserialize_cdr(data, 'nav_msgs/msg/Odometry')
    assert odometry.child_frame_id == 'cav_2/lidar'
    pose = pose_of_odometry(odometry)
    np.testing.assert_allclose(pose.pose, dataset[1].agents[2].pose, atol=1e-9)
    assert pose.linear is None


@pytest.mark.parametrize('part', ['points', 'odometry'])
@pytest.mark.parametrize(
    'kind', ['std_msgs/msg/String', 'std_msgs/msg/Bool', 'sensor_msgs/msg/LaserScan', 'std_msgs/msg/Header']
)
def test_another_type_costs_the_agent_and_is_named(tmp_path, everything, part, kind):
    path = write(tmp_path / 'bag', replaced(everything, f'/cav_2/{part}', kind))
    for frame in RosbagDataset(path):
        assert sorted(frame.agents) == [-1, 5]
        ((reason, count),) = frame.left_out.items()
        assert (reason.startswith('cav_2: '), count) == (True, 1)
        assert f'/cav_2/{part} is {kind}, not ' in reason
    with pytest.raises(DatasetError, match=rf'ego 2 .*{part} is {kind}'):
        RosbagDataset(path, ego=2)


def test_ground_truth_of_another_type_is_none(tmp_path, everything):
    path = write(tmp_path / 'bag', replaced(everything, '/ground_truth', 'std_msgs/msg/String'))
    dataset = RosbagDataset(path)
    assert all(frame.ground_truth is None for frame in dataset)
    remarks = [str(stray) for stray in dataset.strays()]
    assert f'{path}: /ground_truth is std_msgs/msg/String, not diffkd_ros/msg/Boxes3D' in remarks


@pytest.mark.parametrize('topic', ['/cav_2/points', '/cav_2/odometry', '/ground_truth', '/cav_5/odometry'])
def test_a_message_too_short_for_a_header_costs_itself(tmp_path, everything, topic):
    items = [
        (stamp, m._replace(data=b'\x00\x01\x00\x00' * 2) if (stamp, m.topic) == (STEP, topic) else m)
        for stamp, m in everything
    ]
    dataset = RosbagDataset(write(tmp_path / 'bag', items))
    assert len(list(dataset)) == 3 - (topic == '/cav_5/odometry')
    assert any(f'{topic}: 1 messages are too short' in str(stray) for stray in dataset.strays())


TOPICS = [
    'cav_2/points=car2:/velodyne_points',
    'cav_2/odometry=car2:/localization/odom',
    'cav_5/points=car5:/velodyne_points',
    'cav_5/odometry=car5:/localization/odom',
]
# From base_link over a roof to the LiDAR, and a sensor on the other side of the tree.
TREE = (
    ('base_link', 'roof', pose_from_euler((0.5, 0, 1.5), yaw=1.0)),
    ('roof', 'velodyne', inverse(pose_from_euler((0.5, 0, 1.5), yaw=1.0)) @ MATRIX),
    ('base_link', 'camera', np.eye(4)),
)


@pytest.fixture
def cars(tmp_path, everything):
    """Two cars whose topics and frames have the same names; only the second has recorded /tf_static."""
    other = [item for item in everything if item[1].topic == '/ground_truth']
    return [
        write(tmp_path / 'car2', of_a_car(everything, 'cav_2', MATRIX)),
        write(tmp_path / 'car5', [static_transforms(*TREE), *of_a_car(everything, 'cav_5', MATRIX), *other]),
    ]


def test_bags_as_cars_record_them(cars):
    dataset = RosbagDataset(cars, topics=TOPICS, base_to_lidar=[f'cav_2={",".join(map(str, MOUNT))}'])
    assert (dataset.agents, dataset.ego, dataset.standard) == ([2, 5], 5, False)
    for frame, original in zip(dataset, frames(3), strict=True):
        assert frame.left_out == {}
        for agent in (2, 5):
            np.testing.assert_allclose(frame.agents[agent].pose, original.agents[agent].pose, atol=1e-9)
            np.testing.assert_array_equal(frame.agents[agent].points, original.agents[agent].points)
    # Given to the nodes of a replay.
    for agent in (2, 5):
        np.testing.assert_allclose(dataset.mounted_at(agent), MOUNT, atol=1e-9)


def test_without_a_mounting_the_reason_is_named(cars):
    dataset = RosbagDataset(cars, topics=TOPICS, ego=5)
    for frame in dataset:
        ((reason, _),) = frame.left_out.items()
        assert reason == (
            "cav_2: odometry gives the pose of 'base_link', but the cloud is in 'velodyne', and no "
            '/tf_static connects the two: give base_to_lidar'
        )
    with pytest.raises(DatasetError, match='give base_to_lidar'):
        dataset.mounted_at(2)


def test_options_are_those_of_evaluate_check_and_convert(cars, tmp_path):
    options = [f'--topic={topic}' for topic in TOPICS] + [f'--base-to-lidar={",".join(map(str, MOUNT))}']
    spec = f'bag:{",".join(map(str, cars))}'
    done = CliRunner().invoke(app, ['data', 'check', spec, *options])
    assert (done.exit_code, '3 frames, 2 agents, 6 sweeps' in done.output) == (0, True), done.output
    done = CliRunner().invoke(app, ['bag', 'convert', spec, str(tmp_path / 'out'), *options])
    assert done.exit_code == 0, done.output
    back = RosbagDataset(tmp_path / 'out')
    assert (back.standard, back.mounted_at(2)) == (True, None)
    for frame, original in zip(back, frames(3), strict=True):
        np.testing.assert_allclose(frame.agents[2].pose, original.agents[2].pose, atol=1e-9)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'topics': ['cav_2/points=/lidar']},
            r'has no topic /lidar for cav_2/points; it has .*/velodyne_points',
        ),
        ({'topics': ['cav_2/points']}, 'expected NAME=/topic'),
        ({'topics': ['car_2/points=/velodyne_points']}, 'expected NAME=/topic'),
        ({'base_to_lidar': ['1,2,3']}, r"base_to_lidar '1,2,3': expected x,y,z,roll,pitch,yaw"),
        ({'base_to_lidar': ['cav_2=1,2,3,0,0,nan']}, 'expected x,y,z'),
        ({'base_to_lidar': ['2=1,2,3,0,0,0']}, 'expected x,y,z'),
        ({'intensity_scale': '0..100'}, "'0..100' is none of auto"),
    ],
)
def test_options_that_are_not_understood(cars, options, message):
    with pytest.raises(DatasetError, match=message):
        RosbagDataset(cars, **{'topics': TOPICS} | options)
    source = f'bag:{cars[0]}'
    with pytest.raises(DatasetError, match='takes no topics'):
        Source('sim', topics=('cav_1/points=/lidar',))
    assert Source(source, topics=('cav_1/points=/lidar',)).options == {'topics': ('cav_1/points=/lidar',)}


@pytest.mark.parametrize('damage', ['cycle', 'not rigid', 'cut'])
def test_damaged_transforms_cost_no_more_than_the_mounting(tmp_path, everything, damage):
    transforms = list(TREE)
    if damage == 'cycle':
        transforms = [('velodyne', 'roof', MATRIX), ('roof', 'velodyne', MATRIX)]
    stamp, message = static_transforms(*transforms)
    if damage == 'not rigid':
        message = changed(message, lambda tf: setattr(tf.transforms[1].transform.rotation, 'w', 9.0))
    if damage == 'cut':
        message = message._replace(data=bytes(message.data)[:-20])
    others = [item for item in everything if not item[1].topic.startswith('/cav_2')]
    car = write(tmp_path / 'car', [(stamp, message), *of_a_car(everything, 'cav_2', MATRIX)])
    rest = write(tmp_path / 'rest', others)
    dataset = RosbagDataset([car, rest], topics=[topic.replace('car2:', 'car:') for topic in TOPICS[:2]])
    for frame in dataset:
        assert sorted(frame.agents) == [-1, 5]
        assert any('give base_to_lidar' in reason for reason in frame.left_out)
