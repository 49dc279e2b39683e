# SPDX-License-Identifier: Apache-2.0
"""Every kind of fault once, while an ego fuses its neighbours: nothing ends it, and its books balance."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from patience import scaled
from ros_partner import domain
from storm import pauses
from storm_faults import FAULTS

__all__ = ['domain']

SECONDS = 1.5


@pytest.mark.skipif(not hasattr(resource, 'prlimit'), reason='a full disk is made by the limits of Linux')
def test_the_ego_survives_every_fault_and_accounts_for_every_sweep(domain, tmp_path):
    # How long it pauses is not judged: it depends on what else the machine does.
    script = [sys.executable, Path(__file__).with_name('storm.py'), '--rounds', 1, '--minutes', 60]
    script += ['--every', scaled(SECONDS), '--frames', 10, '--domain', domain, '--out', tmp_path]
    run = subprocess.run([*map(str, script)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads((tmp_path / 'storm.json').read_text())
    assert {name: figures['count'] for name, figures in result['faults'].items()} == dict.fromkeys(FAULTS, 1)
    sweeps, recordings = result['sweeps'], result['recordings']
    assert sweeps['fused'] > 0
    assert sweeps['received'] > 0.8 * sweeps['published']
    assert Counter(each['by'] for each in recordings) == {'SIGKILL': 1, 'full disk': 1, 'SIGINT': 1}
    assert all(each['messages'] > 0 for each in recordings)


def test_a_pause_of_the_sender_is_not_one_of_the_ego():
    published = [0.0, 0.2, 0.4, 3.4, 3.6]
    found = list(pauses([0.1, 0.5, 3.5, 5.0], published, 0.2))
    assert [length for _, length in found] == pytest.approx([0.4, 0.2, 1.5])
