# SPDX-License-Identifier: Apache-2.0
"""OPV2V: what costs an entry, a frame or nothing, and names of files and folders."""

import shutil

import numpy as np
import pytest
from recorded_sets import write_opv2v_frame

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.opv2v import Opv2vDataset, V2v4RealDataset, write_opv2v


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture
def two_cars(tmp_path):
    """The document of an agent that lists two cars, 8 and 9."""
    write_opv2v_frame(tmp_path / 'drive', 7, 68, vehicles=(8, 9))
    file = tmp_path / 'drive' / '7' / '000068.yaml'
    file.write_text(f'ego_speed: 36.0\n{file.read_text()}')
    return file


@pytest.mark.parametrize('extent', ['0.0, 0.0, 0.0', '0.9, 0.0, 0.7'])
def test_an_entry_without_a_size_is_left_out_and_counted(tmp_path, two_cars, extent):
    """As CARLA writes two-wheelers."""
    edit(two_cars, 'extent: [2, 1, 1], location: [9,', f'extent: [{extent}], location: [9,')
    frame = Opv2vDataset(tmp_path)[0]
    assert frame.ground_truth.track_ids.tolist() == [8]
    assert frame.left_out == {'an object without a size': 1}


VEHICLES = ('Car', 'PoliceCar', 'LongVehicle', 'ConcreteTruck', 'Van', 'BUS', 'pickup_truck')
OTHERS = ('Pedestrian', 'TrashCan', 'FireHydrant', 'ConstructionCart', 'Motorcycle')


@pytest.mark.parametrize('key', ['obj_type', 'class'])
@pytest.mark.parametrize('kind', [*VEHICLES, *OTHERS])
def test_only_vehicles_are_truths(tmp_path, two_cars, key, kind):
    edit(two_cars, '  9: {', f'  9: {{{key}: {kind}, ')
    frame = Opv2vDataset(tmp_path)[0]
    assert frame.ground_truth.track_ids.tolist() == ([8, 9] if kind in VEHICLES else [8])
    assert frame.left_out == {}


def test_unknown_tags_cost_nothing(tmp_path, two_cars):
    edit(two_cars, 'vehicles:', 'weather: !!python/object:carla.Weather {sun: 3}\nseed: !x 4\nvehicles:')
    protocol = tmp_path / 'drive' / 'data_protocol.yaml'
    protocol.write_text('world: {fixed_delta_seconds: 0.04, weather: !carla.Weather {sun: 3}}')
    dataset = Opv2vDataset(tmp_path)
    assert len(dataset[0].ground_truth) == 2
    assert not list(dataset.strays())


@pytest.mark.parametrize('step', ['1.0e+308', '.inf', '-1', '[', '1' + '0' * 401])
def test_a_damaged_protocol_costs_the_step_and_is_named(tmp_path, two_cars, step):
    protocol = tmp_path / 'drive' / 'data_protocol.yaml'
    protocol.write_text(f'world: {{fixed_delta_seconds: {step}}}')
    for suffix in ('yaml', 'pcd'):
        shutil.copy(two_cars.with_suffix(f'.{suffix}'), two_cars.with_name(f'000070.{suffix}'))
    dataset = Opv2vDataset(tmp_path)
    assert [frame.stamp for frame in dataset] == [0, 100_000_000]
    [stray] = dataset.strays()
    assert str(stray).startswith(f'{protocol}: ')


@pytest.mark.parametrize('digits', [5, 6, 8])
@pytest.mark.parametrize('folder', ['7', '07'])
def test_files_are_read_by_the_names_they_have(tmp_path, two_cars, digits, folder):
    """V2XSet has five digits."""
    target = tmp_path / 'set' / 'drive' / folder
    target.mkdir(parents=True)
    for suffix in ('yaml', 'pcd'):
        two_cars.with_suffix(f'.{suffix}').rename(target / f'{68:0{digits}d}.{suffix}')
    dataset = Opv2vDataset(tmp_path / 'set')
    assert list(dataset[0].agents) == [7]
    assert dataset.files(range(1)) == {(target / f'{68:0{digits}d}.yaml').resolve()}
    (target / f'{68:0{digits}d}.pcd').unlink()
    assert len(dataset.problems(0)) == 1


def test_a_set_without_vehicles_says_so(tmp_path):
    write_opv2v_frame(tmp_path / 'drive', -1, 68)
    with pytest.raises(DatasetError, match=r'drive: holds road-side units only \(-1\); the ego is a vehicle'):
        Opv2vDataset(tmp_path)


def test_a_set_of_another_kind_is_named(tmp_path, two_cars):
    edit(two_cars, '[0, 0, 2, 0, 0, 0]', '[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]')
    with pytest.raises(DatasetError, match=r'lidar_pose is a 4 x 4 matrix, .*: read v2v4real:DIR'):
        Opv2vDataset(tmp_path)[0]
    assert V2v4RealDataset(tmp_path)[0].agents[7].pose[2, 3] == 2
    edit(two_cars, '[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]', '[0, 0, 2, 0, 0, 0]')
    with pytest.raises(DatasetError, match=r'lidar_pose has 6 values, as in OPV2V: read opv2v:DIR'):
        V2v4RealDataset(tmp_path)[0]


@pytest.mark.parametrize(
    ('old', 'new', 'reason'),
    [
        ('lidar_pose: [0,', 'lidar_pose: [1' + '0' * 400 + ',', 'lidar_pose'),
        ('lidar_pose: [0,', 'lidar_pose: [1.0e+300,', 'lidar_pose'),
        ('lidar_pose: [0,', 'lidar_pose: [-.inf,', 'lidar_pose'),
        ('ego_speed: 36.0', 'ego_speed: 1.0e+308', 'ego_speed'),
        ('  9: {', f'  {2**70}: {{', f'vehicle {2**70}: expected an integer'),
        ('[9, 0, 0]', '[1.0e+308, 0, 0]', 'vehicle 9: expected 3 finite numbers'),
        ('[9, 0, 0]', f'[{10**401}, 0, 0]', 'vehicle 9: expected 3 finite numbers'),
        ('{angle', '{num_points: 9223372036854775808, angle', 'num_points must be a count'),
    ],
    ids=range(8),
)
def test_numbers_out_of_range_cost_the_frame(tmp_path, two_cars, old, new, reason):
    edit(two_cars, old, new)
    dataset = Opv2vDataset(tmp_path)
    with pytest.raises(DatasetError, match=rf'000068\.yaml: .*{reason}'):
        dataset[0]
    assert len(dataset.problems(0)) == 1


def test_a_document_that_expands_without_end_costs_the_frame(tmp_path, two_cars):
    levels = ''.join(f'a{k + 1}: &a{k + 1} [{", ".join([f"*a{k}"] * 10)}]\n' for k in range(9))
    edit(two_cars, 'vehicles:', f'a0: &a0 [1, 2]\n{levels}vehicles:')
    with pytest.raises(DatasetError, match='more than 100000 values'):
        Opv2vDataset(tmp_path)[0]


@pytest.mark.parametrize('name', ['..', '.', '', 'a/b', '/etc'])
def test_scenarios_are_written_below_the_folder_only(tmp_path, name):
    frame = CoopFrame({1: AgentSweep(np.zeros((0, 4)), np.eye(4))}, 1, 0, Boxes3D([], track_ids=[]), name)
    with pytest.raises(DatasetError, match='plain folder name'):
        write_opv2v([frame], tmp_path / 'out')
    assert not list(tmp_path.iterdir())
