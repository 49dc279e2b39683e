# SPDX-License-Identifier: Apache-2.0
"""Checks neighbours' features and selects, for each sweep of the ego, those that are fused.

`PeerBuffer` checks the sender's id and the age, this module model, grid, encoding, map frame, pose and
payload. A feature that fails a check is refused with the reason; it never stops the ego.

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

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix, PoseError
from diffkd_ros.messages.poses import pose_of
from diffkd_ros.messages.reading import NANOSECONDS, stamp_of
from diffkd_ros.msg import BevFeature
from diffkd_ros.nodes.base import diagnostics
from diffkd_ros.nodes.link.feature_message import encoded_of
from diffkd_ros.nodes.link.peer_buffer import PeerBuffer, Pick
from diffkd_ros.nodes.link.peer_record import PeerRecord, Refusal
from diffkd_ros.runtime import codec, features
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.neighbours import choose_neighbours

ENCODINGS = {BevFeature.ENCODING_SPARSE_INT8_ZLIB}

# A longer interval between two own sweeps is a pause, not the LiDAR's period.
_LONGEST_PERIOD = 1 * NANOSECONDS


@dataclass(frozen=True)
class Verdict:
    """Whether one neighbour's feature is fused in one sweep, and why not.

    Attributes:
        agent: the neighbour's name.
        reason: why it was refused, empty if accepted.
        age: the ego sweep's stamp minus the feature's, seconds.
        bytes: size of the payload.
        sequence: of the message.
        pose: map <- LiDAR of the sender; None if refused and unknown in the ego's map frame.
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
    """Stores neighbours' messages and selects those that are fused in a sweep.

    Args:
        card: of the ego's model; only features of the same model and grid can be fused.
        own_id: the ego's agent id.
        max_age: oldest age fused, seconds.
        future_tolerance: how much newer than the sweep a feature may be, seconds.
        allowed: names of neighbours whose features may be fused, with the wildcards of `fnmatch`.

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
    ) -> None:
        self._card = card
        self._max_age, self._future_tolerance, self._allowed = max_age, future_tolerance, allowed
        self._sweeps = _SweepClock()
        self.buffer = PeerBuffer[BevFeature](
            own_id, round(max_age * NANOSECONDS), round(future_tolerance * NANOSECONDS)
        )

    def limit(self, max_age: float, allowed: Sequence[str]) -> None:
        """Change these limits, from the next sweep on; see the constructor."""
        self._max_age, self._allowed = max_age, allowed
        self.buffer.max_age = round(max_age * NANOSECONDS)

    def add(self, message: BevFeature) -> None:
        """Store a message that just arrived, without checking or decoding it."""
        self.buffer.add(
            message.agent_id,
            stamp_of(message.header),
            message.sequence,
            message,
            len(message.data),
            self._sweeps.newest(),
        )

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
        picks: dict[str, Pick[BevFeature]] = {}
        poses: dict[str, Matrix] = {}
        refused: list[Verdict] = []

        def decoded(sender: str) -> features.BevFeature | None:
            try:
                return self._decoded(picks[sender])
            except codec.PayloadError as error:
                why = _Refused(Refusal.PAYLOAD, str(error))
                refused.append(self._refuse(picks[sender], why, poses[sender]))
                return None

        for pick in self.buffer.pick(stamp):
            objection, pose = self._objection(pick), _pose_in(map_frame, pick.entry.message)
            if isinstance(pose, _Refused):
                refused.append(self._refuse(pick, objection or pose, None))
            elif objection is not None:
                refused.append(self._refuse(pick, objection, pose))
            else:
                picks[pick.entry.sender], poses[pick.entry.sender] = pick, pose
        choice = choose_neighbours(ego_pose, poses, decoded, self._card.max_agents)
        for sender, distance in choice.beyond_limit.items():
            detail = f'{distance:.0f} m away, {len(choice.chosen)} are nearer'
            why = _Refused(Refusal.BEYOND_LIMIT, detail)
            refused.append(self._refuse(picks[sender], why, poses[sender]))
        accepted = []
        for sender, feature in choice.chosen.items():
            self.buffer.count_fused(picks[sender].entry)
            accepted.append(_verdict(picks[sender], '', poses[sender], feature))
        return accepted + refused

    def weigh(self, verdicts: list[Verdict], weights: NDArray[np.float32]) -> None:
        """Note the gate weights of the features fused in a sweep.

        Args:
            verdicts: from `select`.
            weights: of the accepted neighbours, in the order of their verdicts.
        """
        for verdict, weight in zip(verdicts, weights, strict=False):
            self.buffer.count_weight(verdict.agent, float(weight))

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
        }
        message = f'messages from {known}' if known else 'no messages on v2x/features: the ego is alone'
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

    def _objection(self, pick: Pick[BevFeature]) -> _Refused | None:
        """Why a message is refused, checking everything except its pose and payload."""
        message, card = pick.entry.message, self._card
        if not any(fnmatchcase(pick.entry.sender, pattern) for pattern in self._allowed):
            return _Refused(Refusal.NOT_ALLOWED, 'see allowed_neighbours')
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
        return None

    def _decoded(self, pick: Pick[BevFeature]) -> features.BevFeature:
        """Decode a message's feature, once for all sweeps it takes part in."""
        entry, card = pick.entry, self._card
        if entry.decoded is None:
            entry.decoded = codec.decode(
                encoded_of(entry.message), card.channels, card.grid.height, card.grid.width
            )
        return entry.decoded

    def _refuse(self, pick: Pick[BevFeature], why: _Refused, pose: Matrix | None) -> Verdict:
        self.buffer.count_refused(pick.entry, why.refusal, str(why))
        return _verdict(pick, str(why), pose)


def _pose_in(map_frame: str, message: BevFeature) -> Matrix | _Refused:
    """The sender's pose if it is valid and given in this frame."""
    if message.map_frame != map_frame:
        return _Refused(Refusal.MAP_FRAME, f'{message.map_frame!r}, the ego is in {map_frame!r}')
    try:
        return pose_of(message.pose.pose)
    except PoseError as error:
        return _Refused(Refusal.POSE, str(error))


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
        'payload [kB/s]': f'{record.kilobytes_per_s:.1f}',
        'age [ms]': '' if record.age is None else f'{record.age * 1e3:.0f}',
        'gate weight': f'{record.gate_weight:.3f}',
    }
    level = diagnostics.WARN if record.last_refusal else diagnostics.OK
    message = 'fused' if record.fused else 'received, not yet used'
    if record.last_refusal:
        message = f'refused: {record.last_refusal}'
    return diagnostics.Item(f'neighbour/{sender}', level, message, values)


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
