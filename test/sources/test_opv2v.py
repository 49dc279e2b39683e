# SPDX-License-Identifier: Apache-2.0
"""The OPV2V layout: what is written is read back, and a scene written by hand pins every sign."""

import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from pypcd4 import Encoding, PointCloud

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import count_points, ground_truth_in
from diffkd_ros.geometry.poses import euler_from_pose, transform_points
from diffkd_ros.metrics.average_precision import AveragePrecision
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.opv2v import Opv2vDataset, write_opv2v
from diffkd_ros.sources.simulator import LidarConfig, Simulator, SimulatorConfig
from diffkd_ros.sources.source import Source


@pytest.fixture(scope='module')
def frames():
    """Frames of two drives, and one drive's only frame."""
    simulator = Simulator(SimulatorConfig(lidar=LidarConfig(columns=256)), seed=11)
    chosen = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0))
    return [simulator.scenario(number).frame(k) for number, k in chosen]


@pytest.fixture
def written(frames, tmp_path):
    write_opv2v(frames, tmp_path)
    return tmp_path


def test_round_trip(frames, written):
    dataset = Opv2vDataset(written)
    assert len(dataset) == len(frames) == 7
    names = list(dict.fromkeys(frame.scenario for frame in frames))
    assert dataset.scenarios() == list(zip(names, [range(3), range(3, 6), range(6, 7)], strict=True))
    for read, frame in zip((dataset[i] for i in range(7)), frames, strict=True):
        assert (read.scenario, read.index, read.stamp, read.ego) == (
            frame.scenario, frame.index, frame.stamp, frame.ego,
        )  # fmt: skip
        assert list(read.agents) == list(frame.agents)
        for agent, sweep in frame.agents.items():
            back = read.agents[agent]
            np.testing.assert_array_equal(back.points[:, :3], sweep.points[:, :3])
            np.testing.assert_array_equal(back.points[:, 3], sweep.points[:, 3])
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
        assert read.ground_truth.num_points.tolist() == truth.num_points.tolist()


def forget_counts(root):
    """As the data set has it, without the number of returns that `write_opv2v` notes."""
    for file in root.glob('*/*/*.yaml'):
        file.write_text(re.sub(r'\n +num_points: \d+', '', file.read_text()))


def average_precisions(frames, detections):
    """AP of the same detections against the ground truth of frames from anywhere, in the ego's frame."""
    precision = AveragePrecision()
    for frame, found in zip(frames, detections, strict=True):
        precision.add(found, ground_truth_in(frame, frame.ego))
    return precision.compute()


def test_what_is_read_scores_as_what_was_written(frames, written):
    """Boxes off by some decimetres: half of them are hits at one threshold, and not at another."""
    random = np.random.default_rng(0)
    detections = []
    for frame in frames:
        truth = ground_truth_in(frame, frame.ego)
        noise = random.normal(0, 0.15, truth.boxes.shape)
        detections.append(Boxes3D(truth.boxes + noise, scores=random.random(len(truth))))
    scores = average_precisions(frames, detections)
    assert 0.2 < scores[0.7] < 0.9
    assert average_precisions(Opv2vDataset(written), detections) == pytest.approx(scores, abs=1e-9)


def test_noted_returns_must_be_counts(written):
    file = next(iter(sorted(written.glob('*_0/1')))) / '000000.yaml'
    file.write_text(re.sub(r'num_points: \d+', 'num_points: many', file.read_text()))
    with pytest.raises(DatasetError, match=r"000000\.yaml: vehicle .* must be a count, got 'many'"):
        Opv2vDataset(written)[0]


def test_noted_returns_do_not_count_when_an_agent_is_out_of_range(written):
    alone = Opv2vDataset(written, communication_range=0.0)[0]
    assert list(alone.agents) == [1]
    forget_counts(written)
    again = Opv2vDataset(written, communication_range=0.0)[0]
    assert alone.ground_truth.num_points.tolist() == again.ground_truth.num_points.tolist()


def test_returns_are_counted_from_the_clouds(frames, written):
    """The simulator knows whose each return is; range noise puts up to half of those on a face outside."""
    forget_counts(written)
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


