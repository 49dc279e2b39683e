# SPDX-License-Identifier: Apache-2.0
"""The OPV2V layout: what is written is read back, and a scene written by hand pins every sign."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from pypcd4 import Encoding, PointCloud

from diffkd_ros.geometry.boxes import count_points, ground_truth_in
from diffkd_ros.geometry.poses import euler_from_pose, transform_points
from diffkd_ros.sources.opv2v import Opv2vDataset, Opv2vError, write_opv2v
from diffkd_ros.sources.simulator import LidarConfig, Simulator, SimulatorConfig


@pytest.fixture(scope='module')
def frames():
    """Frames of two drives, and one drive's only frame."""
    simulator = Simulator(SimulatorConfig(lidar=LidarConfig(columns=256)), seed=11)
    return [*simulator.frames([0, 1], [0, 1, 2]), *simulator.frames([2], [0])]


@pytest.fixture
def written(frames, tmp_path):
    write_opv2v(frames, tmp_path)
    return tmp_path


def test_round_trip(frames, written):
    dataset = Opv2vDataset(written)
    assert len(dataset) == len(frames) == 7
    for read, frame in zip((dataset[i] for i in range(7)), frames, strict=True):
        assert (read.scenario, read.index, read.stamp, read.ego) == (
            frame.scenario, frame.index, frame.stamp, frame.ego,
        )  # fmt: skip
        assert list(read.agents) == list(frame.agents)
        for agent, sweep in frame.agents.items():
            back = read.agents[agent]
            np.testing.assert_array_equal(back.points[:, :3], sweep.points[:, :3])
            np.testing.assert_allclose(back.points[:, 3], sweep.points[:, 3], atol=0.5 / 255 + 1e-6)
            np.testing.assert_array_equal(back.ring, sweep.ring)
            np.testing.assert_array_equal(back.time, sweep.time)
            np.testing.assert_allclose(back.pose, sweep.pose, atol=1e-9)
            np.testing.assert_allclose(back.velocity, sweep.velocity, atol=1e-3)
        order = np.argsort(frame.ground_truth.track_ids)
        truth = frame.ground_truth[order]
        assert read.ground_truth.track_ids.tolist() == truth.track_ids.tolist()
        wrapped = (read.ground_truth.boxes[:, 6] - truth.boxes[:, 6] + np.pi) % (2 * np.pi) - np.pi
        np.testing.assert_allclose(read.ground_truth.boxes[:, :6], truth.boxes[:, :6], atol=1e-9)
        np.testing.assert_allclose(wrapped, 0, atol=1e-9)


def test_returns_are_counted_from_the_clouds(frames, written):
    """The simulator knows whose each return is; range noise puts up to half of those on a face outside."""
    read = Opv2vDataset(written)[0].ground_truth
    truth = frames[0].ground_truth
    truth = truth[np.argsort(truth.track_ids)]
    assert read.num_points.sum() > 0.6 * truth.num_points.sum()
    assert (read.num_points <= truth.num_points).all()
    assert read.num_points[truth.num_points == 0].sum() == 0


LIDAR_YAML = """
lidar_pose: [{pose}]
ego_speed: 36.0
camera0: {{cords: [0, 0, 0, 0, 0, 0]}}
vehicles:
{vehicles}
"""
CAR = """  {id}:
    angle: [0.0, {yaw}, 0.0]
    center: [0.0, 0.0, 0.75]
    extent: [2.0, 1.0, 0.75]
    location: [{location}]
    speed: 0.0
"""


def write_agent(root, agent, pose, cars, points, number=68):
    folder = root / 'drive' / str(agent)
    folder.mkdir(parents=True)
    vehicles = ''.join(CAR.format(id=k, yaw=yaw, location=location) for k, yaw, location in cars)
    text = LIDAR_YAML.format(pose=pose, vehicles=vehicles or '  {}')
    (folder / f'{number:06d}.yaml').write_text(text)
    rows = '\n'.join(' '.join(str(v) for v in point) for point in points)
    (folder / f'{number:06d}.pcd').write_text(
        'VERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n'
        f'WIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA ascii\n{rows}\n'
    )
    return folder


