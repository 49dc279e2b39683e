# SPDX-License-Identifier: Apache-2.0
"""`diffkd data check` counts what is there and names everything that is broken."""

import pytest
from recorded_sets import write_opv2v_cloud, write_opv2v_frame
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.sources.check import check
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.source import Source, recognise

PAIR = """[{{
  "vehicle_pointcloud_path": "vehicle-side/velodyne/000001.pcd",
  "infrastructure_pointcloud_path": "infrastructure-side/velodyne/000002.pcd",
  "cooperative_label_path": "cooperative/label_world/000001.json", "system_error_offset": ""}}]"""


@pytest.fixture
def opv2v(tmp_path):
    """Two drives in two splits: 2 frames of 3 agents, one of them 200 m away, and 3 frames of one."""
    first, second = tmp_path / 'train' / 'first', tmp_path / 'test' / 'second'
    for number in (68, 70):
        write_opv2v_frame(first, 10, number, vehicles=(90, 91))
        write_opv2v_frame(first, 11, number, x=200, vehicles=(91, 92), points=4)
        write_opv2v_frame(first, -1, number, vehicles=(), points=5)
    for number in (0, 1, 2):
        write_opv2v_frame(second, 5, number, points=7)
    return tmp_path


@pytest.mark.parametrize('workers', [0, 2])
def test_counts(opv2v, workers):
    steps = []
    report = check(Source(f'opv2v:{opv2v}'), on_frame=lambda *step: steps.append(step), workers=workers)
    assert report.format == 'OPV2V'
    assert (report.scenarios, report.frames, report.agents, report.sweeps) == (2, 5, 4, 9)
    assert report.points == 2 * (3 + 4 + 5) + 3 * 7
    assert report.boxes == 2 * 3 + 3
    assert (report.broken_frames, report.problems) == (0, [])
    assert steps == [(k, 5) for k in (1, 2, 3, 4, 5)]


@pytest.fixture
def damaged(opv2v):
    """The kinds of damage, each file with a word of its reason; three files in one frame."""
    first, second = opv2v / 'train' / 'first', opv2v / 'test' / 'second'
    (first / '10' / '000068.yaml').write_text('lidar_pose: [1, 2, .nan, 0, 0, 0]')
    (first / '-1' / '000068.pcd').write_bytes(b'')
    (first / '11' / '000068.pcd').unlink()  # far away from the ego
    cut = first / '11' / '000070.pcd'
    cut.write_bytes(cut.read_bytes()[:-10])
    (second / '5' / '000001.yaml').unlink()  # the ego's, so the frame is gone
    write_opv2v_frame(first, 11, 72)  # when the ego has no frame
    (second / '5' / '000002.yaml').write_text('lidar_pose: [')
    (opv2v / 'test' / 'notes').mkdir()
    return {
        first / '10' / '000068.yaml': 'lidar_pose',
        first / '-1' / '000068.pcd': 'point cloud',
        first / '11' / '000068.pcd': 'No such file',
        cut: 'point cloud|cut short',
        second / '5' / '000001.pcd': '000001.yaml is missing',
        first / '11' / '000072.yaml': 'agent 10, has no 000072.yaml',
        second / '5' / '000002.yaml': 'while parsing',
        opv2v / 'test' / 'notes': 'not a scenario',
    }


def test_all_damage_is_reported(opv2v, damaged):
    lines = []
    report = check(Source(f'opv2v:{opv2v}'), on_problem=lines.append)
    assert lines == report.problems
    assert len(report.problems) == len(damaged)
    for path, reason in damaged.items():
        [problem] = [line for line in report.problems if line.startswith(f'{path}: ')]
        assert any(word in problem for word in reason.split('|'))
    assert (report.frames, report.broken_frames, report.sweeps, report.points) == (4, 3, 1, 7)


def test_command(opv2v):
    done = CliRunner().invoke(app, ['data', 'check', str(opv2v)])
    assert done.exit_code == 0
    assert done.output == 'OPV2V: 2 scenarios, 5 frames, 4 agents, 9 sweeps, 45 points, 9 boxes\n'


def test_command_on_a_damaged_set(opv2v, damaged):
    done = CliRunner().invoke(app, ['data', 'check', str(opv2v)])
    assert done.exit_code == 1
    for path in damaged:
        assert f'{path}: ' in done.output
    assert 'OPV2V: 2 scenarios, 1 frames, 1 agents' in done.output
    assert 'diffkd data check: 8 problems; 3 frames cannot be used' in done.output


def test_dair_v2x(tmp_path):
    """Everything but the infrastructure's cloud is missing: each file is named."""
    for side, number in (('vehicle', '000001'), ('infrastructure', '000002')):
        (tmp_path / f'{side}-side').mkdir()
        (tmp_path / f'{side}-side' / 'data_info.json').write_text(
            f'[{{"pointcloud_path": "velodyne/{number}.pcd", "pointcloud_timestamp": "1626155123000000"}}]'
        )
    (tmp_path / 'cooperative').mkdir()
    (tmp_path / 'cooperative' / 'data_info.json').write_text(PAIR.format())
    write_opv2v_cloud(tmp_path / 'infrastructure-side' / 'velodyne' / '000002.pcd', 2)
    report = check(Source(recognise(str(tmp_path))))
    assert report.format == 'DAIR-V2X-C'
    assert report.broken_frames == 1
    assert [line.removeprefix(f'{tmp_path}/').partition(': ')[0] for line in report.problems] == [
        'vehicle-side/velodyne/000001.pcd',
        'vehicle-side/calib/novatel_to_world/000001.json',
        'vehicle-side/calib/lidar_to_novatel/000001.json',
        'infrastructure-side/calib/virtuallidar_to_world/000002.json',
        'cooperative/label_world/000001.json',
    ]


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(DatasetError, match='not a folder'):
        recognise(str(tmp_path / 'absent'))
    with pytest.raises(
        DatasetError, match=r'none of the known formats \(V2V4Real, V2X-Real, OPV2V, DAIR-V2X-C, rosbag2\)'
    ):
        recognise(str(tmp_path))
    with pytest.raises(DatasetError, match='simulated and has no files'):
        check(Source('sim'))
    (tmp_path / 'cooperative').mkdir()
    with pytest.raises(DatasetError, match='has no vehicle-side, infrastructure-side'):
        check(Source(recognise(str(tmp_path))))
    done = CliRunner().invoke(app, ['data', 'check', str(tmp_path)])
    assert done.exit_code == 1
    assert 'has no vehicle-side' in done.output