def test_the_ego_is_the_first_by_name_as_in_the_published_loaders(tmp_path):
    for agent in (962, 1007, -2, 989):
        write_agent(tmp_path, agent, '0, 0, 2, 0, 0, 0', [], [(20, 0, 0, 0.5)])
    folders = sorted(
        path.name for path in (tmp_path / 'drive').iterdir() if path.is_dir() and path.name[0] != '-'
    )
    assert Opv2vDataset(tmp_path)[0].ego == int(folders[0]) == 1007


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
        ('yaml', lambda data: b'\x00\xff' + data, 'control characters'),
        ('yaml', lambda data: b'- 1\n- 2\n', 'mapping'),
        ('yaml', lambda data: data.replace(b'lidar_pose', b'lidar_poze'), 'lidar_pose'),
        ('yaml', lambda data: data.replace(b'lidar_pose:\n-', b'lidar_pose:\n- .nan\n-', 1), 'lidar_pose'),
        ('yaml', lambda data: data.replace(b'extent', b'extend'), "vehicle .*'extent'"),
        (
            'yaml',
            lambda data: data.replace(b'extent:\n    - ', b'extent:\n    - -1.0 #', 1),
            r'extent must be in \[0, 100\]',
        ),
        ('yaml', lambda data: re.sub(rb'ego_speed: .*', b'ego_speed: .inf', data), 'ego_speed'),
        ('yaml', lambda data: b'd: 2021-13-45\n' + data, 'month'),
        ('yaml', lambda data: b'd: !!bool maybe\n' + data, 'maybe'),
        ('yaml', lambda data: re.sub(rb'ego_speed: .*', b'ego_speed: 1' + b'0' * 400, data), 'ego_speed'),
        ('pcd', cut, 'cut short|point cloud'),
        ('pcd', lambda data: data[: data.index(b'DATA binary\n') + 12 + 26 * 5], 'cut short'),
        ('pcd', lambda data: b'', 'point cloud'),
        ('pcd', lambda data: b'PNG' + bytes(500), 'point cloud'),
        ('pcd', lambda data: data.replace(b'x y z rgb intensity', b'x y z hue albedo'), 'intensity or rgb'),
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
    with pytest.raises(DatasetError, match=rf'(?s)2/000001\.{suffix}: .*({reason})'):
        dataset[1]
    assert len(dataset[0].agents) == 3  # the other frames are not affected


PCD_HEADER = (
    'VERSION 0.7\nFIELDS {fields}\nSIZE {size}\nTYPE {type}\nCOUNT {count}\n'
    'WIDTH {points}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {data}\n'
)


@pytest.mark.parametrize(
    ('header', 'body', 'reason'),
    [
        ({'size': '4 4 4'}, bytes(48), 'not a readable|4 FIELDS, 3 SIZE'),
        ({'size': '4 4 4 4 4', 'type': 'F F F F F', 'count': '1 1 1 1 1'}, bytes(48), '4 FIELDS, 5 SIZE'),
        # One field forgotten in all of the header: each row would be read from a wrong place.
        ({'fields': 'x y z', 'size': '4 4 4', 'type': 'F F F', 'count': '1 1 1'}, bytes(48), 'more data'),
        ({'fields': 'x y q intensity'}, bytes(48), r"not \['z'\]"),
        ({'count': f'1 1 1 {10**9}'}, bytes(48), 'COUNT above'),
        ({'points': 4}, bytes(48), 'cut short: .* 4 points, found 3'),
        ({'data': 'binary_compressed'}, struct.pack('<II', 20, 48) + bytes(range(20)), 'point cloud'),
        ({'data': 'ascii'}, b'1 2 3 0.5\n1 2 3\n1 2 3 0.5\n', 'point cloud'),
        ({'data': 'ascii'}, b'1 2 3 0.5\n1 2 3 0.5\n', 'cut short'),
        ({'data': 'ascii'}, b'5 2 3 0.5\n5 2 3 1.5\n5 2 3 0\n', r'intensity must lie in \[0, 1\]'),
    ],
)
def test_clouds_that_contradict_their_header(tmp_path, header, body, reason):
    folder = write_agent(tmp_path, 1, '0, 0, 2, 0, 0, 0', [], [])
    whole = {'fields': 'x y z intensity', 'size': '4 4 4 4', 'type': 'F F F F', 'count': '1 1 1 1'}
    text = PCD_HEADER.format(**{**whole, 'points': 3, 'data': 'binary', **header})
    (folder / '000068.pcd').write_bytes(text.encode() + body)
    with pytest.raises(DatasetError, match=f'(?s)000068.pcd: .*({reason})'):
        Opv2vDataset(tmp_path)[0]


