# SPDX-License-Identifier: Apache-2.0
"""The recorded answers of an ego: detections and fusion status by the stamp of its sweep."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.messages.names import BOXES3D_TYPE, agent_name
from diffkd_ros.messages.reading import MessageError, boxes_of, finite, latency_of, stamp_of
from diffkd_ros.runtime.link.maps import LAYERS, TileState
from diffkd_ros.runtime.link.tables import TILE
from diffkd_ros.sources.bag_files import Channel, open_bags
from diffkd_ros.sources.dataset import DatasetError, located, raised

_LOG = logging.getLogger(__name__)
_FEATURE = 'diffkd_ros/msg/BevFeature'
_UNKNOWN = (math.nan,) * 6
_STATUS = 'diffkd_ros/msg/FusionStatus'


@dataclass(frozen=True, slots=True)
class Layers:
    """What arrived of a layered message; as in NeighbourStatus.msg.

    Attributes:
        chunks: number that arrived.
        announced: number of the sweep's chunks.
        bytes_of: bytes of the data by layer: boxes, coarse, fine.
        restored: share of the map's cells that the ego estimated.
        tiles: (rows, columns) `TileState` of each tile.
    """

    chunks: int
    announced: int
    bytes_of: dict[str, int]
    restored: float
    tiles: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The use of one neighbour's feature in one fusion; as in NeighbourStatus.msg.

    Attributes:
        agent: its name on the V2X link.
        accepted: whether it was fused.
        reason: why it was not fused.
        age: seconds, the ego sweep's stamp minus the feature's.
        gate_weight: its mean share of the fused feature over the cells it covers, in [0, 1].
        bytes: of the serialised messages that arrived; of the payload if recorded with version 0.1.
        layers: None for a whole map, and if refused.
    """

    agent: str
    accepted: bool
    reason: str
    age: float
    gate_weight: float
    bytes: int
    layers: Layers | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The status of one fusion; as in FusionStatus.msg.

    Attributes:
        neighbours: all from which messages were received.
        reliability: of the ego, mean over its observed cells.
        stages: milliseconds by stage; `total` starts with the cloud's publication.
        degradation: its level, 0 for a full fusion; None if recorded before there were levels.
        cause: of the degradation.
    """

    neighbours: tuple[Neighbour, ...]
    reliability: float
    stages: dict[str, float]
    degradation: int | None = None
    cause: str = ''

    @property
    def fused(self) -> list[str]:
        """Names of the neighbours whose features were fused."""
        return [neighbour.agent for neighbour in self.neighbours if neighbour.accepted]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one sweep.

    Attributes:
        detections: with scores, in the ego's LiDAR frame.
        status: None if it was not recorded.
    """

    detections: Boxes3D
    status: Status | None


def read_area(paths: Sequence[Path]) -> tuple[float, float, float, float] | None:
    """The area around the ego that the model covers: x_min, y_min, x_max, y_max, metres.

    It is read from the first fusion status or feature with a valid area, which fusion status recorded with
    version 0.1 lacks; None if there is none.

    Args:
        paths: read as one bag.

    Raises:
        DatasetError: if one is not a bag.
    """
    with closing(open_bags(paths)) as reader:
        wanted = [channel for channel in reader.channels if channel.message_type in (_STATUS, _FEATURE)]
        for channel, _, data in reader.messages(wanted):
            with suppress(DatasetError), located(channel.topic):
                message = reader.deserialize(data, channel)
                x_min, y_min, _, x_max, y_max, _ = map(float, getattr(message, 'grid_range', _UNKNOWN))
                # Others' features may have anything in this field.
                if all(map(math.isfinite, (x_min, y_min, x_max, y_max))) and x_min < x_max and y_min < y_max:
                    return x_min, y_min, x_max, y_max
    return None


def read_answers(paths: Sequence[Path], ego: int) -> dict[int, Answer]:
    """All answers in one or several bags, by the stamp of the sweep, nanoseconds.

    Damaged ones are left out, with a line in the log.

    Args:
        paths: read as one bag.
        ego: agent that fused.

    Raises:
        DatasetError: if one is not a bag, or all detections are damaged.
    """
    name = agent_name(ego)
    detections: dict[int, Boxes3D] = {}
    status: dict[int, Status] = {}
    topics = {f'/{name}/detections': BOXES3D_TYPE, f'/{name}/fusion_status': _STATUS}
    with closing(open_bags(paths)) as reader:

        def take(channel: Channel, data: bytes) -> None:
            with located(f'answers of {name} in {reader.name}'):
                message = reader.deserialize(data, channel)
                stamp = stamp_of(message.header)
                if channel.topic.endswith('/detections'):
                    detections[stamp] = boxes_of(message)
                else:
                    status[stamp] = _status_of(message)

        wanted = [c for c in reader.channels if topics.get(c.topic) == c.message_type]
        results = [raised(partial(take, channel, data)) for channel, _, data in reader.messages(wanted)]
    damaged = [error for error in results if error is not None]
    if damaged and not detections:
        raise damaged[0]
    if damaged:
        _LOG.warning('%d damaged answers are left out; the first: %s', len(damaged), damaged[0])
    return {stamp: Answer(boxes, status.get(stamp)) for stamp, boxes in sorted(detections.items())}


def _status_of(message: Any) -> Status:
    return Status(
        tuple(
            Neighbour(
                str(neighbour.agent_id),
                bool(neighbour.accepted),
                str(neighbour.reason),
                finite(neighbour.age, 'age'),
                finite(neighbour.gate_weight, 'gate_weight'),
                int(neighbour.bytes),
                _layers_of(neighbour, message),
            )
            for neighbour in message.neighbours
        ),
        finite(message.ego_reliability, 'ego_reliability'),
        latency_of(message),
        _level_of(message),
        str(getattr(message, 'degradation_cause', '')),
    )


def _level_of(message: Any) -> int | None:
    """The level of degradation; None if recorded before there were levels."""
    if not hasattr(message, 'degradation'):
        return None
    level = int(message.degradation)
    if level < 0:
        raise MessageError(f'degradation is {level}')
    return level


def _layers_of(neighbour: Any, status: Any) -> Layers | None:
    """What arrived of a neighbour's layered message; None for a whole map, as before there were layers."""
    tiles = np.asarray(getattr(neighbour, 'tiles', ()), np.uint8)
    if not tiles.size:
        return None
    shape = int(status.height) // TILE, int(status.width) // TILE
    if tiles.size != math.prod(shape) or (tiles >= len(TileState)).any():
        raise MessageError(f'{tiles.size} tiles up to state {tiles.max()}, expected {shape} of 0 to 3')
    return Layers(
        int(neighbour.sweep_chunks_received),
        int(neighbour.sweep_chunks),
        {layer: int(getattr(neighbour, f'{layer}_bytes')) for layer in LAYERS},
        finite(neighbour.restored, 'restored'),
        tiles.reshape(shape),
    )
