# SPDX-License-Identifier: Apache-2.0
"""DAIR-V2X-C: a miniature set in its exact layout, with numbers that are worked out by hand."""

import json

import numpy as np
import pytest
from pypcd4 import Encoding, PointCloud
from recorded_sets import CAR, dair_label, write_dair, write_dair_cloud, write_json

from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.geometry.poses import euler_from_pose, transform_points
from diffkd_ros.sources.dair_v2x import DairV2xDataset
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.opv2v import Opv2vDataset, write_opv2v
from diffkd_ros.sources.source import Source

NAN = float('nan')


@pytest.fixture
def root(tmp_path):
    return write_dair(tmp_path / 'cooperative-vehicle-infrastructure')


def test_chain_by_hand(root):
    """The vehicle's LiDAR is at (1, 0.5, 1.5) of a body that stands at (100, 200, 0.5) and looks along +y."""
    frame = DairV2xDataset(root)[0]
    assert (frame.ego, list(frame.agents)) == (1, [1, -1])
    vehicle, infrastructure = frame.agents[1], frame.agents[-1]
    np.testing.assert_allclose(vehicle.pose[:3, 3], [100 - 0.5, 200 + 1.0, 2.0])
    assert euler_from_pose(vehicle.pose) == pytest.approx((0, 0, np.pi / 2))
    # 9 m ahead and 5.5 m to the right of it: along +y and +x.
    np.testing.assert_allclose(
        transform_points(vehicle.pose, vehicle.points[:1].astype(float))[0], [105, 210, 1, 0.2]
    )
    # The recorded place of the road-side unit, and the offset of the frame.
    np.testing.assert_allclose(infrastructure.pose[:3, 3], [112, 207, 6])
    np.testing.assert_allclose(
        transform_points(infrastructure.pose, infrastructure.points.astype(float)), [[105, 210, 1, 0.4]]
    )
    assert vehicle.ring is None
    assert infrastructure.ring is None


def test_box_by_hand(root):
    frame = DairV2xDataset(root)[0]
    truth = frame.ground_truth
    np.testing.assert_allclose(truth.boxes, [[105, 210, 0.75, 4, 2, 1.5, np.pi / 2]])
    assert truth.num_points.tolist() == [2]  # one return of each agent
    assert truth.labels.tolist() == [0]
    np.testing.assert_allclose(ground_truth_in(frame, 1).boxes, [[9, -5.5, -1.25, 4, 2, 1.5, 0]], atol=1e-12)


def test_rows_with_nan_are_dropped(root):
    frame = DairV2xDataset(root)[0]
    np.testing.assert_allclose(frame.agents[1].points, [[9, -5.5, -1, 0.2], [30, 0, 0, 1]])
    assert len(frame.agents[-1].points) == 1


@pytest.mark.parametrize('encoding', list(Encoding)[:3])
def test_encodings(root, encoding):
    write_dair_cloud(root / 'vehicle-side/velodyne/000009.pcd', [(1, 2, 3, 51), (4, 5, 6, 0)], encoding)
    np.testing.assert_allclose(DairV2xDataset(root)[0].agents[1].points, [[1, 2, 3, 0.2], [4, 5, 6, 0]])


@pytest.mark.parametrize('top_first', [False, True])
@pytest.mark.parametrize('order', [[0, 1, 2, 3], [1, 0, 3, 2]])
def test_corners_may_go_round_either_way(root, order, top_first):
    corners = [CAR[k] for k in order]
    z = (1.5, 0.0) if top_first else (0.0, 1.5)
    write_json(root / 'cooperative/label_world/000009.json', [dair_label(corners, z=z)])
    boxes = DairV2xDataset(root)[0].ground_truth.boxes
    np.testing.assert_allclose(boxes, [[105, 210, 0.75, 4, 2, 1.5, np.pi / 2]])


def test_types(root):
    kinds = ['Car', 'truck', 'Van', 'BUS', 'Cyclist', 'TrafficCone']
    write_json(root / 'cooperative/label_world/000009.json', [dair_label(kind=kind) for kind in kinds])
    truth = DairV2xDataset(root)[0].ground_truth
    assert len(truth) == 4
    assert truth.track_ids.tolist() == [2, 3, 4, 5]


