# SPDX-License-Identifier: Apache-2.0
"""The two ways in which a vehicle sends its sweeps: as whole maps, or in layers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from std_msgs.msg import Header

from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.messages.names import CHUNKS_TOPIC, FEATURES_TOPIC
from diffkd_ros.msg import BevChunk, BevFeature
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.link.chunk_message import chunk_messages, overhead_of
from diffkd_ros.nodes.link.feature_message import feature_message
from diffkd_ros.runtime import codec, features
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.link.packing import Packer
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.link.unpacking import Unpacker


class Sending(ABC):
    """Sends sweeps on the V2X link.

    Attributes:
        publisher: of the messages.
        largest: bytes of the largest message of the last sweep.
    """

    publisher: LifecyclePublisher
    largest = 0

    @abstractmethod
    def send(
        self,
        header: Header,
        agent: str,
        sequence: int,
        feature: features.BevFeature,
        lidar: LidarPose,
        timer: StageTimer,
    ) -> bool:
        """Send a sweep.

        Args:
            header: of the sweep.
            agent: the sender's name.
            sequence: counts this sender's sweeps.
            feature: of the sweep.
            lidar: the LiDAR's pose and motion at the sweep's stamp.
            timer: of the sweep.

        Returns:
            Whether anything was sent.
        """

    @abstractmethod
    def values(self) -> dict[str, object]:
        """Figures of the last sweep, for diagnostics."""


class MapSending(Sending):
    """Sends each sweep as one `BevFeature`.

    Args:
        node: owner of the publisher.
        card: of the model.
        link: reliability, depth and lifespan of the link.
    """

    def __init__(self, node: LifecycleNode, card: ModelCard, link: tuple[str, int, float]) -> None:
        self._card = card
        self.publisher = node.create_lifecycle_publisher(BevFeature, FEATURES_TOPIC, qos.features(*link))

    def send(
        self,
        header: Header,
        agent: str,
        sequence: int,
        feature: features.BevFeature,
        lidar: LidarPose,
        timer: StageTimer,
    ) -> bool:
        """Encode the map and send it."""
        encoded = codec.encode(feature)
        timer.mark('codec')
        self.publisher.publish(feature_message(header, agent, sequence, self._card, encoded, lidar))
        timer.mark('publish')
        self.largest = len(encoded.data)
        return True

    def values(self) -> dict[str, object]:
        """The size of the last payload."""
        return {'feature bytes': self.largest}


class LayeredSending(Sending):
    """Sends each sweep as `BevChunk`s, as much of it as the bandwidth allows.

    Args:
        node: owner of the publisher.
        card: of a model with a layered message.
        link: reliability, depth and lifespan of the link.
        threads: CPU threads.
        device: that runs the network.

    Attributes:
        budget: bytes of all messages of a sweep, serialised; may be changed between two sweeps.
    """

    def __init__(
        self,
        node: LifecycleNode,
        card: ModelCard,
        link: tuple[str, int, float],
        threads: int,
        device: str,
    ) -> None:
        self._card = card
        self._sender = MapSender(card, threads, device)
        self._tables = LinkTables.load(card)
        self._packer = Packer(self._tables)
        self._chunks: list[bytes] = []
        self._overhead = 0
        self.budget = 0
        grid = card.grid
        # The first run allocates memory.
        self._sender.code(features.BevFeature.empty(card.channels, grid.height, grid.width))
        self.publisher = node.create_lifecycle_publisher(BevChunk, CHUNKS_TOPIC, qos.chunks(*link))

    def send(
        self,
        header: Header,
        agent: str,
        sequence: int,
        feature: features.BevFeature,
        lidar: LidarPose,
        timer: StageTimer,
    ) -> bool:
        """Detect, code, pack and send; nothing if not even one chunk fits into the budget."""
        codes = self._sender.code(feature)
        timer.mark('code')
        overhead = overhead_of(header, agent, self._card, lidar)
        chunks = self._packer.pack(codes, self.budget, overhead)
        timer.mark('pack')
        for message in chunk_messages(header, agent, sequence, self._card, chunks, lidar):
            self.publisher.publish(message)
        timer.mark('publish')
        self._chunks, self._overhead = chunks, overhead
        self.largest = max((overhead + len(chunk) for chunk in chunks), default=0)
        return bool(chunks)

    def values(self) -> dict[str, object]:
        """Chunks of the last sweep, their bytes by layer and with their envelopes, and the budget."""
        chunks, envelopes = self._chunks, self._overhead * len(self._chunks)
        layers = Unpacker(self._tables).unpack(chunks).bytes_of
        return {
            'chunks': len(chunks),
            **{f'{layer} [B]': size for layer, size in layers.items()},
            'envelopes [B]': envelopes,
            'sweep [B]': sum(map(len, chunks)) + envelopes,
            'budget [B]': self.budget,
        }
