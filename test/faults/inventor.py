# SPDX-License-Identifier: Apache-2.0
"""A neighbour that stands where another one does, and sends vehicles that do not exist."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
from diffkd_ros.msg import BevChunk
from rclpy.node import Node

from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.geometry.overlap import bev_iou
from diffkd_ros.geometry.poses import inverse
from diffkd_ros.launching import graph
from diffkd_ros.messages.building import header_message
from diffkd_ros.messages.names import MAP_FRAME, lidar_frame
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.link.chunk_message import chunk_messages, overhead_of
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.link.packing import DEFAULT_BUDGET, Packer
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.model_folder import model_folder

NAME = 'cav_8'
_INVENTED = 10


class Inventor:
    """Sends the map of a neighbour, with boxes around the ego in which there is nothing.

    Args:
        node: publishes.
        model: with a layered message.
        frame: in which it stands in the place of the last neighbour.
        rate: sweeps per second.
    """

    def __init__(self, node: Node, model: str, frame: CoopFrame, rate: float) -> None:
        self._card = card = ModelCard.load(model_folder(model))
        sweep = frame.agents[frame.neighbours[-1]]
        self._pose, self._rate = LidarPose(sweep.pose, MAP_FRAME), rate
        outgoing = MapSender(card, 1, 'cpu').prepare(FeatureEncoder(card).encode(sweep.points))
        to_inventor = inverse(sweep.pose) @ frame.agents[frame.ego].pose
        boxes = Boxes3D(transform_boxes(to_inventor, _free_places(frame)), scores=np.full(_INVENTED, 0.95))
        overhead = overhead_of(header_message(0, lidar_frame(NAME)), NAME, card, self._pose)
        invented = replace(outgoing, boxes=boxes)
        self._chunks = Packer(LinkTables.load(card)).pack(invented, DEFAULT_BUDGET, overhead)
        self._publisher = node.create_publisher(BevChunk, graph.V2X_CHUNKS_TOPIC, qos.CHUNKS)
        self._sequence = 0
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Send, until `stop`."""
        self._ends.clear()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop sending."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join()

    def _send(self) -> None:
        while not self._ends.wait(1 / self._rate):
            header = header_message(time.time_ns(), lidar_frame(NAME))
            for chunk in chunk_messages(header, NAME, self._sequence, self._card, self._chunks, self._pose):
                self._publisher.publish(chunk)
            self._sequence += 1


def _free_places(frame: CoopFrame) -> np.ndarray:
    """(n, 7) boxes in the frame of the ego that touch no vehicle."""
    assert frame.ground_truth is not None
    taken = transform_boxes(inverse(frame.agents[frame.ego].pose), frame.ground_truth.boxes)
    rng, found = np.random.default_rng(1), np.zeros((0, 7))
    while len(found) < _INVENTED:
        box = np.array([[*rng.uniform([-30, -20], [30, 20]), -1.0, 4.5, 1.9, 1.6, 0.0]])
        if not bev_iou(box, np.vstack((taken, found))).any():
            found = np.vstack((found, box))
    return found
