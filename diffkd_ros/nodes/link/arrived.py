# SPDX-License-Identifier: Apache-2.0
"""What arrived of one sweep of a neighbour: a whole map, or some of the chunks of a layered message."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.messages.poses import pose_of_chunk, pose_of_odometry
from diffkd_ros.msg import BevChunk, BevFeature
from diffkd_ros.nodes.link.feature_message import encoded_of
from diffkd_ros.nodes.link.refusal import Objection, Refusal
from diffkd_ros.runtime import codec, features
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.link.chunk import LARGEST, holds_boxes
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.link.unpacking import Unpacker

ENCODINGS = {BevFeature.ENCODING_SPARSE_INT8_ZLIB}
# All fields that the chunks of a sweep have in common.
_COMMON = [name for name in BevChunk.get_fields_and_field_types() if name not in ('chunk', 'data')]


@dataclass(frozen=True)
class Extent:
    """How much of a sweep has arrived.

    Attributes:
        size: bytes of its messages, serialised.
        chunks: number of its chunks that arrived; 0 for a whole map.
        announced: number of its chunks; 0 for a whole map.
    """

    size: int
    chunks: int = 0
    announced: int = 0


class ArrivedMap:
    """A `BevFeature`, version 1 of the exchange: a whole map.

    Args:
        message: it.
        size: bytes, serialised.

    Attributes:
        map_frame: frame of its pose.
        extent: how much has arrived.
    """

    def __init__(self, message: BevFeature, size: int) -> None:
        self._message = message
        self._decoded: features.BevFeature | codec.PayloadError | None = None
        self._lidar: LidarPose | None = None
        self.map_frame = message.map_frame
        self.extent = Extent(size)

    def objection(self, card: ModelCard) -> Objection | None:
        """Why the map cannot be fused by this model, checking everything except its pose and payload."""
        message, grid = self._message, card.grid
        if message.model_id != card.model_id:
            return Objection(Refusal.MODEL, f'{message.model_id}, the ego runs {card.model_id}')
        shape, own_shape = (
            (message.channels, message.height, message.width),
            (card.channels, grid.height, grid.width),
        )
        # NaN compares unequal, so a range that is not finite is refused too.
        if shape != own_shape or not np.allclose(message.grid_range, grid.range, rtol=0.0, atol=1e-3):
            return Objection(
                Refusal.GRID,
                f'channels, height, width {shape} over {message.grid_range.round(2).tolist()}, '
                f'the ego has {own_shape} over {list(grid.range)}',
            )
        if message.encoding not in ENCODINGS:
            return Objection(Refusal.ENCODING, f'{message.encoding}, known are {sorted(ENCODINGS)}')
        return None

    def lidar(self) -> LidarPose:
        """The sender's pose and motion; raises `PoseError`."""
        if self._lidar is None:
            self._lidar = replace(pose_of_odometry(self._message), map_frame=self.map_frame)
        return self._lidar

    def decode(self, card: ModelCard) -> features.BevFeature:
        """The map, decoded once for all sweeps that it is picked for; raises `PayloadError`."""
        if self._decoded is None:
            try:
                self._decoded = self._decode(card)
            except codec.PayloadError as error:
                self._decoded = error
        if isinstance(self._decoded, codec.PayloadError):
            raise self._decoded
        return self._decoded

    def _decode(self, card: ModelCard) -> features.BevFeature:
        grid, payload = card.grid, encoded_of(self._message)
        return codec.decode(payload, card.channels, grid.height, grid.width, card.feature_range)


class ArrivedChunks:
    """The chunks of a sweep that have arrived so far, version 2 of the exchange.

    The first one that arrives determines what they have in common. Thread-safe: the executor adds chunks
    while the inference thread decodes them.

    Args:
        message: the first one.
        size: bytes of it, serialised.

    Attributes:
        map_frame: frame of the pose.
        announced: number of chunks of the sweep.
        has_base: whether a chunk that holds boxes has arrived.
    """

    def __init__(self, message: BevChunk, size: int) -> None:
        self._head = message
        self._lock = threading.Lock()
        self._data: dict[int, bytes] = {message.chunk: message.data.tobytes()}
        self.has_base = holds_boxes(self._data[message.chunk])
        self._envelope = size - len(message.data)
        self._decoded: tuple[ReceivedMap, Extent] | None = None
        self._lidar: LidarPose | None = None
        self._damaged: set[str] = set()
        self.map_frame = message.map_frame
        self.announced = message.chunks

    @property
    def problem(self) -> str:
        """Why the chunk cannot be one of any sweep; empty if it can."""
        head, size = self._head, len(self._head.data)
        if head.chunk >= head.chunks:
            return f'chunk {head.chunk} of {head.chunks}'
        return '' if 1 <= size <= LARGEST else f'{size} bytes, expected 1 to {LARGEST}'

    @property
    def extent(self) -> Extent:
        """How much has arrived."""
        with self._lock:
            return self._extent()

    def _extent(self) -> Extent:
        size = sum(map(len, self._data.values())) + self._envelope * self.arrived
        return Extent(size, self.arrived, self.announced)

    @property
    def arrived(self) -> int:
        """Number of chunks that have arrived."""
        return len(self._data)

    def join(self, other: ArrivedChunks) -> str:
        """Take a chunk of the same sweep, unless it has arrived already.

        Returns:
            Why it is refused; empty if it is not. Of chunks that contradict each other the first is kept.
        """
        different = [name for name in _COMMON if not _equal(self._head, other._head, name)]
        if different:
            return f'{", ".join(different)} differ'
        ((number, data),) = other._data.items()
        with self._lock:
            if number not in self._data:
                self._data[number], self._decoded = data, None
                self.has_base |= other.has_base
        return '' if self._data[number] == data else f'other data of chunk {number}'

    def objection(self, card: ModelCard) -> Objection | None:
        """Why the chunks cannot be decoded by this model, checking everything except pose and payload."""
        model = self._head.model_id
        if not card.link:
            return Objection(Refusal.MODEL, f'{model}, the ego runs {card.model_id}, which takes whole maps')
        if model != card.link_id:
            return Objection(Refusal.MODEL, f'{model}, the ego runs {card.link_id}')
        return None

    def lidar(self) -> LidarPose:
        """The sender's pose and motion; raises `PoseError`."""
        if self._lidar is None:
            self._lidar = pose_of_chunk(self._head)
        return self._lidar

    def decode(self, unpacker: Unpacker, on_damaged: Callable[[str], object]) -> tuple[ReceivedMap, Extent]:
        """What has arrived, decoded again only if it is more than at the last call, and how much that is.

        Args:
            unpacker: of the model.
            on_damaged: called once for each damaged chunk, with its number and the reason.

        Raises:
            PayloadError: if all chunks are damaged.
        """
        with self._lock:
            if self._decoded is None:
                self._decoded = unpacker.unpack(self._data), self._extent()
            received, extent = self._decoded
            # The text has the number of the chunk, whose data do not change.
            damaged = [str(error) for error in received.refused if str(error) not in self._damaged]
            self._damaged.update(damaged)
        for detail in damaged:
            on_damaged(detail)
        if received.refused and not any(received.bytes_of.values()):
            raise received.refused[0]
        return received, extent


def _equal(one: BevChunk, other: BevChunk, name: str) -> bool:
    first, second = getattr(one, name), getattr(other, name)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second, equal_nan=True)
    return bool(first == second)
