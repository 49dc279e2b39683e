# SPDX-License-Identifier: Apache-2.0
"""Checks neighbours' sweeps and selects, for each sweep of the ego, those that are fused.

`PeerBuffer` checks the sender's id and the age, `arrived` model, grid and encoding, this module map frame,
pose and payload. A sweep that fails a check is refused with the reason; it never stops the ego.

A feature and its pose belong to the stamp of the sender's sweep. It is warped from that pose to the ego's
pose at the ego's sweep, so static objects are aligned whatever the feature's age; moving objects stay where
they were at the feature's stamp. `max_age` limits that error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix, PoseError
from diffkd_ros.messages.reading import NANOSECONDS, stamp_of
from diffkd_ros.msg import BevChunk, BevFeature
from diffkd_ros.nodes.base import diagnostics
from diffkd_ros.nodes.link.arrived import ArrivedChunks, ArrivedMap, Extent, Objection
from diffkd_ros.nodes.link.peer_buffer import PeerBuffer, Pick
from diffkd_ros.nodes.link.peer_record import PeerRecord, Refusal
from diffkd_ros.runtime import codec, features
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.link.maps import ReceivedMap, TileState
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.runtime.neighbours import Choice, choose_neighbours

Arrived = ArrivedMap | ArrivedChunks
Decoded = features.BevFeature | ReceivedMap

# A longer interval between two own sweeps is a pause, not the LiDAR's period.
_LONGEST_PERIOD = 1 * NANOSECONDS


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
        allowed: names of neighbours whose features may be fused, with the wildcards of `fnmatch`.
        tables: of the model's layered message; None: it has none.

    Attributes:
        buffer: the messages and each neighbour's statistics.
    """

    def __init__(
        self,
        card: ModelCard,
        own_id: str,
        max_age: float,
        future_tolerance: float,
        allowed: Sequence[str] = ('*',),
        tables: LinkTables | None = None,
    ) -> None:
        self._card = card
        self._unpacker = None if tables is None else Unpacker(tables)
        self._max_age, self._future_tolerance, self._allowed = max_age, future_tolerance, allowed
        self._sweeps = _SweepClock()
        self.buffer = PeerBuffer[Arrived](
            own_id, round(max_age * NANOSECONDS), round(future_tolerance * NANOSECONDS)
        )

    def limit(self, max_age: float, allowed: Sequence[str]) -> None:
        """Change these limits, from the next sweep on; see the constructor."""
        self._max_age, self._allowed = max_age, allowed
        self.buffer.max_age = round(max_age * NANOSECONDS)

    def add(self, message: BevFeature) -> None:
        """Store a message that just arrived, without checking or decoding it."""
        whole = ArrivedMap(message)
        stamp, newest = stamp_of(message.header), self._sweeps.newest()
        self.buffer.add(message.agent_id, stamp, message.sequence, whole, whole.extent.size, newest)

    def add_chunk(self, message: BevChunk) -> None:
        """Store a chunk that just arrived, without decoding it."""
        stamp, newest = stamp_of(message.header), self._sweeps.newest()
        chunk = ArrivedChunks(message)
        self.buffer.add_chunk(message.agent_id, stamp, message.sequence, chunk, newest)

    def own_sweep(self, stamp: int) -> None:
        """Note the stamp of an own sweep that just arrived, to compare neighbours' clocks with."""
        self._sweeps.arrived(stamp)

    def select(self, stamp: int, ego_pose: Matrix, map_frame: str) -> list[Verdict]:
        """Decide for every known neighbour whether its feature is fused in a sweep.

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

        def decoded(sender: str) -> Decoded | None:
            try:
                feature, extents[sender] = self._decoded(picks[sender])
                return feature
            except codec.PayloadError as error:
                why = Objection(Refusal.PAYLOAD, str(error))
                refused.append(self._refuse(picks[sender], why, poses[sender]))
                return None

        for pick in self.buffer.pick(stamp):
            objection, pose = self._objection(pick), _pose_in(map_frame, pick.entry.message)
            if isinstance(pose, Objection):
                refused.append(self._refuse(pick, objection or pose, None))
            elif objection is not None:
                refused.append(self._refuse(pick, objection, pose))
            else:
                picks[pick.entry.sender], poses[pick.entry.sender] = pick, pose
        choice: Choice[str, Decoded] = choose_neighbours(ego_pose, poses, decoded, self._card.max_agents)
        for sender, distance in choice.beyond_limit.items():
            detail = f'{distance:.0f} m away, {len(choice.chosen)} are nearer'
            why = Objection(Refusal.BEYOND_LIMIT, detail)
            refused.append(self._refuse(picks[sender], why, poses[sender]))
        accepted = []
        for sender, feature in choice.chosen.items():
            self.buffer.count_fused(picks[sender].entry)
            accepted.append(self._verdict(picks[sender], '', poses[sender], extents[sender], feature))
        return accepted + refused

    def weigh(self, verdicts: list[Verdict], weights: NDArray[np.float32]) -> None:
        """Note the gate weights of the features fused in a sweep.

        Args:
            verdicts: from `select`.
            weights: of the accepted neighbours, in the order of their verdicts.
        """
        for verdict, weight in zip(verdicts, weights, strict=False):
            received = verdict.feature
            layers = received.bytes_of if isinstance(received, ReceivedMap) else None
            self.buffer.count_weight(verdict.agent, float(weight), layers, verdict.restored)

    def items(self) -> list[diagnostics.Item]:
        """Diagnostics: totals over all neighbours, statistics of each one, and the clocks."""
        records = self.buffer.snapshot()
        items = [_diagnosis(sender, record) for sender, record in records.items()]
        return [self._total(len(records)), *items, self._clock(records)]

    def _total(self, known: int) -> diagnostics.Item:
        """Totals over all neighbours, including those no longer reported."""
        total = self.buffer.totals()
        values = {
            'received': total.received,
            'lost': total.lost,
            'missing by their stamps': total.gaps.missing,
            'fused': total.fused,
            'refused': total.refused.total(),
            'overwritten': total.overwritten,
            'waiting': total.waiting,
            'sent before they were heard': total.unheard,
            'repeated': total.repeated,
            'own ignored': self.buffer.own,
            **_of_chunks(total),
        }
        message = f'messages from {known}' if known else 'no messages of neighbours: the ego is alone'
        return diagnostics.Item('neighbours', diagnostics.OK, message, values)

    def _clock(self, records: dict[str, PeerRecord]) -> diagnostics.Item:
        """Which clocks disagree; a clock that lags looks like a slow link, so the message names both."""
        period = self._sweeps.period
        wrong, values = [], {}
        for sender, record in records.items():
            lead = record.lead
            if lead is None:
                continue
            values[f'{sender} ahead of the own sweep [s]'] = f'{lead:.3f}'
            if lead > period + self._future_tolerance:
                wrong.append(f'{sender} is ahead by {lead - period:.2f} s or more')
            elif -lead > self._max_age:
                wrong.append(f'{sender} is {-lead:.2f} s behind: its clock, or the link is that slow')
        if wrong:
            message = f'{"; ".join(wrong)}: synchronise the clocks'
            return diagnostics.Item('clock', diagnostics.WARN, message, values)
        return diagnostics.Item('clock', diagnostics.OK, 'the clocks agree', values)

    def _objection(self, pick: Pick[Arrived]) -> Objection | None:
        """Why a sweep is refused, checking everything except its pose and payload."""
        if not any(fnmatchcase(pick.entry.sender, pattern) for pattern in self._allowed):
            return Objection(Refusal.NOT_ALLOWED, 'see allowed_neighbours')
        if pick.refusal is not None:
            return Objection(pick.refusal, f'{pick.age / NANOSECONDS:.2f} s old')
        return pick.entry.message.objection(self._card)

    def _decoded(self, pick: Pick[Arrived]) -> tuple[Decoded, Extent]:
        """What has arrived by now, and how much that is: more chunks may arrive while it is fused."""
        sweep = pick.entry.message
        if isinstance(sweep, ArrivedMap):
            return sweep.decode(self._card), sweep.extent
        assert self._unpacker is not None
        return sweep.decode(self._unpacker, partial(self.buffer.count_damaged_chunk, pick.entry.sender))

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


def _pose_in(map_frame: str, sweep: Arrived) -> Matrix | Objection:
    """The sender's pose if it is valid and given in this frame."""
    if sweep.map_frame != map_frame:
        return Objection(Refusal.MAP_FRAME, f'{sweep.map_frame!r}, the ego is in {map_frame!r}')
    try:
        return sweep.pose()
    except PoseError as error:
        return Objection(Refusal.POSE, str(error))