def test_the_box_over_the_vehicles_lidar_is_the_vehicle(root):
    own = [[98.5, 203], [100.5, 203], [100.5, 199], [98.5, 199]]
    write_json(root / 'cooperative/label_world/000009.json', [dair_label(), dair_label(own)])
    frame = DairV2xDataset(root)[0]
    assert frame.ground_truth.track_ids.tolist() == [2, 1]
    assert len(ground_truth_in(frame, 1)) == 1
    assert len(ground_truth_in(frame, -1)) == 2


def test_order_scenarios_and_stamps(root):
    """Segments by number, then frames by number; stamps are the vehicle cloud's microseconds."""
    dataset = DairV2xDataset(root.parent)  # the folder around the published name will do
    assert dataset.scenarios() == [('batch_7', range(2)), ('batch_12', range(2, 3))]
    frames = list(dataset)
    assert [(frame.scenario, frame.index) for frame in frames] == [
        ('batch_7', 0), ('batch_7', 1), ('batch_12', 0),
    ]  # fmt: skip
    assert [frame.stamp for frame in frames] == [
        1626155123100000000, 1626155123000000000, 1626155123200000000,
    ]  # fmt: skip
    assert [frame.stamp for frame in Source(f'dair:{root}').frames()] == [frame.stamp for frame in frames]


def test_split_files(root, tmp_path):
    write_json(tmp_path / 'list.json', ['000010'])
    write_json(
        tmp_path / 'all.json', {'batch_split': {}, 'cooperative_split': {'train': [], 'val': ['000020']}}
    )
    assert len(DairV2xDataset(root, tmp_path / 'list.json')) == 1
    assert DairV2xDataset(root, tmp_path / 'all.json', 'val')[0].scenario == 'batch_12'
    with pytest.raises(DatasetError, match="no split 'test'; it has train, val"):
        DairV2xDataset(root, tmp_path / 'all.json', 'test')
    with pytest.raises(DatasetError, match='needs a split file'):
        DairV2xDataset(root, split='val')
    with pytest.raises(DatasetError, match='none of the split'):
        DairV2xDataset(root, tmp_path / 'all.json', 'train')
    write_json(tmp_path / 'list.json', ['000010', '000011'])
    with pytest.raises(DatasetError, match='000011'):
        DairV2xDataset(root, tmp_path / 'list.json')
    write_json(tmp_path / 'list.json', [10])
    with pytest.raises(DatasetError, match='list of vehicle frame numbers'):
        DairV2xDataset(root, tmp_path / 'list.json')


def test_complemented_labels(root, tmp_path):
    further = [[x + 20, y] for x, y in CAR]
    for frame in ('000009', '000010', '000020'):
        write_json(tmp_path / f'complemented/{frame}.json', [dair_label(), dair_label(further)])
    assert len(DairV2xDataset(root)[0].ground_truth) == 1
    assert len(DairV2xDataset(root, labels=tmp_path / 'complemented')[0].ground_truth) == 2
    with pytest.raises(DatasetError, match='not a folder of labels'):
        DairV2xDataset(root, labels=tmp_path / 'absent')


def test_offset_of_a_frame_that_was_not_corrected(root):
    edit(root / 'cooperative/data_info.json', lambda pairs: pairs[1].update(system_error_offset=''))
    np.testing.assert_allclose(DairV2xDataset(root)[0].agents[-1].pose[:3, 3], [110, 210, 6])


def test_written_as_opv2v_it_is_the_same_scene(root, tmp_path):
    frame = DairV2xDataset(root)[0]
    write_opv2v([frame], tmp_path / 'opv2v')
    back = Opv2vDataset(tmp_path / 'opv2v')[0]
    np.testing.assert_allclose(back.ground_truth.boxes, frame.ground_truth.boxes, atol=1e-9)
    for agent, sweep in frame.agents.items():
        np.testing.assert_allclose(back.agents[agent].pose, sweep.pose, atol=1e-9)
        np.testing.assert_allclose(back.agents[agent].points, sweep.points, atol=1e-6)


def edit(path, change):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document) or document))


def replace(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))


LIDAR_TO_NOVATEL = 'vehicle-side/calib/lidar_to_novatel/000009.json'
NOVATEL_TO_WORLD = 'vehicle-side/calib/novatel_to_world/000009.json'
TO_WORLD = 'infrastructure-side/calib/virtuallidar_to_world/000501.json'
LABEL = 'cooperative/label_world/000009.json'
CLOUD = 'vehicle-side/velodyne/000009.pcd'


