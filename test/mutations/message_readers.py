# SPDX-License-Identifier: Apache-2.0
"""Messages of sensors, of other vehicles and of OpenCDA."""

from __future__ import annotations

import copy
import json
import socket
import struct
import zlib
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from cases import Reader
from changes import damaged, json_case, number_of_type
from diffkd_ros.msg import BevFeature
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Quaternion
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from diffkd_ros.cosim.opencda.diffkd_opencda import GatewayError, receive_message
from diffkd_ros.cosim.opencda.steps import StepError, read_step, rows_in_carla
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.lidar_pose import mounted
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.messages.building import fill
from diffkd_ros.messages.clouds import INTENSITY_SCALES, layout_of, read_cloud
from diffkd_ros.messages.poses import pose_of_odometry
from diffkd_ros.nodes.input.pose_buffer import PoseBuffer
from diffkd_ros.nodes.link.neighbours import NeighbourSelector
from diffkd_ros.runtime import features
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.codec import encode

SECOND = 10**9
U32 = 0, 2**32 - 1


class Cloud(Reader):
    """A `sensor_msgs/PointCloud2` with values that the message can hold."""

    names = '', 'x', 'y', 'intensity', 'ring', 'time', 'é', 'a b', '\x00', 'f0', 'X', 'x' * 1000

    def valid(self) -> list[Any]:
        return [self.message(Random(number)) for number in range(20)]

    def message(self, rng: Random) -> dict[str, Any]:
        """A valid message as a document."""
        names = {'x': 7, 'y': 7, 'z': 7, 'intensity': rng.choice((2, 4, 7, 8))}
        names |= rng.choice(({}, {'ring': 4, 'time': 7}, {'ring': 7, 'time': 8}, {'t': 6, 'ring': 2}))
        offset, fields = 0, []
        for name, datatype in names.items():
            fields.append({'name': name, 'offset': offset, 'datatype': datatype, 'count': 1})
            offset += (1, 1, 2, 2, 4, 4, 4, 8)[datatype - 1] + rng.choice((0, 0, 0, 3))
        height, width, padding = rng.choice((1, 1, 3)), rng.choice((1, 4, 20)), rng.choice((0, 0, 5))
        row = np.zeros(width * offset + padding, np.uint8)
        for field in fields[:3]:
            for k in range(width):
                start = k * offset + field['offset']
                row[start : start + 4] = np.frombuffer(struct.pack('<f', rng.uniform(1, 50)), np.uint8)
        return {
            'height': height, 'width': width, 'fields': fields, 'is_bigendian': False, 'point_step': offset,
            'row_step': len(row), 'data': bytes(row.tobytes() * height), 'is_dense': True, 'scale': 'auto',
        }  # fmt: skip

    def case(self, rng: Random) -> Any:
        message = self.message(rng)
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            field = rng.choice(message['fields'] or [{}])
            fields = [
                copy.deepcopy(rng.choice(message['fields']))
                for _ in message['fields'][:20] * rng.choice((0, 1, 50))
            ]
            target, key, value = rng.choice(
                (
                    (message, rng.choice(('height', 'width')), number_of_type(rng, *U32)),
                    (message, rng.choice(('point_step', 'row_step')), number_of_type(rng, *U32)),
                    (field, rng.choice(('offset', 'count')), number_of_type(rng, *U32)),
                    (field, 'datatype', rng.randrange(rng.choice((10, 256)))),
                    (field, 'name', rng.choice(self.names)),
                    (message, 'fields', fields),
                    (message, 'is_bigendian', True),
                    (message, 'scale', rng.choice(INTENSITY_SCALES)),
                )
            )
            target[key] = value
        data = bytearray(message['data'])
        for _ in range(rng.choice((0, 0, 1, 3, 50))):
            value = rng.choice((np.nan, np.inf, -np.inf, 0.0, 3e38, 1e-45, 1e30, 255, 70000.0))
            start = rng.randrange(len(data) - 7)
            packed = struct.pack(rng.choice(('<f', '>f', '<d')), value)
            data[start : start + len(packed)] = packed
        message['data'] = damaged(bytes(data), rng) if rng.random() < 0.2 else bytes(data)
        return message

    def read(self, case: Any) -> Any:
        fields = [SimpleNamespace(**field) for field in case['fields']]
        cloud = SimpleNamespace(**case | {'fields': fields, 'data': np.frombuffer(case['data'], np.uint8)})
        layout_of(cloud)
        points = read_cloud(cloud, case['scale'])
        return points.points, points.ring, points.time, points.largest_intensity