@pytest.mark.parametrize('encoding', list(Encoding)[:3])
def test_field_types(tmp_path, encoding):
    """Coordinates of 8 bytes, intensity in bytes, unused fields, ring and time."""
    folder = write_agent(tmp_path, 1, '0, 0, 2, 0, 0, 0', [], [])
    columns = {
        'label': np.array([1, 2], np.int32), 'x': np.array([5.0, 6.0]), 'y': np.array([1.0, 2.0]),
        'z': np.array([0.5, -0.5]), 'intensity': np.array([51, 255], np.uint8),
        'ring': np.array([3, 63], np.uint8), 'time': np.array([-0.05, 0.025]),
    }  # fmt: skip
    cloud = PointCloud.from_points(
        list(columns.values()), tuple(columns), tuple(column.dtype for column in columns.values())
    )
    cloud.save(folder / '000068.pcd', encoding)
    sweep = Opv2vDataset(tmp_path)[0].agents[1]
    np.testing.assert_allclose(sweep.points, [[5, -1, 0.5, 0.2], [6, -2, -0.5, 1]])
    assert sweep.ring.tolist() == [3, 63]
    np.testing.assert_allclose(sweep.time, [-0.05, 0.025])


def test_splits(tmp_path):
    """The set's root holds splits; a split can be chosen, or given as the root."""
    point = [(20, 0, 0, 0.5)]
    for split, count in (('train', 3), ('validate', 2), ('test', 1), ('test_culvercity', 1)):
        for k in range(count):
            folder = write_agent(tmp_path / 'x', 1, '0, 0, 2, 0, 0, 0', [], point).parent
            (tmp_path / 'set' / split).mkdir(parents=True, exist_ok=True)
            folder.rename(tmp_path / 'set' / split / f'{split}_{k}')
    assert len(Opv2vDataset(tmp_path / 'set')) == 7
    assert len(Opv2vDataset(tmp_path / 'set', split='validate')) == 2
    assert Opv2vDataset(tmp_path / 'set' / 'test')[0].scenario == 'test_0'
    with pytest.raises(DatasetError, match="no split 'val'; known are train, validate"):
        Opv2vDataset(tmp_path / 'set', split='val')


def test_drives_of_one_name_in_several_splits_are_told_apart(tmp_path):
    for split, drive in (('train', 'a'), ('train', 'b'), ('test', 'a')):
        folder = write_agent(tmp_path / 'x', 1, '0, 0, 2, 0, 0, 0', [], [(20, 0, 0, 0.5)]).parent
        (tmp_path / 'set' / split).mkdir(parents=True, exist_ok=True)
        folder.rename(tmp_path / 'set' / split / drive)
    dataset = Opv2vDataset(tmp_path / 'set')
    assert [name for name, _ in dataset.scenarios()] == ['test.a', 'train.a', 'b']
    assert [frame.scenario for frame in dataset] == ['test.a', 'train.a', 'b']
    assert Opv2vDataset(tmp_path / 'set', split='train')[0].scenario == 'a'


def test_nothing_is_read_before_a_frame_is_asked_for(tmp_path):
    """The index lists folders: files that no parser would take do not disturb it."""
    for agent in (-1, 3, 8):
        folder = tmp_path / 'drive' / str(agent)
        folder.mkdir(parents=True)
        for number in (68, 70):
            (folder / f'{number:06d}.yaml').write_bytes(b'\xff')
            (folder / f'{number:06d}.pcd').touch()
            (folder / f'{number:06d}_camera0.png').touch()
    dataset = Opv2vDataset(tmp_path)
    assert len(dataset) == 2
    assert dataset.scenarios() == [('drive', range(2))]


POSES = """
lidar_pose: [{lidar}]
true_ego_pos: [{true}]
predicted_ego_pos: [{predicted}]
vehicles:
  9:
    angle: [0.0, 0.0, 0.0]
    center: [0.0, 0.0, 0.75]
    extent: [2.0, 1.0, 0.75]
    location: [30.0, 0.0, 0.0]
"""


@pytest.fixture
def localised(tmp_path):
    """Two vehicles, LiDARs 2 m above them; in CARLA's frame.

    The ego at (10, 20) looks along x; it believes to be 1 m further along x and 0.5 m to the right. The
    neighbour at (0, 0) looks along +y, and believes to be turned by 90 degrees back, along x.
    """
    point = [(20, 0, 0, 0.5)]
    poses = {
        1: ('10, 20, 2, 0, 0, 0', '10, 20, 0, 0, 0, 0', '11, 20.5, 0, 0, 0, 0'),
        2: ('1, 3, 2, 0, 90, 0', '1, 2, 0, 0, 90, 0', '1, 2, 0, 0, 0, 0'),
    }
    for agent, (lidar, true, predicted) in poses.items():
        file = write_agent(tmp_path, agent, lidar, [], point) / '000068.yaml'
        file.write_text(POSES.format(lidar=lidar, true=true, predicted=predicted))
    return tmp_path