class _SweepClock:
    """Stamp and period of the receiver's own sweeps. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamp: int | None = None
        self._arrived = 0.0
        self.period = 0.0

    def arrived(self, stamp: int) -> None:
        with self._lock:
            if self._stamp is not None and 0 < stamp - self._stamp < _LONGEST_PERIOD:
                self.period = (stamp - self._stamp) / NANOSECONDS
            self._stamp, self._arrived = stamp, time.monotonic()

    def newest(self) -> int | None:
        """Stamp of the newest sweep; None if it arrived more than 1.5 sweep periods ago."""
        with self._lock:
            late = time.monotonic() - self._arrived > 1.5 * self.period
            return None if late else self._stamp


def _diagnosis(sender: str, record: PeerRecord) -> diagnostics.Item:
    values: dict[str, object] = {
        'received': record.received,
        'lost': record.lost,
        'lost [%]': f'{100 * record.loss:.1f}',
        'missing by their stamps': record.gaps.missing,
        'fused': record.fused,
        'overwritten': record.overwritten,
        'waiting': record.waiting,
    }
    values |= {f'refused, {r.value}': n for r, n in record.refused.items()}
    values |= {
        'repeated': record.repeated,
        'sent before it was heard': record.unheard,
        'restarts': record.restarts,
        'rate [Hz]': f'{record.rate:.2f}',
        'serialised [kB/s]': f'{record.kilobytes_per_s:.1f}',
        'age [ms]': '' if record.age is None else f'{record.age * 1e3:.0f}',
        'gate weight': f'{record.gate_weight:.3f}',
        **_of_chunks(record),
    }
    if record.layers:
        values |= {f'{layer} [B]': size for layer, size in record.layers.items()}
        values['restored [%]'] = f'{100 * record.restored:.1f}'
    level = diagnostics.WARN if record.last_refusal else diagnostics.OK
    message = 'fused' if record.fused else 'received, not yet used'
    if record.last_refusal:
        message = f'refused: {record.last_refusal}'
    return diagnostics.Item(f'neighbour/{sender}', level, message, values)


def _of_chunks(record: PeerRecord) -> dict[str, object]:
    """The counts of chunks; empty if none has arrived."""
    values: dict[str, object] = {}
    if record.chunks_received or record.chunks_refused:
        values = {
            'chunks received': record.chunks_received,
            'chunks repeated': record.chunks_repeated,
            'chunks lost': record.chunks_lost,
        }
        values |= {f'chunks refused, {r.value}': n for r, n in record.chunks_refused.items()}
    if record.last_chunk_refusal:
        values['last chunk refused'] = record.last_chunk_refusal
    return values
