# SPDX-License-Identifier: Apache-2.0
"""What a recorded ego answered: detections and fusion status by the stamp of its sweep."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReaderError
from rosbags.typesys.store import Typestore

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import Boxes3D, FrameError
from diffkd_ros.messages.reading import MessageError, agent_name, boxes_of, latency_of, stamp_of
from diffkd_ros.sources.rosbag import BagError, open_bags

_FEATURE = 'diffkd_ros/msg/BevFeature'


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What became of one neighbour's feature in one fusion; as in NeighbourStatus.msg.

    Attributes:
        agent: its name on the V2X link.
        accepted: whether it was fused.
        reason: why not.
        age: seconds, the ego sweep's stamp minus the feature's.
        gate_weight: mean share of the fused feature that it supplied over the cells it covers, in [0, 1].
        bytes: payload.
    """

    agent: str
    accepted: bool
    reason: str
    age: float
    gate_weight: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """How an answer came about; as in FusionStatus.msg.

    Attributes:
        neighbours: those heard of.
        reliability: of the ego, the mean over its observed cells.
        stages: milliseconds by stage, `total` from the cloud's publication on.
    """

    neighbours: tuple[Neighbour, ...]
    reliability: float
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def fused(self) -> list[str]:
        """Names of the neighbours whose features were fused."""
        return [neighbour.agent for neighbour in self.neighbours if neighbour.accepted]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered sweep.

    Attributes:
        detections: with scores, in the ego's LiDAR frame.
        status: None where it was not recorded, or its message definition is not known.
    """

    detections: Boxes3D
    status: Status | None


def read_area(
    paths: Sequence[Path], types: Typestore | None = None
) -> tuple[float, float, float, float] | None:
    """What the model that was run covers around the ego: x_min, y_min, x_max, y_max, metres.

    It stands in the features that travelled; None where none was recorded.

    Args:
        paths: read as one.
        types: for bags that carry no message definitions; without, what they are needed for is not known.

    Raises:
        BagError: if one is no bag, or the message is damaged.
    """
    with closing(open_bags(paths, types)) as reader:
        known = reader.typestore.fielddefs
        wanted = [c for c in reader.connections if c.msgtype == _FEATURE and c.msgtype in known]
        for connection, logged, data in reader.messages(wanted) if wanted else ():
            try:
                message: Any = reader.deserialize(data, connection.msgtype)
            except (DiffkdError, AnyReaderError, ValueError) as error:
                raise BagError(f'{connection.topic} at {logged} of {reader.paths[0]}: {error}') from error
            x_min, y_min, _, x_max, y_max, _ = map(float, message.grid_range)
            return x_min, y_min, x_max, y_max
    return None


def read_answers(paths: Sequence[Path], ego: int, types: Typestore | None = None) -> dict[int, Answer]:
    """Every answer in one or several bags by the stamp of the sweep, nanoseconds.

    Args:
        paths: read as one.
        ego: agent that fused.
        types: as for `read_area`.

    Raises:
        BagError: if one is no bag, or a message is damaged.
    """
    name = agent_name(ego)
    detections: dict[int, Boxes3D] = {}
    status: dict[int, Status] = {}
    with closing(open_bags(paths, types)) as reader:
        topics, known = {f'/{name}/detections', f'/{name}/fusion_status'}, reader.typestore.fielddefs
        wanted = [c for c in reader.connections if c.topic in topics and c.msgtype in known]
        try:
            for connection, _, data in reader.messages(wanted) if wanted else ():
                message: Any = reader.deserialize(data, connection.msgtype)
                stamp = stamp_of(message.header)
                if connection.topic.endswith('/detections'):
                    detections[stamp] = boxes_of(message)
                else:
                    status[stamp] = _status_of(message)
        except (DiffkdError, AnyReaderError, MessageError, FrameError, ValueError) as error:
            raise BagError(f'answers of {name} in {", ".join(map(str, paths))}: {error}') from error
    return {stamp: Answer(boxes, status.get(stamp)) for stamp, boxes in sorted(detections.items())}


def _status_of(message: Any) -> Status:
    return Status(
        tuple(
            Neighbour(
                str(told.agent_id),
                bool(told.accepted),
                str(told.reason),
                float(told.age),
                float(told.gate_weight),
                int(told.bytes),
            )
            for told in message.neighbours
        ),
        float(message.ego_reliability),
        latency_of(message),
    )
