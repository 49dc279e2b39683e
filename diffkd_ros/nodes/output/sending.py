# SPDX-License-Identifier: Apache-2.0
"""The two ways in which a vehicle sends its sweeps: as whole maps, or in layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from rclpy.lifecycle import LifecyclePublisher
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from diffkd_ros.errors import require
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.messages.names import CHUNKS_TOPIC, FEATURES_TOPIC
from diffkd_ros.msg import BevChunk, BevFeature
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.link.chunk_message import chunk_messages, overhead_of
from diffkd_ros.nodes.link.feature_message import feature_message
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.features import BevFeature as BevMap
from diffkd_ros.runtime.link.packing import Packed, Packer
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.link.tables import LinkTables

Link = tuple[str, int, float]
"""Reliability, depth and lifespan of the V2X link."""
Advertise = Callable[[type, str, QoSProfile], LifecyclePublisher]
"""Creates a publisher on the V2X link, of a class, topic and quality of service."""


class Sending(ABC):
    """Sends an agent's sweeps on the V2X link.

    Args:
        agent: its name.
        card: of the model.
        publisher: of the messages.
        signing_key: file of the key that signs them, empty for none.

    Attributes:
        publisher: of the messages.
        largest: bytes of the largest message of the last sweep.
    """

    def __init__(self, agent: str, card: ModelCard, publisher: LifecyclePublisher, signing_key: str) -> None:
        self._agent, self._card, self.publisher = agent, card, publisher
        self._sign: Callable[[type, bytes], bytes] | None = None
        # Bytes that a signature adds at most.
        self._trailer = 0
        self.largest = 0
        if signing_key:
            require('cryptography')
            from diffkd_ros.nodes.link.signing import LARGEST_TRAILER, Signer

            self._sign, self._trailer = Signer(Path(signing_key)).sign, LARGEST_TRAILER

    def _publish(self, message: BevFeature | BevChunk) -> None:
        signed = message if self._sign is None else self._sign(type(message), serialize_message(message))
        self.publisher.publish(signed)

    @abstractmethod
    def send(
        self, header: Header, sequence: int, feature: BevMap, lidar: LidarPose, timer: StageTimer
    ) -> bool:
        """Send a sweep.

        Args:
            header: of the sweep.
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
        advertise: creates the publisher.
        agent: its name.
        card: of the model.
        link: reliability, depth and lifespan of the link.
        signing_key: see `Sending`.
    """

    def __init__(
        self, advertise: Advertise, agent: str, card: ModelCard, link: Link, signing_key: str
    ) -> None:
        publisher = advertise(BevFeature, FEATURES_TOPIC, qos.features(*link))
        super().__init__(agent, card, publisher, signing_key)

    def send(
        self, header: Header, sequence: int, feature: BevMap, lidar: LidarPose, timer: StageTimer
    ) -> bool:
        """Encode the map and send it."""
        encoded = codec.encode(feature)
        timer.mark('codec')
        self._publish(feature_message(header, self._agent, sequence, self._card, encoded, lidar))
        timer.mark('publish')
        self.largest = len(encoded.data)
        return True

    def values(self) -> dict[str, object]:
        """The size of the last payload."""
        return {'feature bytes': self.largest}


class LayeredSending(Sending):
    """Sends each sweep as `BevChunk`s, as much of it as the bandwidth allows.

    Args:
        advertise: creates the publisher.
        agent: its name.
        card: of a model with a layered message.
        link: reliability, depth and lifespan of the link.
        signing_key: see `Sending`.
        threads: CPU threads.
        device: that runs the network.

    Attributes:
        budget: bytes of all messages of a sweep, serialised; may be changed between two sweeps.
    """

    def __init__(
        self,
        advertise: Advertise,
        agent: str,
        card: ModelCard,
        link: Link,
        signing_key: str,
        threads: int,
        device: str,
    ) -> None:
        self._sender = MapSender(card, threads, device)
        self._packer = Packer(LinkTables.load(card))
        self._chunks = Packed()
        self._overhead = 0
        self.budget = 0
        grid = card.grid
        # The first run allocates memory.
        self._sender.prepare(BevMap.empty(card.channels, grid.height, grid.width))
        publisher = advertise(BevChunk, CHUNKS_TOPIC, qos.chunks(*link))
        super().__init__(agent, card, publisher, signing_key)

    def send(
        self, header: Header, sequence: int, feature: BevMap, lidar: LidarPose, timer: StageTimer
    ) -> bool:
        """Detect, code, pack and send; nothing if not even one chunk fits into the budget."""
        outgoing = self._sender.prepare(feature)
        timer.mark('prepare')
        overhead = overhead_of(header, self._agent, self._card, lidar) + self._trailer
        chunks = self._packer.pack(outgoing, self.budget, overhead)
        timer.mark('pack')
        for message in chunk_messages(header, self._agent, sequence, self._card, chunks, lidar):
            self._publish(message)
        timer.mark('publish')
        self._chunks, self._overhead = chunks, overhead
        self.largest = max((overhead + len(chunk) for chunk in chunks), default=0)
        return bool(chunks)

    def values(self) -> dict[str, object]:
        """Chunks of the last sweep, their bytes by layer and with their envelopes, and the budget."""
        chunks, envelopes = self._chunks, self._overhead * len(self._chunks)
        return {
            'chunks': len(chunks),
            **{f'{layer} [B]': size for layer, size in chunks.bytes_of.items()},
            'envelopes [B]': envelopes,
            'sweep [B]': sum(map(len, chunks)) + envelopes,
            'budget [B]': self.budget,
        }
