# SPDX-License-Identifier: Apache-2.0
"""What is missing or damaged in a bag costs no more than itself, and is counted with its reason."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from small_bags import STEP, changed, frames, messages_of, write
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.source import Source


@pytest.fixture
def everything():
    return [item for frame in frames(3) for item in messages_of(frame)]


def test_damage_of_a_neighbour_costs_the_neighbour_and_is_counted(tmp_path, everything):
    broken = []
    for stamp, message in everything:
        if (stamp, message.topic) == (2 * STEP, '/cav_2/points'):
            message = message._replace(data=bytes(message.data)[:60])
        if (stamp, message.topic) == (3 * STEP, '/cav_2/odometry'):
            message = message._replace(data=bytes(message.data).replace(b'cav_2/lidar', b'cav_2/wheel'))
        broken.append((stamp, message))
    write(tmp_path / 'bag', broken)
    first, second, third = Source(f'bag:{tmp_path / "bag"}').frames()
    assert [sorted(frame.agents) for frame in (first, second, third)] == [[-1, 2, 5], [-1, 5], [-1, 5]]
    assert first.left_out == {}
    ((reason, count),) = second.left_out.items()
    assert (reason.startswith('cav_2: '), count) == (True, 1)
    ((reason, count),) = third.left_out.items()
    assert "pose of 'cav_2/wheel', but the cloud is in 'cav_2/lidar'" in reason


def test_damage_of_the_ego_costs_the_frame(tmp_path, everything, caplog):
    broken = [
        (stamp, message._replace(data=bytes(message.data)[:60]))
        if (stamp, message.topic) == (2 * STEP, '/cav_5/points')
        else (stamp, message)
        for stamp, message in everything
    ]
    write(tmp_path / 'bag', broken)
    assert [frame.stamp for frame in Source(f'bag:{tmp_path / "bag"}').frames()] == [STEP, 3 * STEP]
    (line,) = caplog.messages
    assert line.startswith('frame 1 left out: ')


@pytest.mark.parametrize('agent', [2, 5])
@pytest.mark.parametrize('nothing', ['no points', 'all NaN'])
def test_an_empty_cloud_is_a_sweep_without_points(tmp_path, everything, agent, nothing):
    def empty(cloud):
        if nothing == 'no points':
            cloud.width, cloud.row_step, cloud.data = 0, 0, np.zeros(0, np.uint8)
        else:
            cloud.data = np.full(len(cloud.data) // 4, np.nan, np.float32).view(np.uint8)

    items = [(s, changed(m, empty) if m.topic == f'/cav_{agent}/points' else m) for s, m in everything]
    for frame in RosbagDataset(write(tmp_path / 'bag', items)):
        assert (sorted(frame.agents), frame.left_out) == ([-1, 2, 5], {})
        assert {a: len(sweep.points) for a, sweep in frame.agents.items()} == {-1: 20, 2: 20, 5: 20} | {
            agent: 0
        }


def test_an_agent_that_never_fits_is_named_with_its_reason(tmp_path):
    """The clock of vehicle 2 is 5 s ahead; the unit has no odometry."""
    items = []
    for frame in frames(3):
        late = replace(frame, stamp=frame.stamp + 5_000_000_000)
        items += [
            item for item in messages_of(frame) if not item[1].topic.startswith(('/cav_2', '/rsu_1/odo'))
        ]
        items += [item for item in messages_of(late) if item[1].topic.startswith('/cav_2')]
    dataset = RosbagDataset(write(tmp_path / 'bag', items))
    for frame in dataset:
        assert list(frame.agents) == [5]
        clock, odometry = sorted(frame.left_out)
        assert clock == (
            'cav_2: no cloud within 0.05 s of that of cav_5; /cav_2/points is stamped 5.100 to 5.300 s, '
            '/cav_5/points 0.100 to 0.300 s: do their clocks differ?'
        )
        assert odometry == 'rsu_1: no usable /rsu_1/odometry or /rsu_1/pose'


def test_a_neighbour_with_another_map_is_left_out(tmp_path, everything):
    def rename(odometry):
        odometry.header.frame_id = 'odom'

    items = [(s, changed(m, rename) if m.topic == '/cav_2/odometry' else m) for s, m in everything]
    frame = RosbagDataset(write(tmp_path / 'maps', items))[0]
    assert frame.left_out == {"cav_2: its poses are in 'odom', the ego's in 'map'": 1}


def test_truths_without_a_size_are_no_truths(tmp_path, everything):
    def shrink(boxes):
        boxes.boxes.reshape(-1, 7)[1, 4] = 0

    items = [(s, changed(m, shrink) if m.topic == '/ground_truth' else m) for s, m in everything]
    for frame in RosbagDataset(write(tmp_path / 'bag', items)):
        np.testing.assert_array_equal(frame.ground_truth.track_ids, [2, -1])
        assert frame.left_out == {'/ground_truth: boxes whose length, width or height is not positive': 1}


@pytest.mark.parametrize(
    ('scale', 'stored', 'read', 'doubt'),
    [
        ('auto', 0.5, 0.5, None),
        ('auto', 51.0, 0.2, None),
        ('auto', 4000.0, 1.0, 'intensities reach 4000: values above 255 are clipped to 255'),
        ('0..1', 51.0, 1.0, 'intensities reach 51, but intensity_scale says 0..1'),
        ('0..255', 0.51, 0.002, 'intensities reach 0.51 only, but intensity_scale says 0..255'),
        ('ignore', 4000.0, 0.0, None),
    ],
)
def test_the_range_of_intensities(tmp_path, everything, scale, stored, read, doubt):
    def set_intensity(cloud):
        cloud.data.view(np.float32).reshape(-1, 4)[:, 3] = stored

    items = [(s, changed(m, set_intensity) if m.topic == '/cav_2/points' else m) for s, m in everything]
    source = Source(f'bag:{write(tmp_path / "bag", items)}', intensity_scale=scale)
    for frame in source.frames():
        np.testing.assert_allclose(frame.agents[2].points[:, 3], read, rtol=1e-5)
    found = [line for line in source.remarks() if 'cav_2: intensit' in line]
    assert len(found) == (doubt is not None)
    assert all(f'cav_2: {doubt}' in line for line in found)


def test_a_dark_cloud_is_read_as_the_others_of_its_sensor(tmp_path, everything):
    """Intensities up to 200, but not above 1 in the first frame: in any order it is divided by 255."""

    def set_intensity(cloud):
        dark = cloud.header.stamp.nanosec == STEP
        cloud.data.view(np.float32).reshape(-1, 4)[:, 3] = 1.0 if dark else 200.0

    items = [(s, changed(m, set_intensity) if m.topic == '/cav_2/points' else m) for s, m in everything]
    frame = RosbagDataset(write(tmp_path / 'bag', items))[0]
    np.testing.assert_allclose(frame.agents[2].points[:, 3], 1 / 255)


def test_equal_stamps_are_reported(tmp_path, everything):
    def zero(message):
        message.header.stamp.nanosec = 0

    items = [(s, changed(m, zero) if m.topic == '/cav_2/points' else m) for s, m in everything]
    remarks = [str(stray) for stray in RosbagDataset(write(tmp_path / 'bag', items)).strays()]
    assert (
        f'{tmp_path / "bag"}: /cav_2/points: 2 messages have the stamp of a later one, which is used instead'
        in remarks
    )


def test_what_is_left_out_is_printed_by_check_convert_and_evaluate(tmp_path, everything, model):
    def spoil(stamp, message):
        if (stamp, message.topic) == (2 * STEP, '/cav_2/points'):
            return changed(message, lambda cloud: setattr(cloud, 'point_step', 1))
        return message

    bag = write(tmp_path / 'bag', [(stamp, spoil(stamp, message)) for stamp, message in everything])
    expected = 'left out 1 times: cav_2: '
    runner = CliRunner()
    done = runner.invoke(app, ['data', 'check', f'bag:{bag}'])
    assert (done.exit_code, expected in done.output) == (1, True), done.output
    done = runner.invoke(app, ['bag', 'convert', f'bag:{bag}', str(tmp_path / 'copy')])
    assert expected in done.output
    options = ['--source', f'bag:{bag}', '--corruptions', 'none', '--workers', '1', '--model', str(model)]
    out = tmp_path / 'out'
    for _ in ('computed', 'kept'):
        done = runner.invoke(app, ['evaluate', '--out', str(out), *options])
        assert done.exit_code == 0, done.output
        assert f'Of the scored frames {expected}' in done.output
    ((reason, count),) = json.loads((out / 'summary.json').read_text())['run']['left_out']['parts'].items()
    assert (reason.startswith('cav_2: '), count) == (True, 1)