def test_mirrored_scene(tmp_path):
    """Left-handed to right-handed, worked out by hand.

    In CARLA y points right and yaw turns clockwise. The sensor at (10, 20) looks along +y there, which is -y
    here. The car stands 5 m ahead, turned a further 30 degrees clockwise; one return lies on it, 0.5 m to the
    right.
    """
    write_agent(tmp_path, 7, '10, 20, 2, 0, 90, 0', [(9, 120.0, '10, 25, 0')], [(5, 0.5, -1.5, 0.25)])
    frame = Opv2vDataset(tmp_path)[0]
    sweep = frame.agents[7]
    np.testing.assert_allclose(sweep.pose[:3, 3], [10, -20, 2])
    assert euler_from_pose(sweep.pose) == pytest.approx((0, 0, -np.pi / 2))
    np.testing.assert_allclose(sweep.points, [[5, -0.5, -1.5, 0.25]])
    # Right of somebody who looks along -y is -x.
    np.testing.assert_allclose(transform_points(sweep.pose, sweep.points)[0, :3], [9.5, -25, 0.5], atol=1e-5)
    np.testing.assert_allclose(sweep.velocity, [0, -10, 0], atol=1e-9)
    np.testing.assert_allclose(
        frame.ground_truth.boxes, [[10, -25, 0.75, 4, 2, 1.5, np.radians(-120)]], atol=1e-9
    )
    assert frame.ground_truth.num_points.tolist() == [1]
    # In the sensor's own frame: ahead, the car's nose turned to the right.
    np.testing.assert_allclose(
        ground_truth_in(frame, 7).boxes, [[5, 0, -1.25, 4, 2, 1.5, np.radians(-30)]], atol=1e-9
    )


@pytest.mark.parametrize(
    ('roll', 'pitch', 'point', 'z'),
    [
        # CARLA: positive pitch lifts the nose, positive roll dips the right-hand side (+y there).
        (0, 10, (10, 0, 0, 0.5), 2 + 10 * np.sin(np.radians(10))),
        (10, 0, (0, 10, 0, 0.5), 2 - 10 * np.sin(np.radians(10))),
    ],
)
def test_roll_and_pitch_signs(tmp_path, roll, pitch, point, z):
    write_agent(tmp_path, 1, f'0, 0, 2, {roll}, 0, {pitch}', [], [point])
    sweep = Opv2vDataset(tmp_path)[0].agents[1]
    assert transform_points(sweep.pose, sweep.points)[0, 2] == pytest.approx(z, abs=1e-5)


def test_union_ego_and_range(tmp_path):
    """The smallest non-negative id is the ego; truth is the union over the agents in its range."""
    point = [(20, 0, 0, 0.5)]
    write_agent(tmp_path, 30, '0, 0, 2, 0, 0, 0', [(40, 0.0, '20, 0, 0'), (8, 0.0, '30, 0, 0')], point)
    write_agent(tmp_path, 40, '20, 0, 2, 0, 0, 0', [(30, 0.0, '0, 0, 0'), (8, 0.0, '30, 0, 0')], point)
    write_agent(tmp_path, -1, '0, 30, 4, 0, 0, 0', [(5, 0.0, '0, 40, 0')], point)
    write_agent(tmp_path, 50, '71, 0, 2, 0, 0, 0', [(6, 0.0, '80, 0, 0')], point)
    frame = Opv2vDataset(tmp_path)[0]
    assert frame.ego == 30
    assert list(frame.agents) == [-1, 30, 40]
    assert frame.ground_truth.track_ids.tolist() == [5, 8, 30, 40]
    assert list(Opv2vDataset(tmp_path, communication_range=100)[0].agents) == [-1, 30, 40, 50]


def test_own_body_and_invalid_returns_are_dropped(tmp_path):
    points = [(2, 1, -1, 0.5), (3.2, 0, -1, 0.5), (0, 1.2, -1, 0.5), ('nan', 0, 0, 0.5)]
    write_agent(tmp_path, 1, '0, 0, 2, 0, 0, 0', [], points)
    write_agent(tmp_path, -1, '0, 0, 2, 0, 0, 0', [], points)
    agents = Opv2vDataset(tmp_path)[0].agents
    np.testing.assert_allclose(agents[1].points[:, :2], [[3.2, 0], [0, -1.2]])
    assert len(agents[-1].points) == 3  # a road-side unit has no body


PACKED = np.array([struct.unpack('<I', bytes([3, 2, red, 0]))[0] for red in (0, 51, 255)], np.uint32)


@pytest.mark.parametrize('encoding', [Encoding.BINARY, Encoding.BINARY_COMPRESSED])
@pytest.mark.parametrize('dtype', [np.float32, np.uint32])
def test_red_channel(tmp_path, encoding, dtype):
    """Open3D packs 8-bit colours as 0x00RRGGBB into four bytes, whatever their type is called."""
    folder = write_agent(tmp_path, 1, '0, 0, 2, 0, 0, 0', [], [])
    xyz = [np.array([4.0, 5.0, 6.0], np.float32)] * 3
    cloud = PointCloud.from_points(
        [*xyz, PACKED.view(dtype)], ('x', 'y', 'z', 'rgb'), (np.float32, np.float32, np.float32, dtype)
    )
    cloud.save(folder / '000068.pcd', encoding)
    np.testing.assert_allclose(Opv2vDataset(tmp_path)[0].agents[1].points[:, 3], [0, 0.2, 1.0], atol=1e-6)