@pytest.mark.parametrize(
    ('name', 'damage', 'reason'),
    [
        (LIDAR_TO_NOVATEL, None, 'No such file'),
        (TO_WORLD, None, 'No such file'),
        (LABEL, None, 'No such file'),
        (CLOUD, None, 'No such file'),
        (NOVATEL_TO_WORLD, lambda file: file.write_text('{"rotation": [[1, 0'), 'line 1'),
        (NOVATEL_TO_WORLD, lambda file: file.write_text('[]'), 'expected a rotation'),
        (
            NOVATEL_TO_WORLD,
            lambda file: edit(file, lambda d: d.update(translation=[[NAN], [0], [0]])),
            'expected 3 finite numbers',
        ),
        (NOVATEL_TO_WORLD, lambda file: edit(file, lambda d: d.update(translation=[1, 2])), r'got \[1, 2\]'),
        (
            TO_WORLD,
            lambda file: edit(file, lambda d: d.update(rotation=[[2, 0, 0], [0, 1, 0], [0, 0, 1]])),
            'not a rotation',
        ),
        (
            TO_WORLD,
            lambda file: edit(file, lambda d: d.update(rotation=[[1, 0, 0], [0, -1, 0], [0, 0, 1]])),
            'not a rotation',
        ),
        (LABEL, lambda file: edit(file, lambda d: {'objects': d}), 'expected a list'),
        (LABEL, lambda file: edit(file, lambda d: d[0].pop('type') and None), "object 0: has no 'type'"),
        (LABEL, lambda file: edit(file, lambda d: d[0]['world_8_points'].pop() and None), 'eight finite'),
        (LABEL, lambda file: edit(file, lambda d: [dair_label(z=(0, NAN))]), 'eight finite'),
        (LABEL, lambda file: edit(file, lambda d: [dair_label([[104, 215], *CAR[1:]])]), 'off an upright'),
        (CLOUD, lambda file: file.write_bytes(file.read_bytes()[:-20]), 'point cloud|cut short'),
        (CLOUD, lambda file: file.write_bytes(b''), 'point cloud'),
        (CLOUD, lambda file: replace(file, b' intensity', b' hue'), 'needs a field intensity'),
        (CLOUD, lambda file: replace(file, b'WIDTH 3', b'WIDTH 9'), 'WIDTH 9, HEIGHT 1, but POINTS 3'),
    ],
)  # fmt: skip
def test_damaged_files_are_named(root, name, damage, reason):
    if damage is None:
        (root / name).unlink()
    else:
        damage(root / name)
    dataset = DairV2xDataset(root)
    with pytest.raises(DatasetError, match=rf'(?s){name}: .*({reason})'):
        dataset[0]
    assert len(dataset.problems(0)) == 1
    left = [(frame.scenario, frame.index) for frame in Source(f'dair:{root}').frames()]
    assert left == [('batch_7', 1), ('batch_12', 0)]


@pytest.mark.parametrize(
    ('name', 'change', 'reason'),
    [
        ('vehicle-side', lambda d: d[1].pop('pointcloud_timestamp') and None, 'pointcloud_timestamp'),
        ('vehicle-side', lambda d: d[1].update(pointcloud_timestamp='noon'), "got 'noon'"),
        ('cooperative', lambda d: d[1].update(system_error_offset={'delta_x': 1}), 'delta_x and delta_y'),
        (
            'cooperative',
            lambda d: d[1].update(system_error_offset={'delta_x': NAN, 'delta_y': 0}),
            'delta_x and delta_y',
        ),
    ],
)
def test_damaged_entries_of_an_index_are_named(root, name, change, reason):
    edit(root / name / 'data_info.json', change)
    dataset = DairV2xDataset(root)
    with pytest.raises(DatasetError, match=f'frame 000009.*{reason}'):
        dataset[0]
    assert [index for index in range(3) if dataset.problems(index)] == [0]


def test_not_a_data_set(root, tmp_path):
    with pytest.raises(DatasetError, match='has no vehicle-side, infrastructure-side, cooperative'):
        DairV2xDataset(tmp_path / 'absent')
    with pytest.raises(DatasetError, match='holds no <scenario>'):
        Opv2vDataset(root)
    index = root / 'cooperative/data_info.json'
    edit(index, lambda pairs: pairs[0].pop('cooperative_label_path') and None)
    with pytest.raises(DatasetError, match='cooperative_label_path'):
        DairV2xDataset(root)
    index.write_text('[]')
    with pytest.raises(DatasetError, match='no cooperative frame'):
        DairV2xDataset(root)
    index.write_text('[{')
    with pytest.raises(DatasetError, match=r'cooperative/data_info\.json'):
        DairV2xDataset(root)