class Gateway(Reader):
    """A message of OpenCDA to the gateway: the head, and the sweeps behind it."""

    def head(self) -> dict[str, Any]:
        """A valid head of two agents with three points each."""
        agents = [
            {
                'agent': number, 'points': 3, 'lidar': [1.0 * number, 2.0, 3.0, 0.0, 90.0, 0.0],
                'rotation': [10.0, 0.1], 'velocity': [1.0, 2.0, 0.0], 'reach': 70.0,
                'body': {'vehicle': [1.0, 2, 0, 0, 0, 0], 'box': [0.0, 0, 1, 0, 0, 0], 'extent': [2.0, 1, 1]},
                'localised': [[1.0, 2.0, 90.0], [1.1, 2.0, 90.0]],
            }
            for number in (1, 2)
        ]  # fmt: skip
        return {'protocol': 2, 'frame': 5, 'stamp': 0.25, 'agents': agents}

    def data(self) -> bytes:
        """The sweeps."""
        return np.linspace(0.1, 1, 24, dtype='<f4').tobytes()

    def valid(self) -> list[Any]:
        return [json.dumps(self.head()).encode() + b'\n' + self.data()]

    def case(self, rng: Random) -> Any:
        data = self.data()
        if rng.random() < 0.3:
            values = np.frombuffer(data, '<f4').copy()
            values[rng.randrange(len(values))] = rng.choice((np.nan, np.inf, -3e38, 1e30))
            data = values.tobytes()
        data = damaged(data, rng) if rng.random() < 0.1 else data
        return json_case(self.head(), rng).replace(b'\n', b' ') + b'\n' + data

    def read(self, case: Any) -> Any:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
            theirs.sendall(struct.pack('<I', len(case)) + case)
            theirs.close()
            try:
                head, data = receive_message(ours, 1 << 21, 2.0)
            except GatewayError as error:
                # The adapter's own error, since it runs without this package.
                raise StepError(str(error)) from error
        step = read_step(head, data, (1, 2), 1)
        boxes = Boxes3D(np.ones((1, 7)), scores=np.ones(1))
        rows = rows_in_carla(boxes, step.frame.agents[1].pose, step.ego_body)
        body = step.ego_body and (step.ego_body.pose, step.ego_body.size)
        return step.frame.agents, step.frame.stamp, body, rows