def test_red_channel_as_text(tmp_path):
    """In a text file the packed colour is printed as the tiny float that its bits are."""
    rows = [(4, 5, 6, f'{value:.10g}') for value in PACKED.view(np.float32)]
    file = write_agent(tmp_path, 1, '0, 0, 2, 0, 0, 0', [], rows) / '000068.pcd'
    file.write_text(file.read_text().replace('x y z intensity', 'x y z rgb'))
    np.testing.assert_allclose(Opv2vDataset(tmp_path)[0].agents[1].points[:, 3], [0, 0.2, 1.0], atol=1e-6)


def test_stamps_follow_the_numbers(tmp_path):
    """Numbers count simulation steps: every second one is written at 10 Hz if a step takes 0.05 s."""
    point = [(20, 0, 0, 0.5)]
    for number in (68, 70, 76):
        write_agent(tmp_path / str(number), 1, '0, 0, 2, 0, 0, 0', [], point, number)
        target = tmp_path / 'set' / 'drive' / '1'
        target.mkdir(parents=True, exist_ok=True)
        for file in (tmp_path / str(number) / 'drive' / '1').iterdir():
            file.rename(target / file.name)
    assert [frame.stamp for frame in Opv2vDataset(tmp_path / 'set')] == [0, 100_000_000, 400_000_000]
    (tmp_path / 'set' / 'drive' / 'data_protocol.yaml').write_text('world: {fixed_delta_seconds: 0.04}')
    assert [frame.stamp for frame in Opv2vDataset(tmp_path / 'set')] == [0, 80_000_000, 320_000_000]


def cut(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ('suffix', 'damage', 'reason'),
    [
        ('yaml', lambda data: b'\x00\xff' + data, 'yaml'),
        ('yaml', lambda data: b'- 1\n- 2\n', 'mapping'),
        ('yaml', lambda data: data.replace(b'lidar_pose', b'lidar_poze'), 'lidar_pose'),
        ('yaml', lambda data: data.replace(b'lidar_pose:\n-', b'lidar_pose:\n- .nan\n-', 1), 'lidar_pose'),
        ('yaml', lambda data: data.replace(b'extent', b'extend'), "vehicle .*'extent'"),
        ('pcd', cut, 'cut short|point cloud'),
        ('pcd', lambda data: data[: data.index(b'DATA binary\n') + 12 + 22 * 5], 'cut short'),
        ('pcd', lambda data: b'', 'point cloud'),
        ('pcd', lambda data: b'PNG' + bytes(500), 'point cloud'),
        ('pcd', lambda data: data.replace(b'x y z rgb', b'x y z hue'), 'intensity or rgb'),
        ('pcd', lambda data: data.replace(b'DATA binary', b'DATA zipped'), 'point cloud'),
        ('pcd', None, 'point cloud'),
    ],
)
def test_damaged_files_are_named(written, suffix, damage, reason):
    path = next(iter(sorted(written.glob('*_0/2')))) / f'000001.{suffix}'
    if damage is None:
        path.unlink()
    else:
        damaged = damage(path.read_bytes())
        assert damaged != path.read_bytes()
        path.write_bytes(damaged)
    dataset = Opv2vDataset(written)
    with pytest.raises(Opv2vError, match=rf'(?s)2/000001\.{suffix}: .*({reason})'):
        dataset[1]
    assert len(dataset[0].agents) == 3  # the other frames are not affected


def test_not_a_data_set(tmp_path):
    with pytest.raises(Opv2vError, match='not a folder'):
        Opv2vDataset(tmp_path / 'absent')
    (tmp_path / 'notes').mkdir()
    with pytest.raises(Opv2vError, match='holds no'):
        Opv2vDataset(tmp_path)


def test_what_cannot_be_written(frames, tmp_path):
    with pytest.raises(Opv2vError, match='ground truth'):
        write_opv2v([replace(frames[0], ground_truth=None)], tmp_path)
    with pytest.raises(Opv2vError, match='plain folder name'):
        write_opv2v([replace(frames[0], scenario='../escape')], tmp_path)
    with pytest.raises(Opv2vError, match='apart'):
        write_opv2v([*frames[:2], replace(frames[2], stamp=frames[1].stamp + 1)], tmp_path)


def test_counts_agree_with_geometry(written):
    """An independent count: all clouds but an agent's own, in the map frame, in the boxes read."""
    frame = Opv2vDataset(written)[4]
    total = np.zeros(len(frame.ground_truth), np.int64)
    for agent, sweep in frame.agents.items():
        cloud = transform_points(sweep.pose, sweep.points.astype(np.float64))
        counts = count_points(cloud, frame.ground_truth.boxes)
        total += np.where(frame.ground_truth.track_ids == agent, 0, counts)
    assert np.abs(total - frame.ground_truth.num_points).max() <= 1
