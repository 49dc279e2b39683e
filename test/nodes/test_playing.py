# SPDX-License-Identifier: Apache-2.0
"""One run of player, vehicle, ego, evaluator and recorder, each in a process of its own."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from diffkd_ros.msg import Boxes3D
from nav_msgs.msg import Odometry
from patience import PATIENCE
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import PointCloud2

from diffkd_ros.bags.answers import read_answers
from diffkd_ros.bags.convert import write_bag
from diffkd_ros.evaluation.recorded import score_answer
from diffkd_ros.geometry.boxes import ground_truth_in, within, without_own
from diffkd_ros.launching import graph
from diffkd_ros.messages.reading import boxes_of, stamp_of
from diffkd_ros.metrics.average_precision import AveragePrecision
from diffkd_ros.metrics.frame_results import join
from diffkd_ros.metrics.protocol import protocol_named
from diffkd_ros.nodes.playing.feeder import played as frame_as_messages
from diffkd_ros.sources.bag_files import message_types
from diffkd_ros.sources.restamping import restamped
from diffkd_ros.sources.rosbag import RosbagDataset, recorded_stamp
from diffkd_ros.sources.source import Source

FRAMES = 6
DRIVE = 4
SEED = 12


@pytest.fixture(scope='module')
def run(group, model, tmp_path_factory):
    """Six frames of two scenarios in lock-step, again from the recording, then two seconds in real time."""
    out = tmp_path_factory.mktemp('run')
    common = {'model': str(model)}
    for spec in graph.vehicle_specs([1, 2], 1, common):
        group.start(spec)
    # The seed in the source takes precedence over the parameter.
    play = {
        'source': f'sim:{SEED}',
        'seed': SEED + 1,
        'vehicles': 2,
        'frames_per_scenario': DRIVE,
        'timeout': 60.0,
    }
    lockstep = {**play, 'mode': 'lockstep', 'frames': FRAMES, 'out': str(out / 'lockstep.json')}
    replay = {'source': f'bag:{out / "bag"}', 'mode': 'lockstep', 'timeout': 60.0}
    for name, playing in (('', lockstep), ('replayed_', replay)):
        watchers = [
            group.start(
                graph.evaluator_spec(1, {**common, 'out': str(out / f'{name}evaluation.json')}),
                label=f'{name}evaluator',
            ),
            group.start(graph.recorder_spec([1, 2], 1, str(out / f'{name}bag')), label=f'{name}recorder'),
        ]
        group.wait_ready(PATIENCE)
        spec = graph.player_spec(playing, evaluated=True, recorded=True)
        player = group.start(spec, label=f'{name}lockstep')
        assert player.wait(PATIENCE), player.tail()
        assert player.returncode == 0, player.tail()
        group.stop([*watchers, player], patience=PATIENCE)
    realtime = {**play, 'mode': 'realtime', 'rates': [2.0, 4.0], 'seconds': 1.0, 'seconds_more': 1.0}
    player = group.start(graph.player_spec({**realtime, 'out': str(out / 'realtime.json')}), label='realtime')
    assert player.wait(PATIENCE), player.tail()
    assert player.returncode == 0, player.tail()
    return out


@pytest.fixture(scope='module')
def played():
    simulator = {'agents': 2, 'frames_per_scenario': DRIVE}
    return list(itertools.islice(Source(f'sim:{SEED}', simulator=simulator).frames(), FRAMES))


def test_in_lockstep_every_frame_is_fused_and_answered(run):
    result = json.loads((run / 'lockstep.json').read_text())
    (counts,) = result['runs']
    assert (counts['sent'], counts['answered'], result['features_missing']) == (FRAMES, FRAMES, 0)
    evaluation = json.loads((run / 'evaluation.json').read_text())
    assert (
        evaluation['frames_answered'] == evaluation['frames_scored'] == evaluation['frames_fused'] == FRAMES
    )
    assert evaluation['features_fused'] == {'cav_2': FRAMES}
    assert evaluation['features_refused'] == {}
    assert evaluation['link']['cav_2']['lost'] == 0


def test_the_bag_gives_back_what_was_played(run, played):
    source = RosbagDataset(run / 'bag')
    frames = list(source)
    assert (source.agents, source.ego, source.incomplete, len(frames)) == ([1, 2], 1, 0, FRAMES)
    for frame, original in zip(frames, played, strict=True):
        for agent, sweep in original.agents.items():
            recorded = frame.agents[agent]
            np.testing.assert_array_equal(recorded.points, sweep.points)
            np.testing.assert_array_equal(recorded.ring, sweep.ring)
            np.testing.assert_array_equal(recorded.time, sweep.time)
            np.testing.assert_allclose(recorded.pose, sweep.pose, atol=1e-9)
            np.testing.assert_allclose(recorded.velocity, sweep.velocity, atol=1e-9)
        truth, expected = ground_truth_in(frame, 1), ground_truth_in(original, 1)
        np.testing.assert_allclose(truth.boxes[:, :6], expected.boxes[:, :6], atol=1e-4)
        np.testing.assert_array_equal(truth.track_ids, expected.track_ids)
        np.testing.assert_array_equal(truth.num_points, expected.num_points)
    steps = np.diff([frame.stamp for frame in frames])
    assert sorted(set(steps)) == [100_000_000, 10_000_000_000]


def test_the_evaluator_agrees_with_the_recorded_detections(run, card):
    grid = card.grid
    precision = AveragePrecision()
    shared = 0
    with AnyReader([run / 'bag'], default_typestore=message_types()) as reader:
        found = {'/cav_1/detections': {}, '/ground_truth': {}}
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            if connection.topic in found:
                found[connection.topic][stamp_of(message.header)] = boxes_of(message)
            elif connection.topic in (graph.V2X_TOPIC, graph.V2X_CHUNKS_TOPIC):
                shared += len(data)
    for stamp, truth in found['/ground_truth'].items():
        truth = within(without_own(truth, 1), *grid.area)
        precision.add(found['/cav_1/detections'][stamp], truth)
    evaluation = json.loads((run / 'evaluation.json').read_text())
    assert evaluation['average_precision'] == {str(k): v for k, v in precision.compute().items()}
    assert evaluation['truths_counted'] == precision.truths > 0
    assert evaluation['link']['cav_2']['bytes'] == shared
    # Six messages at the 10 Hz of the simulated time; the gap between the scenarios does not count.
    assert evaluation['link']['cav_2']['mbit_per_s'] == pytest.approx(shared * 8e-6 / FRAMES * 10)


KINDS = {'points': PointCloud2, 'odometry': Odometry, 'ground_truth': Boxes3D, 'detections': Boxes3D}


def recorded(bag):
    """Clouds, poses, ground truth and detections by topic and stamp: every field, bit for bit.

    The serialised bytes may differ in the padding between fields of different alignment.
    """
    with AnyReader([bag], default_typestore=message_types()) as reader:
        return {
            (connection.topic, recorded_stamp(data)): deserialize_message(bytes(data), KINDS[kind])
            for connection, _, data in reader.messages()
            if (kind := connection.topic.rpartition('/')[2]) in KINDS
        }


def test_a_replayed_recording_gives_the_same_detections_bit_for_bit(run):
    """Input and output are equal; vehicle and ego keep running between the two runs."""
    first, again = recorded(run / 'bag'), recorded(run / 'replayed_bag')
    # Two vehicles' clouds and poses, the ground truth, the ego's detections.
    assert len(first) == FRAMES * 6
    assert sum(len(message.scores) for (topic, _), message in first.items() if 'detections' in topic) > FRAMES
    assert first == again
    before, after = (json.loads((run / f'{name}evaluation.json').read_text()) for name in ('', 'replayed_'))
    assert before['average_precision'] == after['average_precision']
    assert after['frames_scored'] == after['frames_fused'] == FRAMES


def test_offline_the_answers_score_as_in_the_evaluator(run):
    paths = [run / 'bag']
    answers = read_answers(paths, 1)
    dataset = RosbagDataset(paths)
    results = join([score_answer(f, answers[f.stamp], protocol_named('sim')) for f in dataset])
    evaluation = json.loads((run / 'evaluation.json').read_text())
    for iou, value in evaluation['average_precision'].items():
        assert results.average_precision(float(iou)) == pytest.approx(value, abs=1e-9)
    assert results.counted_truths == evaluation['truths_counted']
    (neighbour,) = answers[dataset[0].stamp].status.neighbours
    assert (neighbour.agent, neighbour.accepted) == ('cav_2', True)
    assert results.inference.sent_bytes.sum() == evaluation['link']['cav_2']['bytes']


def test_a_player_sends_what_a_written_bag_holds(played, tmp_path):
    """The bag writer makes its messages without ROS."""
    write_bag(played[:1], tmp_path / 'bag')
    (frame,) = restamped(played[:1], RosbagDataset(tmp_path / 'bag')[0].stamp)
    sent = frame_as_messages(frame)
    expected = {('/ground_truth', frame.stamp): sent.ground_truth}
    for name, cloud in sent.clouds.items():
        expected[f'/{name}/points', frame.stamp] = cloud
        expected[f'/{name}/odometry', frame.stamp] = sent.odometry[name][0]
    assert recorded(tmp_path / 'bag') == expected


def test_in_real_time_the_rate_is_kept_whatever_is_answered(run):
    runs = json.loads((run / 'realtime.json').read_text())['runs']
    assert [(r['rate'], r['sent']) for r in runs] == [(2.0, 2), (4.0, 4)]
    assert all(0 <= r['answered'] <= r['sent'] for r in runs)