class Feature(Reader):
    """A `diffkd_ros/BevFeature` of a neighbour: everything the ego checks and decodes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.card = ModelCard(
            card_format=1, name='m', description='', grid=BevGrid(-8, -4, -1, 8, 4, 1, 8, 16), channels=4,
            max_agents=3, class_names=['vehicle'], min_score=0.1, nms_iou=0.1, max_boxes=10,
            files={'encoder.onnx': '0' * 64},
        )  # fmt: skip
        rng = np.random.default_rng(1)
        occupied = rng.random((8, 16)) < 0.3
        self.encoded = encode(
            features.BevFeature(
                (rng.normal(size=(4, 8, 16)) * occupied).astype(np.float32), occupied.astype(np.float32)
            )
        )

    def document(self) -> dict[str, Any]:
        """A valid message as a document."""
        return {
            'agent_id': 'cav_2', 'sequence': 1, 'sec': 1, 'nanosec': 0, 'model_id': self.card.model_id,
            'map_frame': 'map', 'position': [1.0, 2.0, 3.0], 'orientation': [0.0, 0.0, 0.0, 1.0],
            'channels': 4, 'height': 8, 'width': 16, 'encoding': 1,
            'grid_range': list(map(float, self.card.grid.range)),
            'scales': list(map(float, self.encoded.scales)), 'data': self.encoded.data,
        }  # fmt: skip

    def valid(self) -> list[Any]:
        return [[self.document()]]

    def case(self, rng: Random) -> Any:
        return [self._damaged(rng) for _ in range(rng.choice((1, 1, 2, 5)))]

    def _damaged(self, rng: Random) -> dict[str, Any]:
        message = self.document()
        message['agent_id'] = rng.choice(
            ('cav_2', 'cav_3', 'rsu_1', 'cav_1', '', 'x' * 500, 'é\n', '[', 'cav_02')
        )
        for _ in range(rng.choice((0, 1, 1, 2))):
            what = rng.randrange(6)
            if what == 0:
                key = rng.choice(('position', 'orientation', 'grid_range', 'scales'))
                message[key][rng.randrange(3)] = rng.choice(
                    (np.nan, np.inf, -1.0, 0.0, 1e308, 1e-308, 999.9, 3.4e38)
                )
            elif what == 1:
                message['scales'] = message['scales'] * rng.choice((1, 2, 100)) + [1.0]
            elif what == 2:
                message['data'] = damaged(message['data'], rng, rng.choice((1, 3)))
            elif what == 3:
                raw = damaged(zlib.decompress(self.encoded.data), rng, rng.choice((1, 3)))
                message['data'] = zlib.compress(rng.choice((raw, raw, raw * 1000, bytes(300_000))))
            elif what == 4:
                key, bits = rng.choice(
                    (
                        ('channels', 16),
                        ('height', 16),
                        ('width', 16),
                        ('encoding', 8),
                        ('sequence', 32),
                        ('nanosec', 32),
                    )
                )
                message[key] = number_of_type(rng, 0, 2**bits - 1)
            else:
                message['sec'] = number_of_type(rng, -(2**31), 2**31 - 1)
        return message

    def read(self, case: Any) -> Any:
        selector = NeighbourSelector(self.card, 'cav_1', 0.5, 0.05, link_rate=1e5)
        selector.own_sweep(SECOND)
        for content in case:
            content = dict(content)
            header = Header(frame_id='')
            header.stamp.sec, header.stamp.nanosec = content.pop('sec'), content.pop('nanosec')
            position, orientation = (
                kind(**dict(zip('xyzw', content.pop(name), strict=False)))
                for kind, name in ((Point, 'position'), (Quaternion, 'orientation'))
            )
            pose = PoseWithCovariance(pose=Pose(position=position, orientation=orientation))
            scales, data, grid_range = (content.pop(name) for name in ('scales', 'data', 'grid_range'))
            message = BevFeature(header=header, pose=pose, **content)
            message.grid_range = np.array(grid_range, np.float32)
            fill(message.scales, np.array(scales, np.float32))
            message.data.frombytes(data)
            selector.receive(BevFeature, serialize_message(message), {})
        verdicts = selector.select(SECOND, np.eye(4), 'map')
        selector.items()
        used = [v for v in verdicts if v.accepted]
        warps = grid_warps([np.eye(4), *(v.pose for v in used)], self.card.grid)
        return warps, [
            (v.age, v.pose, v.feature and (v.feature.feature, v.feature.density)) for v in verdicts
        ]


class Odometry(Reader):
    """Three `nav_msgs/Odometry` and the pose between them, mounted on a vehicle."""

    def message(self, number: int) -> dict[str, Any]:
        """A valid message as a document."""
        return {
            'stamp': SECOND + number * SECOND // 10, 'position': [1.0 + number, 2.0, 3.0],
            'orientation': [0.0, 0.0, 0.6, 0.8], 'linear': [10.0, 0.0, 0.0], 'angular': [0.0, 0.0, 0.1],
            'covariance': (0.01 * np.eye(6)).ravel().tolist(),
            'twist_covariance': (0.01 * np.eye(6)).ravel().tolist(),
        }  # fmt: skip

    def valid(self) -> list[Any]:
        return [[self.message(number) for number in range(3)]]

    def case(self, rng: Random) -> Any:
        messages = [self.message(number) for number in range(rng.choice((1, 2, 3, 3)))]
        for _ in range(rng.choice((1, 1, 2, 5))):
            message = rng.choice(messages)
            if rng.random() < 0.15:
                message['stamp'] += rng.choice((-SECOND // 10, SECOND // 100, 1, -1, 10 * SECOND))
                continue
            name = rng.choice([name for name in message if name != 'stamp'])
            values = message[name]
            if rng.random() < 0.2:
                message[name] = [rng.choice((-1.0, 0.0, 1e150, 1e-200)) * value for value in values]
            else:
                values[rng.randrange(len(values))] = float(
                    rng.choice(
                        (np.nan, np.inf, -np.inf, 0.0, -1.0, 1.0, 1e308, -1e308, 1e155, 1e9, 1e7, 1e-300)
                    )
                )
        return messages

    def read(self, case: Any) -> Any:
        def xyz(values: list[float]) -> Any:
            return SimpleNamespace(**dict(zip('xyzw', values, strict=False)))

        buffer = PoseBuffer(0.2, pose_of_odometry)
        for content in case:
            sec, nanosec = divmod(content['stamp'], SECOND)
            pose = SimpleNamespace(position=xyz(content['position']), orientation=xyz(content['orientation']))
            twist = SimpleNamespace(linear=xyz(content['linear']), angular=xyz(content['angular']))
            buffer.add(
                SimpleNamespace(
                    header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id='map'),
                    child_frame_id='lidar',
                    pose=SimpleNamespace(pose=pose, covariance=np.array(content['covariance'])),
                    twist=SimpleNamespace(twist=twist, covariance=np.array(content['twist_covariance'])),
                )
            )
        mount = pose_from_euler((1.0, 0.0, 2.0), yaw=0.1)
        return [mounted(buffer.pose_at(stamp), mount) for stamp in (SECOND, 1_050_000_000, 1_290_000_000)]
