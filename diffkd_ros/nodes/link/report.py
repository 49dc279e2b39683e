# SPDX-License-Identifier: Apache-2.0
"""The link in the diagnostics."""

from __future__ import annotations

from typing import Any

from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.nodes.base import diagnostics
from diffkd_ros.nodes.link.peer_buffer import PeerBuffer
from diffkd_ros.nodes.link.peer_record import PeerRecord
from diffkd_ros.nodes.link.sweep_clock import SweepClock


class LinkReport:
    """Describes senders and messages.

    Args:
        buffer: of the messages.
        sweeps: the receiver's own, which neighbours' clocks are compared with.
        future_tolerance: how much newer than the sweep a feature may be, seconds.
    """

    def __init__(self, buffer: PeerBuffer[Any], sweeps: SweepClock, future_tolerance: float) -> None:
        self._buffer, self._sweeps, self._future_tolerance = buffer, sweeps, future_tolerance
        self._reported = 0

    def items(self) -> list[diagnostics.Item]:
        """Totals over all neighbours, statistics of each one, the clocks, and what was turned away."""
        records = self._buffer.snapshot()
        items = [_diagnosis(sender, record) for sender, record in records.items()]
        return [self._total(len(records)), *items, self._clock(records), self._admission()]

    def _admission(self) -> diagnostics.Item:
        """Messages that no neighbour's statistics count; a warning if there are new ones."""
        refused = self._buffer.turned_away()
        count = refused.refused.total() + refused.chunks_refused.total()
        fresh, self._reported = count - self._reported, count
        values = {**_reasons(refused), **_of_chunks(refused)}
        if fresh:
            latest = refused.last_refusal or refused.last_chunk_refusal
            message = f'{fresh} messages turned away since the last report, for example: {latest}'
            return diagnostics.Item('admission', diagnostics.WARN, message, values)
        return diagnostics.Item('admission', diagnostics.OK, 'no message turned away', values)

    def _total(self, known: int) -> diagnostics.Item:
        """Totals over all neighbours, including those no longer reported."""
        total = self._buffer.totals()
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
            'own ignored': self._buffer.own,
            **_reasons(total),
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
            # Where two participants use a name, it is not known whose clock is wrong.
            if lead is None or record.is_contested:
                continue
            values[f'{sender} ahead of the own sweep [s]'] = f'{lead:.3f}'
            if lead > period + self._future_tolerance:
                wrong.append(f'{sender} is ahead by {lead - period:.2f} s or more')
            elif -lead > self._buffer.max_age / NANOSECONDS:
                wrong.append(f'{sender} is {-lead:.2f} s behind: its clock, or the link is that slow')
        if wrong:
            message = f'{"; ".join(wrong)}: synchronise the clocks'
            return diagnostics.Item('clock', diagnostics.WARN, message, values)
        return diagnostics.Item('clock', diagnostics.OK, 'the clocks agree', values)


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
    values |= _reasons(record)
    values |= {
        'repeated': record.repeated,
        'sent before it was heard': record.unheard,
        'restarts': record.restarts,
        'from another participant': record.contested,
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
    if record.is_contested:
        level = diagnostics.WARN
        message += '; another participant uses the same name'
    return diagnostics.Item(f'neighbour/{sender}', level, message, values)


def _reasons(record: PeerRecord) -> dict[str, object]:
    return {f'refused, {reason.value}': count for reason, count in record.refused.items()}


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