def test_predicted_poses(localised):
    exact = Opv2vDataset(localised)[0]
    believed = Opv2vDataset(localised, pose='predicted_ego_pos')[0]
    np.testing.assert_allclose(exact.agents[1].pose[:3, 3], [10, -20, 2])
    np.testing.assert_allclose(believed.agents[1].pose[:3, 3], [11, -20.5, 2])
    # The neighbour's LiDAR is mounted 1 m in front of its origin: along +y in truth, along x as it believes.
    np.testing.assert_allclose(exact.agents[2].pose[:3, 3], [1, -3, 2], atol=1e-12)
    np.testing.assert_allclose(believed.agents[2].pose[:3, 3], [2, -2, 2], atol=1e-12)
    assert euler_from_pose(believed.agents[2].pose) == pytest.approx((0, 0, 0))
    # What the ego sees is where it was; the map has moved with it.
    np.testing.assert_allclose(
        ground_truth_in(believed, 1).boxes, ground_truth_in(exact, 1).boxes, atol=1e-12
    )
    np.testing.assert_allclose(believed.ground_truth.boxes[0, :3], [31, -0.5, 0.75])
    assert believed.ground_truth.num_points.tolist() == exact.ground_truth.num_points.tolist()


def test_true_poses_are_those_of_the_lidar(localised):
    exact = Opv2vDataset(localised)[0]
    true = Opv2vDataset(localised, pose='true_ego_pos')[0]
    for agent, sweep in exact.agents.items():
        np.testing.assert_allclose(true.agents[agent].pose, sweep.pose, atol=1e-12)
    np.testing.assert_allclose(true.ground_truth.boxes, exact.ground_truth.boxes, atol=1e-12)


def test_poses_that_are_not_there(localised):
    with pytest.raises(DatasetError, match="got 'gps'"):
        Opv2vDataset(localised, pose='gps')
    file = localised / 'drive' / '2' / '000068.yaml'
    file.write_text(file.read_text().replace('predicted_ego_pos', 'predicted'))
    assert len(Opv2vDataset(localised)[0].agents) == 2
    with pytest.raises(DatasetError, match=r'2/000068\.yaml: predicted_ego_pos: expected x, y, z'):
        Opv2vDataset(localised, pose='predicted_ego_pos')[0]


def test_a_broken_frame_costs_that_frame_and_a_line_in_the_log(written, caplog):
    path = next(iter(sorted(written.glob('*_0/2')))) / '000001.pcd'
    path.write_bytes(b'')
    frames = Source(f'opv2v:{written}').frames()
    assert [frame.index for frame in frames] == [0, 2, 0, 1, 2, 0]
    [record] = caplog.records
    assert record.getMessage().startswith(f'frame 1 left out: {path}: not a readable point cloud')


def test_not_a_data_set(tmp_path):
    with pytest.raises(DatasetError, match='not a folder'):
        Opv2vDataset(tmp_path / 'absent')
    (tmp_path / 'notes').mkdir()
    with pytest.raises(DatasetError, match='holds no'):
        Opv2vDataset(tmp_path)


def test_what_cannot_be_written(frames, tmp_path):
    with pytest.raises(DatasetError, match='ground truth'):
        write_opv2v([replace(frames[0], ground_truth=None)], tmp_path)
    with pytest.raises(DatasetError, match='agent 1 would be read as the ego, which is 2'):
        write_opv2v([replace(frames[0], ego=2)], tmp_path)
    with pytest.raises(DatasetError, match='plain folder name'):
        write_opv2v([replace(frames[0], scenario='../escape')], tmp_path)
    with pytest.raises(DatasetError, match='apart'):
        write_opv2v([*frames[:2], replace(frames[2], stamp=frames[1].stamp + 1)], tmp_path)


def test_counts_agree_with_geometry(written):
    """An independent count: all clouds but an agent's own, in the map frame, in the boxes read."""
    forget_counts(written)
    frame = Opv2vDataset(written)[4]
    total = np.zeros(len(frame.ground_truth), np.int64)
    for agent, sweep in frame.agents.items():
        cloud = transform_points(sweep.pose, sweep.points.astype(np.float64))
        counts = count_points(cloud, frame.ground_truth.boxes)
        total += np.where(frame.ground_truth.track_ids == agent, 0, counts)
    assert np.abs(total - frame.ground_truth.num_points).max() <= 1
