# SPDX-License-Identifier: Apache-2.0
"""An ego that gets more sweeps and features than it can take: how it used each one of them."""

from __future__ import annotations

import pytest
from ros_partner import start_ego

SECOND = 1_000_000_000
PERIOD = SECOND // 100
# All of it within a second of stamps: a longer gap counts as a pause.
BURST = 60


@pytest.fixture(scope='module')
def ego(group, partner, scene, feature_of, model):
    def share(stamp):
        partner.publish('/v2x/features', feature_of(2, 'cav_2', stamp))

    return start_ego(group, partner, scene.agents[1], model, share)


def counts(partner, name):
    """The counts in the newest diagnostics item of that name, once no sweep is pending."""

    def settled():
        for array in partner.received['/diagnostics'][seen:]:
            items = {s.name.partition(': ')[2]: {v.key: v.value for v in s.values} for s in array.status}
            if items['input']['sweeps pending'] == '0':
                return items[name]
        return None

    seen = len(partner.received['/diagnostics'])
    found = partner.until(settled, 'diagnostics without pending sweeps')
    return {key: int(value) for key, value in found.items() if value.isdecimal()}


def used(counts):
    """Sweeps that were used, or not for a reason that is named."""
    others = ('sweeps received', 'sweeps missing by their stamps')
    return sum(n for key, n in counts.items() if key.startswith('sweeps ') and key not in others)


@pytest.fixture
def first(ego, partner, scene, feature_of, stamp):
    """The stamp of the last of a few exchanges, from which the ego knows the period."""

    def exchange(at):
        partner.publish('/v2x/features', feature_of(2, 'cav_3', at, (at - stamp) // PERIOD))
        partner.sweep('cav_1', at, scene.agents[1])

    first = partner.until_answered(
        '/cav_1/fusion_status', exchange, lambda status: status.neighbours, start=stamp
    )
    for _ in range(5):
        first += PERIOD
        exchange(first)
        partner.message_at('/cav_1/fusion_status', first)
    return first


def test_every_sweep_published_is_used_or_counted_under_a_reason(partner, scene, first):
    before = counts(partner, 'input')
    for k in range(1, BURST + 1):
        partner.sweep('cav_1', first + k * PERIOD, scene.agents[1])
    last = first + (BURST + 1) * PERIOD
    partner.sweep('cav_1', last, scene.agents[1])
    status = partner.message_at('/cav_1/fusion_status', last)
    after = counts(partner, 'input')

    received = after['sweeps received'] - before['sweeps received']
    missing = after['sweeps missing by their stamps'] - before['sweeps missing by their stamps']
    assert received + missing == BURST + 1
    assert used(after) == after['sweeps received']
    # Sweeps come faster than they are fused.
    assert after['sweeps overwritten'] > before['sweeps overwritten']
    assert (status.sweeps_received, status.sweeps_fused, status.sweeps_overwritten) == (
        after['sweeps received'],
        after['sweeps fused'],
        after['sweeps overwritten'],
    )


def test_every_feature_published_is_used_or_counted_under_a_reason(partner, feature_of, stamp, first):
    before = counts(partner, 'neighbours')
    sequence = (first - stamp) // PERIOD
    for k in range(1, BURST + 1):
        partner.publish('/v2x/features', feature_of(2, 'cav_3', first + k * PERIOD, sequence + k))
    last = first + (BURST + 1) * PERIOD
    # The sender made no feature of two sweeps.
    partner.publish('/v2x/features', feature_of(2, 'cav_3', last + 2 * PERIOD, sequence + BURST + 1))

    def known():
        newest = counts(partner, 'neighbours')
        return newest if newest['received'] + newest['lost'] >= before['received'] + BURST + 1 else None

    after = partner.until(known, 'the last feature')
    received, lost = (after[key] - before[key] for key in ('received', 'lost'))
    assert received + lost == BURST + 1
    missing = after['missing by their stamps'] - before['missing by their stamps']
    assert missing == lost + 2
    # Not more than the four newest are kept for a sweep.
    assert after['overwritten'] > before['overwritten']
    kinds = ('fused', 'refused', 'overwritten', 'waiting')
    assert sum(after[kind] for kind in kinds) == after['received']
