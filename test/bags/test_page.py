# SPDX-License-Identifier: Apache-2.0
"""The HTML page of a recording: complete in itself, and true to the recording."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import small_bags
from patience import PATIENCE
from rosbags.typesys import get_types_from_msg
from typer.testing import CliRunner

from diffkd_ros.bags import page
from diffkd_ros.bags.answers import read_answers
from diffkd_ros.bags.writer import BagWriter, serialised
from diffkd_ros.cli import app
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.messages.building import boxes_message, header_message, make_from, odometry_message
from diffkd_ros.messages.names import degradation_name
from diffkd_ros.sources.dataset import DatasetError

# A recording of an earlier version: its own definitions are in the bag.
STATUS = """
std_msgs/Header header
string model_id
diffkd_ros/NeighbourStatus[] neighbours
float32 ego_reliability
string[] stages
float32[] latency_ms
"""
NEIGHBOUR = """
string agent_id
bool accepted
string reason
float32 age
float32 gate_weight
uint32 bytes
uint32 sequence
"""
TRUTH = np.array(
    [[10.0, 0, 0, 4, 2, 1.5, 0], [20, 5, 0, 4, 2, 1.5, 1], [30, 0, 0, 4, 2, 1.5, 0], [2, 9, 0, 4, 2, 1.5, 0]]
)
FOUND = np.array(
    [[10.1, 0, 0, 4, 2, 1.5, 0], [-20, -5, 0, 4, 2, 1.5, 0], [2, 9, 0, 4, 2, 1.5, 0], [40, 0, 0, 4, 2, 1, 0]]
)


def frames():
    rng = np.random.default_rng(1)
    for index in range(4):
        agents = {}
        for agent, x in ((1, 0.0), (2, 15.0)):
            pose = np.eye(4)
            pose[0, 3] = x
            points = rng.uniform((-30, -20, 0, 0), (30, 20, 2, 1), (4000, 4)).astype(np.float32)
            points[:500, 2] = -1.7
            agents[agent] = AgentSweep(points, pose)
        truth = Boxes3D(TRUTH, track_ids=np.arange(10, 14), num_points=np.array([50, 50, 50, 2]))
        yield CoopFrame(agents, 1, (index + 1) * 100_000_000, truth)


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    """Four frames, three of them answered; in the last answer the neighbour was refused."""
    path = tmp_path_factory.mktemp('recorded') / 'a & b'
    with BagWriter(path) as writer:
        types = writer.types
        for name, text in (('NeighbourStatus', NEIGHBOUR), ('FusionStatus', STATUS)):
            del types.fielddefs[f'diffkd_ros/msg/{name}']
            types.register(get_types_from_msg(text, f'diffkd_ros/msg/{name}'))
        make = make_from(types.types)
        for index, frame in enumerate(frames()):
            for topic, kind, data in serialised(frame, types):
                writer.write(topic, kind, frame.stamp, data)
            if index == 3:
                break
            header = header_message(frame.stamp, 'cav_1/lidar', make)
            boxes = Boxes3D(FOUND, scores=np.array([0.9, 0.8, 0.7, 0.2], np.float32))
            found = boxes_message(header, boxes, ['vehicle'], make)
            neighbour = types.types['diffkd_ros/msg/NeighbourStatus'](
                agent_id='cav_2',
                accepted=index < 2,
                reason='' if index < 2 else 'from the <!--<script></script> future',
                age=float('nan') if index == 1 else 0.1,
                gate_weight=0.25,
                bytes=80_000,
                sequence=index,
            )
            status = types.types['diffkd_ros/msg/FusionStatus'](
                header=header,
                model_id='m',
                neighbours=[neighbour],
                ego_reliability=0.5,
                stages=['encode', 'fuse', 'total'],
                latency_ms=np.array([30, 80, 115.04], np.float32),
            )
            for topic, message in (('detections', found), ('fusion_status', status)):
                kind = message.__msgtype__
                writer.write(f'/cav_1/{topic}', kind, frame.stamp, types.serialize_cdr(message, kind))
    return path


@pytest.fixture(scope='module')
def text(bag, tmp_path_factory):
    out = tmp_path_factory.mktemp('page') / 'page.html'
    done = CliRunner().invoke(app, ['bag', 'page', str(bag), '--out', str(out)])
    assert done.exit_code == 0, done.output
    assert '4 frames, 3 with detections' in done.output
    return out.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def content(text):
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)[1])


class References(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.scripts = [], 0

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ('src', 'href', 'action')]
        self.scripts += tag == 'script'


def test_it_needs_no_other_file(text):
    references = References()
    references.feed(text)
    assert references.found == []
    assert references.scripts == 2
    assert not re.search(r'https?:|@import|url\(|fetch\(|@DATA@|@TITLE@', text)
    assert '<title>a &amp; b</title>' in text


def test_boxes_are_judged_as_in_the_evaluation(content):
    first = content['frames'][0]
    # Found; a false alarm; on a vehicle with too few returns, so neither. The weak one is not shown.
    assert [box[5] for box in first['detections']] == [1, 0, -1]
    assert [box[5] for box in first['truth']] == [1, 0, 0, -1]
    assert first['detections'][0][:5] == [10.1, 0, 4, 2, 0]
    assert content['frames'][3]['detections'] == []
    assert not content['frames'][3]['answered']


def test_status_and_places_are_those_recorded(content):
    first, last = content['frames'][0], content['frames'][2]
    assert first['neighbours'] == {
        'cav_2': {'weight': 0.25, 'accepted': True, 'reason': '', 'age': 0.1, 'kilobytes': 80.0}
    }
    assert last['neighbours']['cav_2']['reason'] == 'from the <!--<script></script> future'
    assert first['stages'] == {'encode': 30.0, 'fuse': 80.0, 'total': 115.0}
    assert first['reliability'] == 0.5
    # Recorded before there were levels.
    assert first['degradation'] is None
    assert first['places'] == {'cav_1': [0, 0], 'cav_2': [15, 0]}
    assert [frame['stamp'] for frame in content['frames']] == [0.1, 0.2, 0.3, 0.4]


def test_a_status_that_is_not_finite_is_left_out_and_its_detections_are_not(content):
    frame = content['frames'][1]
    assert (frame['neighbours'], frame['reliability'], frame['stages']) == ({}, None, {})
    assert len(frame['detections']) == 3


def test_what_others_say_ends_or_begins_no_element(text):
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)[1]
    assert '<' not in data


def decoded(text):
    """Cell numbers, read as the page's own script reads them."""
    cells, cell, step, shift = [], 0, 0, 0
    for byte in base64.b64decode(text):
        step |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            cell += step
            cells.append(cell)
            step = shift = 0
    return np.array(cells)