def test_intensities_in_the_unit_interval_are_not_scaled(root):
    """As those of the real road-side clouds, which are float32."""
    path = root / 'infrastructure-side/velodyne/000501.pcd'
    rows = np.array([(-7, 3, -5, 102 / 255), (1, 2, 3, 1)], np.float32)
    PointCloud.from_points(rows, ('x', 'y', 'z', 'intensity'), (np.float32,) * 4).save(path)
    np.testing.assert_allclose(DairV2xDataset(root)[0].agents[-1].points[:, 3], [0.4, 1], atol=1e-6)
    rows[:, 3] *= 255
    PointCloud.from_points(rows, ('x', 'y', 'z', 'intensity'), (np.float32,) * 4).save(path)
    with pytest.raises(DatasetError, match=r'000501\.pcd: intensity must lie in \[0, 1\], got 102 to 255'):
        DairV2xDataset(root)[0]


def test_the_original_labels(root):
    """The complemented labels take the place of the original ones."""
    assert len(DairV2xDataset(root, labels='original')[0].ground_truth) == 1
    labels = root / 'cooperative/label_world'
    labels.rename(labels.with_name('label_world_backup'))
    further = [[x + 20, y] for x, y in CAR]
    for frame in ('000009', '000010', '000020'):
        write_json(labels / f'{frame}.json', [dair_label(), dair_label(further)])
    assert len(DairV2xDataset(root)[0].ground_truth) == 2
    [frame, *_] = Source(f'dair:{root}', labels='original').frames()
    assert len(frame.ground_truth) == 1


def test_an_object_without_a_size_is_left_out_and_counted(root):
    write_json(root / LABEL, [dair_label(z=(1, 1)), dair_label()])
    frame = DairV2xDataset(root)[0]
    assert len(frame.ground_truth) == 1
    assert frame.left_out == {'an object without a size': 1}


BIG = 10**401


@pytest.mark.parametrize(
    ('name', 'change', 'reason'),
    [
        (LABEL, lambda d: d[0]['world_8_points'][3].__setitem__(0, BIG), 'eight finite corners'),
        (LABEL, lambda d: d[0]['world_8_points'][3].__setitem__(0, 1e300), 'eight finite corners'),
        (TO_WORLD, lambda d: d.update(translation=[[BIG], [0], [0]]), 'expected 3 finite numbers'),
        (TO_WORLD, lambda d: d['rotation'][0].__setitem__(0, BIG), 'expected 3 x 3 finite numbers'),
        (TO_WORLD, lambda d: d['rotation'][0].__setitem__(0, float('inf')), 'expected 3 x 3 finite numbers'),
    ],
)
def test_numbers_out_of_range_cost_the_frame(root, name, change, reason):
    edit(root / name, change)
    with pytest.raises(DatasetError, match=rf'{name}: .*{reason}'):
        DairV2xDataset(root)[0]


@pytest.mark.parametrize(
    ('side', 'change', 'reason'),
    [
        ('vehicle-side', {'pointcloud_timestamp': BIG}, 'expected microseconds'),
        ('vehicle-side', {'pointcloud_timestamp': 2**70}, 'expected microseconds'),
        ('cooperative', {'system_error_offset': {'delta_x': BIG, 'delta_y': 0}}, 'delta_x and delta_y'),
    ],
)
def test_numbers_out_of_range_in_an_index_cost_the_frame(root, side, change, reason):
    edit(root / side / 'data_info.json', lambda d: d[1].update(change))
    with pytest.raises(DatasetError, match=f'frame 000009.*{reason}'):
        DairV2xDataset(root)[0]


@pytest.mark.parametrize(
    ('side', 'change', 'reason'),
    [
        ('vehicle-side', {'batch_id': '../../../out'}, 'not a batch_id'),
        ('vehicle-side', {'calib_novatel_to_world_path': '../../x.json'}, 'not a path in the set'),
        ('cooperative', {'cooperative_label_path': '/etc/passwd'}, 'not a path in the set'),
        ('cooperative', {'vehicle_pointcloud_path': 7}, 'not a path in the set'),
    ],
)
def test_an_index_does_not_lead_out_of_the_set(root, side, change, reason):
    edit(root / side / 'data_info.json', lambda d: d[1].update(change))
    with pytest.raises(DatasetError, match=reason):
        DairV2xDataset(root)
