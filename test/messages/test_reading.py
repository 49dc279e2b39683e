# SPDX-License-Identifier: Apache-2.0
"""Contents of messages that contradict each other or are not finite."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from diffkd_ros.messages.reading import MessageError, latency_of


def status(**latency):
    return SimpleNamespace(stages=list(latency), latency_ms=list(latency.values()))


def test_latency_by_stage():
    assert latency_of(status(encode=3.5, fuse=60)) == {'encode': 3.5, 'fuse': 60.0}


@pytest.mark.parametrize('wrong', [float('nan'), float('inf'), -float('inf')])
def test_a_latency_that_is_not_finite_is_refused(wrong):
    with pytest.raises(MessageError, match='latency of fuse is'):
        latency_of(status(encode=3.5, fuse=wrong))


def test_a_latency_without_a_stage_is_refused():
    with pytest.raises(MessageError, match='1 stages has 2'):
        latency_of(SimpleNamespace(stages=['fuse'], latency_ms=[1.0, 2.0]))