def test_points_are_where_they_were_without_the_ground(content):
    frame = next(frames())
    for agent, x in ((1, 0.0), (2, 15.0)):
        cells = decoded(content['frames'][0]['points'][f'cav_{agent}'])
        assert 500 < len(cells) <= page.MAX_CELLS
        assert (np.diff(cells) > 0).all()
        centres = np.stack([cells % content['columns'], cells // content['columns']], axis=1) + 0.5
        centres = centres * content['cell'] + content['extent'][:2]
        points = frame.agents[agent].points[:, :3] + (x, 0, 0)
        above = points[points[:, 2] > -1.7][:, :2]
        nearest = np.abs(above[None] - centres[:, None]).max(axis=2).min(axis=1)
        assert nearest.max() <= content['cell'] / 2 + 1e-4


def test_few_frames_are_spread_over_the_recording(bag, tmp_path):
    out = tmp_path / 'page.html'
    assert page.write_page([bag], out, frames=2) == (2, 1)
    assert out.stat().st_size < 100_000


@pytest.mark.parametrize('kept', [13, 30, 50])
def test_a_damaged_answer_is_named(tmp_path, kept):
    with BagWriter(tmp_path / 'bag') as writer:
        boxes = Boxes3D(FOUND, scores=np.full(4, 0.5, np.float32))
        make = make_from(writer.types.types)
        message = boxes_message(header_message(1, 'cav_1/lidar', make), boxes, ['vehicle'], make)
        data = bytes(writer.types.serialize_cdr(message, message.__msgtype__))
        writer.write('/cav_1/detections', message.__msgtype__, 1, data[:kept])
    with pytest.raises(DatasetError, match=r'answers of cav_1 in .*bag'):
        read_answers([tmp_path / 'bag'], 1)


def test_damaged_answers_cost_themselves(tmp_path, caplog):
    with BagWriter(tmp_path / 'bag') as writer:
        boxes = Boxes3D(FOUND, scores=np.full(4, 0.5, np.float32))
        make = make_from(writer.types.types)
        for stamp, kept, score in ((1, None, 0.5), (2, 50, 0.5), (3, None, 0.5), (4, None, np.inf)):
            boxes.scores[0] = score
            message = boxes_message(header_message(stamp, 'cav_1/lidar', make), boxes, ['vehicle'], make)
            data = bytes(writer.types.serialize_cdr(message, message.__msgtype__))
            writer.write('/cav_1/detections', message.__msgtype__, stamp, data[:kept])
    assert list(read_answers([tmp_path / 'bag'], 1)) == [1, 3]
    assert caplog.messages[0].startswith('2 damaged answers are left out; the first: answers of cav_1 in ')


def test_why_no_frame_can_be_read_is_said(tmp_path):
    broken = [
        (stamp, m._replace(data=bytes(m.data)[:60]) if m.topic == '/cav_5/points' else m)
        for frame in small_bags.frames(2)
        for stamp, m in small_bags.messages_of(frame)
    ]
    bag = small_bags.write(tmp_path / 'bag', broken)
    done = CliRunner().invoke(app, ['bag', 'page', str(bag), '--out', str(tmp_path / 'page.html')])
    assert done.exit_code == 1
    assert f'has no frame that can be read; the first: {bag}: cav_5 at 100000000: ' in done.output


@pytest.mark.parametrize('low', [float('nan'), float('inf'), 0.0, 40.0])
def test_a_foreign_area_that_is_not_valid_is_ignored(tmp_path, low):
    def feature(high):
        make = small_bags.MAKE
        pose = odometry_message(header_message(1, 'map', make), 'lidar', np.eye(4), None, make)
        return small_bags.made(
            '/v2x/features', 'diffkd_ros/msg/BevFeature', header=pose.header, agent_id='cav_9', sequence=0,
            model_id='m', map_frame='map', pose=pose.pose, twist=pose.twist,
            grid_range=np.array([low, low, 0, high, high, 1], np.float32), channels=1, height=1, width=1,
            encoding=1, scales=np.zeros(0, np.float32), data=np.zeros(0, np.uint8),
        )  # fmt: skip

    items = [item for frame in small_bags.frames(2) for item in small_bags.messages_of(frame)]
    bag = small_bags.write(tmp_path / 'bag', [(1, feature(0.0)), *items])
    out = tmp_path / 'page.html'
    assert page.write_page([bag], out) == (2, 0)
    assert '"area":null' in out.read_text(encoding='utf-8')


def test_no_bag_no_page(tmp_path):
    done = CliRunner().invoke(app, ['bag', 'page', str(tmp_path), '--out', str(tmp_path / 'page.html')])
    assert done.exit_code == 1
    assert 'is not a bag' in done.output
    assert not (tmp_path / 'page.html').exists()


@pytest.mark.skipif(shutil.which('node') is None, reason='no JavaScript engine is installed')
def test_the_script_reads_and_draws_every_frame(text, tmp_path):
    """Run by Node.js with a document that counts what is drawn."""
    script = re.findall(r'<script>(.*?)</script>', text, re.DOTALL)[0]
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)[1]
    program = tmp_path / 'page.js'
    program.write_text(f"""
const drawn = {{}};
const pen = new Proxy({{ measureText: text => ({{ width: 6 * text.length }}) }}, {{
  get: (own, name) => own[name] || ((...a) => {{
    if (a.some(v => typeof v === 'number' && !Number.isFinite(v))) throw new Error(name + ' ' + a);
    drawn[name] = (drawn[name] || 0) + 1;
  }}),
  set: (own, name, value) => true,
}});
const make = () => ({{ style: {{}}, clientWidth: 900, checked: true, value: 1, textContent: '',
  append() {{}}, replaceChildren() {{}}, getContext: () => pen }});
const parts = {{ data: {{ textContent: {json.dumps(data)} }} }};
globalThis.document = {{ getElementById: id => parts[id] ||= make(), createElement: make }};
globalThis.window = {{ devicePixelRatio: 1 }};
globalThis.location = {{ hash: '' }};
{script}
for (let k = 0; k < frames.length; k++) show(k);
const count = cells(frames[0].points.cav_1).length;
console.log(JSON.stringify({{ time: parts.time.textContent, drawn, cells: count }}));
""")
    done = subprocess.run(['node', program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result['time'] == 'a & b_000, 0.30 s, 4 of 4'
    cells = decoded(json.loads(data)['frames'][0]['points']['cav_1'])
    assert result['cells'] == len(cells)
    # Shown once at the start, then each: at least the boxes' outlines and arrows.
    assert result['drawn']['closePath'] == 5 * 4 + 3 * 4


@pytest.mark.parametrize(
    ('kind', 'level', 'said'),
    [('string', 'x', 'invalid literal'), ('int8', -1, 'degradation is -1'), ('uint8[3]', np.ones(3), '')],
)
def test_an_invalid_level_of_degradation_damages_its_status_only(tmp_path, caplog, kind, level, said):
    """Of a recording with another definition of the message."""
    with BagWriter(tmp_path / 'bag') as writer:
        types, name = writer.types, 'diffkd_ros/msg/FusionStatus'
        del types.fielddefs[name]
        types.register(get_types_from_msg(f'{STATUS}{kind} degradation\n', name))
        make = make_from(types.types)
        header = header_message(100_000_000, 'cav_1/lidar', make)
        boxes = Boxes3D(FOUND, scores=np.array([0.9, 0.8, 0.7, 0.2], np.float32))
        status = types.types[name](
            header=header,
            model_id='m',
            neighbours=[],
            ego_reliability=0.5,
            stages=['fuse'],
            latency_ms=np.array([7], np.float32),
            degradation=np.asarray(level, np.uint8) if np.ndim(level) else level,
        )
        for topic, message in (
            ('detections', boxes_message(header, boxes, ['vehicle'], make)),
            ('fusion_status', status),
        ):
            kind = message.__msgtype__
            writer.write(f'/cav_1/{topic}', kind, 100_000_000, types.serialize_cdr(message, kind))
    (answer,) = read_answers([tmp_path / 'bag'], 1).values()
    assert len(answer.detections) == 4
    assert answer.status is None
    (record,) = caplog.records
    assert '1 damaged answers are left out' in record.message
    assert said in record.message


def test_a_level_of_a_later_version_is_named_by_its_number():
    assert [degradation_name(level) for level in (0, 7)] == ['full', 'level 7']
