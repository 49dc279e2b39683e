# SPDX-License-Identifier: Apache-2.0
"""Checks neighbours' sweeps and selects, for each sweep of the ego, those that are fused.

`Admission` limits size and number of the messages, `PeerBuffer` checks the sender's id and the age, `arrived`
model, grid and encoding, `PoseCheck` the pose, this module map frame and payload. A sweep that fails a check
is refused with the reason; it never stops the ego.

A feature and its pose belong to the stamp of the sender's sweep. It is warped from that pose to the ego's
pose at the ego's sweep, so static objects are aligned whatever the feature's age. What moves in a layered
message is moved by `runtime.link.motion`, in a whole map it stays where it was; `max_age` limits that error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.geometry.poses import Matrix, PoseError
from diffkd_ros.messages.reading import NANOSECONDS, stamp_of
from diffkd_ros.msg import BevChunk, BevFeature
from diffkd_ros.nodes.base import diagnostics
from diffkd_ros.nodes.link.admission import Admission, publisher_of
from diffkd_ros.nodes.link.arrived import ArrivedChunks, ArrivedMap, Extent
from diffkd_ros.nodes.link.peer_buffer import PeerBuffer
from diffkd_ros.nodes.link.places import FEW_CELLS, Places, is_empty
from diffkd_ros.nodes.link.plausibility import PoseCheck
from diffkd_ros.nodes.link.received import Pick, Received
from diffkd_ros.nodes.link.refusal import Objection, Refusal
from diffkd_ros.nodes.link.report import LinkReport
from diffkd_ros.nodes.link.sweep_clock import SweepClock
from diffkd_ros.runtime import codec, features
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.link.maps import ReceivedMap, TileState
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.runtime.neighbours import Choice
from diffkd_ros.runtime.plausibility.judge import Doubt

if TYPE_CHECKING:  # of an extra
    from diffkd_ros.nodes.link.signing import SignatureCheck

Arrived = ArrivedMap | ArrivedChunks
Decoded = features.BevFeature | ReceivedMap

# Neighbours not fused before whose payloads are decoded in vain for a sweep.
_MOST_FAILURES = 8


@dataclass(frozen=True)
class Verdict:
    """Whether one neighbour's sweep is fused in one of the ego's, and why not.

    Attributes:
        agent: the neighbour's name.
        reason: why it was refused, empty if accepted.
        age: the ego sweep's stamp minus the neighbour's, seconds.
        extent: how much of the sweep had arrived, when it was decoded or refused.
        sequence: of the sweep.
        pose: map <- LiDAR of the sender; None if refused and unknown in the ego's map frame.
        feature: what was decoded, None if refused.
        tiles: (rows, columns) `TileState` of each tile; None for a whole map and if refused.
        restored: share of the cells that are estimated.
        stamp: of the sweep, nanoseconds.
    """

    agent: str
    reason: str
    age: float
    extent: Extent
    sequence: int
    pose: Matrix | None = None
    feature: Decoded | None = None
    tiles: NDArray[np.uint8] | None = None
    restored: float = 0.0
    stamp: int = 0

    @property
    def accepted(self) -> bool:
        """Whether the sweep is fused."""
        return self.feature is not None


class NeighbourSelector:
    """Stores neighbours' messages and selects those that are fused in a sweep.

    Args:
        card: of the ego's model; only features of the same model and grid can be fused.
        own_id: the ego's agent id.
        max_age: oldest age fused, seconds.
        future_tolerance: how much newer than the sweep a feature may be, seconds.
        link_rate: messages read in a second from all neighbours.
        allowed: names of neighbours whose features may be fused, with the wildcards of `fnmatch`.
        tables: of the model's layered message; None: it has none.
        signatures: refuses messages that are not signed; None: signatures are ignored.

    Attributes:
        buffer: the messages and each neighbour's statistics.
    """

    def __init__(
        self,
        card: ModelCard,
        own_id: str,
        max_age: float,
        future_tolerance: float,
        link_rate: float,
        allowed: Sequence[str] = ('*',),
        tables: LinkTables | None = None,
        signatures: SignatureCheck | None = None,
    ) -> None:
        self._card = card
        self._unpacker = None if tables is None else Unpacker(tables)
        self._max_age, self._future_tolerance, self._allowed = max_age, future_tolerance, allowed
        self._sweeps = SweepClock()
        self._admission = Admission(card, link_rate, self._sweeps, signatures)
        self._signatures = signatures
        self._poses = PoseCheck(card.grid)
        oldest, newest = round(max_age * NANOSECONDS), round(future_tolerance * NANOSECONDS)
        self.buffer = PeerBuffer[Arrived](own_id, oldest, newest, self._sweeps.seconds)
        self._selected: dict[str, Received[Arrived]] = {}
        self._places = Places(card.max_agents - 1, self.buffer.publisher)
        self._report = LinkReport(self.buffer, self._sweeps, future_tolerance)

    def limit(self, max_age: float, allowed: Sequence[str]) -> None:
        """Change these limits, from the next sweep on; see the constructor."""
        self._max_age, self._allowed = max_age, allowed
        self.buffer.max_age = round(max_age * NANOSECONDS)

    def receive(self, kind: type[BevFeature] | type[BevChunk], data: bytes, info: Mapping[str, Any]) -> bool:
        """Read and store a message that just arrived, without decoding its payload, or refuse it.

        Args:
            kind: its class.
            data: the serialised message.
            info: `MessageInfo` of rclpy.

        Returns:
            Whether more may come: False if there are too many.
        """
        publisher = publisher_of(info)
        admitted = self._admission.admit(kind, data, publisher)
        if isinstance(admitted, Objection):
            self.buffer.turn_away(admitted, chunk=kind is BevChunk)
            return admitted.refusal is not Refusal.FLOOD
        if self._signatures is not None:
            # The name belongs to the key, not to the participant.
            publisher = b''
        stamp, newest = stamp_of(admitted.header), self._sweeps.newest()
        sender = admitted.agent_id, stamp, admitted.sequence
        # The middleware appends up to three zeros. The last field, `data`, begins at a multiple of four.
        size = len(data) - (len(data) - len(admitted.data)) % 4
        if isinstance(admitted, BevChunk):
            self.buffer.add_chunk(*sender, ArrivedChunks(admitted, size), newest, publisher)
        else:
            self.buffer.add(*sender, ArrivedMap(admitted, size), size, newest, publisher)
        return True

    def own_sweep(self, stamp: int) -> None:
        """Note the stamp of an own sweep that just arrived, to compare neighbours' clocks with."""
        self._sweeps.arrived(stamp)

    def seconds(self) -> float:
        """Time since an arbitrary instant, see `SweepClock.seconds`."""
        return self._sweeps.seconds()

    def forget_after(self, stamp: int) -> None:
        """Forget messages with a later stamp (nanoseconds), after time has jumped back."""
        self.buffer.forget_after(stamp)
        if self._signatures is not None:
            self._signatures.forget_after(stamp)

    def select(self, stamp: int, ego_pose: Matrix, map_frame: str) -> list[Verdict]:
        """Decide for every known neighbour whether its feature can be fused in a sweep; `conclude` follows.

        Args:
            stamp: of the sweep, nanoseconds.
            ego_pose: map <- LiDAR of the ego at that stamp.
            map_frame: frame of `ego_pose`; a neighbour's pose must be given in the same.

        Returns:
            One verdict per neighbour: the accepted ones, nearest first, then the refused ones.
        """
        picks: dict[str, Pick[Arrived]] = {}
        poses: dict[str, Matrix] = {}
        extents: dict[str, Extent] = {}
        refused: list[Verdict] = []
        failures = 0

        def decoded(sender: str) -> Decoded | None:
            nonlocal failures
            result: tuple[Decoded, Extent] | Objection
            if not self._places.knows(sender) and failures >= _MOST_FAILURES:
                result = Objection(Refusal.FAILURES, f'{failures} for this sweep')
            elif isinstance(result := self._decoded(picks[sender]), Objection):
                failures += 1
                self._places.damaged(sender, stamp)
            elif len(poses) > self._card.max_agents - 1 and is_empty(result[0]):
                result = Objection(Refusal.EMPTY, f'no box and less than {FEW_CELLS} cells')
            if isinstance(result, Objection):
                refused.append(self._refuse(picks[sender], result, poses[sender]))
                return None
            feature, extents[sender] = result
            return feature

        found = self.buffer.pick(stamp)
        self._poses.keep({pick.entry.sender for pick in found})
        for pick in found:
            objection, lidar = self._objection(pick), _pose_in(map_frame, pick.entry.message)
            if isinstance(lidar, Objection):
                refused.append(self._refuse(pick, objection or lidar, None))
                continue
            sender = pick.entry.sender
            if objection is None:
                objection = self._poses.objection(sender, pick.entry.stamp, lidar, ego_pose)
            if objection is not None:
                refused.append(self._refuse(pick, objection, lidar.pose))
            else:
                picks[sender], poses[sender] = pick, lidar.pose
        choice: Choice[str, Decoded] = self._places.choose(stamp, ego_pose, poses, decoded)
        for sender, distance in choice.beyond_limit.items():
            detail = f'{distance:.0f} m away, {len(choice.chosen)} others are fused'
            why = Objection(Refusal.BEYOND_LIMIT, detail)
            refused.append(self._refuse(picks[sender], why, poses[sender]))
        accepted = []
        self._selected = {sender: picks[sender].entry for sender in choice.chosen}
        for sender, feature in choice.chosen.items():
            accepted.append(self._verdict(picks[sender], '', poses[sender], extents[sender], feature))
        return accepted + refused

    def conclude(
        self,
        stamp: int,
        verdicts: Sequence[Verdict],
        weights: Sequence[float] | NDArray[np.float32],
        doubts: Sequence[Doubt | None] = (),
    ) -> list[Verdict]:
        """Count what was fused in a sweep, and refuse what was found implausible.

        Args:
            stamp: of the sweep, nanoseconds.
            verdicts: from `select`.
            weights: gate weights of the neighbours that were fused, in the order of their verdicts.
            doubts: why each accepted neighbour was not fused, None if it was; nothing if all were.

        Returns:
            The verdicts, those on fused neighbours first.
        """
        accepted = [verdict for verdict in verdicts if verdict.accepted]
        fused, refused, shares = [], [], iter(weights)
        for verdict, doubt in zip(accepted, doubts or [None] * len(accepted), strict=True):
            entry = self._selected[verdict.agent]
            if doubt is not None:
                why = Objection(Refusal.WAITING if doubt.waiting else Refusal.IMPLAUSIBLE, doubt.reason)
                if not doubt.waiting:
                    self._places.damaged(verdict.agent, stamp)
                self.buffer.count_refused(entry, why.refusal, str(why))
                refused.append(replace(verdict, reason=str(why), feature=None, tiles=None, restored=0.0))
                continue
            self.buffer.count_fused(entry)
            layers = verdict.feature.bytes_of if isinstance(verdict.feature, ReceivedMap) else None
            self.buffer.count_weight(verdict.agent, float(next(shares)), layers, verdict.restored)
            fused.append(verdict)
        return [*fused, *refused, *(verdict for verdict in verdicts if not verdict.accepted)]

    def items(self) -> list[diagnostics.Item]:
        """Diagnostics, see `LinkReport.items`."""
        return self._report.items()

    def _objection(self, pick: Pick[Arrived]) -> Objection | None:
        """Why a sweep is refused, checking everything except its pose and payload."""
        if not any(fnmatchcase(pick.entry.sender, pattern) for pattern in self._allowed):
            return Objection(Refusal.NOT_ALLOWED, 'see allowed_neighbours')
        if pick.refusal is not None:
            return Objection(pick.refusal, f'{pick.age / NANOSECONDS:.2f} s old')
        return pick.entry.message.objection(self._card)

    def _decoded(self, pick: Pick[Arrived]) -> tuple[Decoded, Extent] | Objection:
        """What has arrived by now, and how much that is: more chunks may arrive while it is fused."""
        sweep = pick.entry.message
        try:
            if isinstance(sweep, ArrivedMap):
                return sweep.decode(self._card), sweep.extent
            assert self._unpacker is not None
            return sweep.decode(self._unpacker, partial(self.buffer.count_damaged_chunk, pick.entry.sender))
        except codec.PayloadError as error:
            return Objection(Refusal.PAYLOAD, str(error))

    def _refuse(self, pick: Pick[Arrived], why: Objection, pose: Matrix | None) -> Verdict:
        self.buffer.count_refused(pick.entry, why.refusal, str(why))
        return self._verdict(pick, str(why), pose, pick.entry.message.extent)

    def _verdict(
        self,
        pick: Pick[Arrived],
        reason: str,
        pose: Matrix | None,
        extent: Extent,
        feature: Decoded | None = None,
    ) -> Verdict:
        tiles = feature.tiles() if isinstance(feature, ReceivedMap) else None
        restored = 0.0
        if tiles is not None and self._card.restores:
            restored = float((tiles < TileState.FINE).mean())
        return Verdict(
            agent=pick.entry.sender,
            reason=reason,
            age=pick.age / NANOSECONDS,
            extent=extent,
            sequence=pick.entry.sequence,
            pose=pose,
            feature=feature,
            tiles=tiles,
            restored=restored,
            stamp=pick.entry.stamp,
        )


def _pose_in(map_frame: str, sweep: Arrived) -> LidarPose | Objection:
    """The sender's pose if it is valid and given in this frame."""
    if sweep.map_frame != map_frame:
        return Objection(Refusal.MAP_FRAME, f'{sweep.map_frame!r}, the ego is in {map_frame!r}')
    try:
        return sweep.lidar()
    except PoseError as error:
        return Objection(Refusal.POSE, str(error))
