# SPDX-License-Identifier: Apache-2.0
"""Chunks of layered messages, as the ego gathers and checks them."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from cases import Reader
from changes import damaged, number_of_type
from diffkd_ros.msg import BevChunk
from layered_map import link_tables, random_codes
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.messages.building import fill
from diffkd_ros.nodes.ego_node import neighbour_status
from diffkd_ros.nodes.link.neighbours import NeighbourSelector
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.link.packing import Packer

SECOND = 1_000_000_000
VECTORS = ('position', 'orientation', 'pose_variance', 'twist')
NUMBERS = {'sequence': 32, 'nanosec': 32, 'chunk': 8, 'chunks': 8}


class Link(Reader):
    """The `diffkd_ros/BevChunk`s of two sweeps of a neighbour: everything the ego checks and decodes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tables = link_tables(32, 64, channels=4)
        self.card = ModelCard(
            card_format=1, name='m', description='', grid=BevGrid(-25.6, -12.8, -1, 25.6, 12.8, 1, 32, 64),
            channels=4, max_agents=3, class_names=['vehicle'], min_score=0.1, nms_iou=0.1, max_boxes=10,
            link=True, files={'encoder.onnx': '0' * 64, 'link.npz': '1' * 64, 'restore.onnx': '2' * 64},
        )  # fmt: skip
        self.card._folder = folder
        self.sweeps = [
            Packer(self.tables).pack(random_codes(self.tables, seed).outgoing(self.tables), 4000)
            for seed in (0, 1)
        ]

    def documents(self) -> list[dict[str, Any]]:
        """Valid messages as documents."""
        return [
            {
                'agent_id': 'cav_2', 'sequence': k, 'sec': k, 'nanosec': (900_000_000, 0)[k],
                'model_id': self.card.link_id, 'map_frame': 'map', 'twist_known': True, 'chunk': number,
                'chunks': len(sweep), 'position': [1.0, 2.0, 3.0], 'orientation': [0.0, 0.0, 0.6, 0.8],
                'pose_variance': [0.01] * 6, 'twist': [10.0, 0.0, 0.0, 0.0, 0.0, 0.1], 'data': data,
            }
            for k, sweep in enumerate(self.sweeps)
            for number, data in enumerate(sweep)
        ]  # fmt: skip

    def valid(self) -> list[Any]:
        return [self.documents()]

    def case(self, rng: Random) -> Any:
        messages = self.documents()
        for message in rng.sample(messages, rng.choice((1, 1, 2, len(messages)))):
            self._change(message, rng)
        if rng.random() < 0.3:
            rng.shuffle(messages)
        return messages[: rng.choice((1, 2, len(messages), len(messages)))]

    def _change(self, message: dict[str, Any], rng: Random) -> None:
        what = rng.randrange(5)
        if what == 0:
            values = message[rng.choice(VECTORS)]
            values[rng.randrange(len(values))] = rng.choice((np.nan, np.inf, -1.0, 0.0, 1e30, 1e-30, 3.4e38))
        elif what == 1:
            name = rng.choice(list(NUMBERS))
            message[name] = number_of_type(rng, 0, 2 ** NUMBERS[name] - 1)
        elif what == 2:
            message['data'] = damaged(message['data'], rng, rng.choice((1, 3)))
        elif what == 3:
            name = rng.choice(('agent_id', 'model_id', 'map_frame'))
            message[name] = rng.choice(('cav_2', 'cav_1', '', 'x' * 5000, 'é\n', '[', 'map'))
        else:
            message['sec'] = number_of_type(rng, -(2**31), 2**31 - 1)

    def read(self, case: Any) -> Any:
        selector = NeighbourSelector(self.card, 'cav_1', 0.5, 0.05, link_rate=1e5, tables=self.tables)
        selector.own_sweep(SECOND)
        for content in case:
            content = dict(content)
            header = Header(frame_id='lidar')
            header.stamp.sec, header.stamp.nanosec = content.pop('sec'), content.pop('nanosec')
            vectors = {
                k: content.pop(k) for k in ('position', 'orientation', 'pose_variance', 'twist', 'data')
            }
            message = BevChunk(header=header, **content)
            message.data.frombytes(vectors.pop('data'))
            for name, values in vectors.items():
                fill(getattr(message, name), values)
            selector.receive(BevChunk, serialize_message(message), {})
        verdicts = selector.select(SECOND, np.eye(4), 'map')
        selector.items()
        records = selector.buffer.snapshot()
        for verdict in verdicts:
            neighbour_status(verdict, 0.5, records[verdict.agent])
        used = [verdict for verdict in verdicts if verdict.accepted]
        warps = grid_warps([np.eye(4), *(v.pose for v in used)], self.card.grid)
        maps = [v.feature.feature(self.tables) for v in used]
        return warps, [(v.age, v.restored, v.feature.boxes, m) for v, m in zip(used, maps, strict=True)]
