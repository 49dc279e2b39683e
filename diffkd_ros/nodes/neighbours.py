# SPDX-License-Identifier: Apache-2.0
"""Which neighbours' features the ego fuses in a sweep: everything another vehicle sent is checked here.

Beside the checks made by `PeerBuffer` (own id, age) these are model, grid, encoding, map frame, pose and
payload. A feature that fails one is refused with the reason; it never stops the ego.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffkd_ros.geometry.poses import Matrix, PoseError
from diffkd_ros.msg import BevFeature
from diffkd_ros.nodes import diagnostics
from diffkd_ros.nodes.conversions import NANOSECONDS, encoded_of
from diffkd_ros.nodes.peer_buffer import PeerBuffer, Pick, Refusal
from diffkd_ros.runtime import codec, features
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.sources.ros_messages import pose_of, stamp_of

ENCODINGS = {BevFeature.ENCODING_SPARSE_INT8_ZLIB}


@dataclass(frozen=True)
class Verdict:
    """What became of one neighbour in one sweep.

    Attributes:
        agent: the neighbour's name.
        reason: why it was refused, empty if accepted.
        age: seconds, the ego sweep's stamp minus the feature's.
        bytes: size of the payload.
        sequence: of the message.
        pose: map <- LiDAR of the sender, None if refused.
        feature: the decoded feature, None if refused.
    """

    agent: str
    reason: str
    age: float
    bytes: int
    sequence: int
    pose: Matrix | None = None
    feature: features.BevFeature | None = None

    @property
    def accepted(self) -> bool:
        """Whether the feature is fused."""
        return self.feature is not None


@dataclass(frozen=True)
class _Refused:
    refusal: Refusal
    detail: str

    def __str__(self) -> str:
        return f'{self.refusal.value}: {self.detail}'


class NeighbourSelector:
    """Stores what neighbours send and selects, for a sweep, what can be fused.

    Args:
        card: of the ego's model; only features of the same model and grid can be fused.
        own_id: the ego's agent id.
        max_age: oldest age fused, seconds.
        future_tolerance: how much newer than the sweep a feature may be, seconds.
    """

    def __init__(self, card: ModelCard, own_id: str, max_age: float, future_tolerance: float) -> None:
        self._card = card
        self.buffer = PeerBuffer[BevFeature](
            own_id, round(max_age * NANOSECONDS), round(future_tolerance * NANOSECONDS)
        )

    def add(self, message: BevFeature) -> None:
        """Store a message that just arrived; nothing is checked or decoded yet."""
        self.buffer.add(message.agent_id, stamp_of(message.header), message.sequence, message)

    def select(self, stamp: int, ego_pose: Matrix, map_frame: str) -> list[Verdict]:
        """Judge every known neighbour for one sweep.

        Args:
            stamp: of the sweep, nanoseconds.
            ego_pose: map <- LiDAR of the ego at that stamp.
            map_frame: the frame `ego_pose` is given in; a neighbour's pose must be given in the same.

        Returns:
            One verdict a neighbour: the accepted ones first, nearest first, then the refused ones.
        """
        admitted: list[tuple[float, Pick[BevFeature], Matrix]] = []
        accepted: list[Verdict] = []
        refused: list[Verdict] = []
        for pick in self.buffer.pick(stamp):
            pose = self._admitted_pose(pick, map_frame)
            if isinstance(pose, _Refused):
                refused.append(self._refuse(pick, pose))
            else:
                admitted.append((float(np.linalg.norm(pose[:3, 3] - ego_pose[:3, 3])), pick, pose))
        for distance, pick, pose in sorted(admitted, key=lambda item: item[0]):
            if len(accepted) == self._card.max_agents - 1:
                why = _Refused(Refusal.BEYOND_LIMIT, f'{distance:.0f} m away, {len(accepted)} are nearer')
                refused.append(self._refuse(pick, why))
                continue
            feature = self._decoded(pick)
            if isinstance(feature, _Refused):
                refused.append(self._refuse(pick, feature))
            else:
                accepted.append(_verdict(pick, '', pose, feature))
                self.buffer.count_fused(pick.entry.sender)
        return accepted + refused

    def diagnostics(self) -> list[diagnostics.Item]:
        """One item a neighbour, with its totals and the reason if its latest feature was refused."""
        senders = self.buffer.snapshot()
        if not senders:
            return [
                diagnostics.Item('neighbours', diagnostics.OK, 'none heard on v2x/features: the ego is alone')
            ]
        items = []
        for sender, counts in senders.items():
            values = {'received': counts.received, 'lost': counts.lost, 'fused': counts.fused}
            values |= {f'refused, {r.value}': n for r, n in counts.refused.items()}
            level = diagnostics.WARN if counts.last_refusal else diagnostics.OK
            message = 'fused' if counts.fused else 'heard, not yet needed'
            if counts.last_refusal:
                message = f'refused: {counts.last_refusal}'
            items.append(diagnostics.Item(f'neighbour/{sender}', level, message, values))
        return items

    def _admitted_pose(self, pick: Pick[BevFeature], map_frame: str) -> Matrix | _Refused:
        """The sender's pose, if the message passes every check that needs no decoding."""
        message, card = pick.entry.message, self._card
        if pick.refusal is not None:
            return _Refused(pick.refusal, f'{pick.age / NANOSECONDS:.2f} s old')
        if message.model_id != card.model_id:
            return _Refused(Refusal.MODEL, f'{message.model_id}, the ego runs {card.model_id}')
        grid = card.grid
        shape, own_shape = (
            (message.channels, message.height, message.width),
            (card.channels, grid.height, grid.width),
        )
        # NaN compares unequal, so a range that is not finite is refused too.
        if shape != own_shape or not np.allclose(message.grid_range, grid.range, rtol=0.0, atol=1e-3):
            return _Refused(
                Refusal.GRID,
                f'channels, height, width {shape} over {message.grid_range.round(2).tolist()}, '
                f'the ego has {own_shape} over {list(grid.range)}',
            )
        if message.encoding not in ENCODINGS:
            return _Refused(Refusal.ENCODING, f'{message.encoding}, known are {sorted(ENCODINGS)}')
        if message.map_frame != map_frame:
            return _Refused(Refusal.MAP_FRAME, f'{message.map_frame!r}, the ego is in {map_frame!r}')
        try:
            return pose_of(message.pose.pose)
        except PoseError as error:
            return _Refused(Refusal.POSE, str(error))

    def _decoded(self, pick: Pick[BevFeature]) -> features.BevFeature | _Refused:
        """The feature; decoded once, however many sweeps it takes part in."""
        entry, card = pick.entry, self._card
        if entry.decoded is None:
            try:
                entry.decoded = codec.decode(
                    encoded_of(entry.message), card.channels, card.grid.height, card.grid.width
                )
            except codec.PayloadError as error:
                return _Refused(Refusal.PAYLOAD, str(error))
        return entry.decoded

    def _refuse(self, pick: Pick[BevFeature], why: _Refused) -> Verdict:
        self.buffer.count_refused(pick.entry.sender, why.refusal, str(why))
        return _verdict(pick, str(why))


def _verdict(
    pick: Pick[BevFeature],
    reason: str,
    pose: Matrix | None = None,
    feature: features.BevFeature | None = None,
) -> Verdict:
    entry = pick.entry
    return Verdict(
        entry.sender, reason, pick.age / NANOSECONDS, len(entry.message.data), entry.sequence, pose, feature
    )
