# SPDX-License-Identifier: Apache-2.0
"""Whatever the bytes, a reader raises nothing but `DiffkdError`s, and soon; see `run.py`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='some messages are of ROS 2')
pytest.importorskip('lightning', reason='recipes and checkpoints need the train extra')

HERE = Path(__file__).parent
# Damaged parts for each reader.
COUNT = 2000
# The least shares of a reader's cases that are read and that are refused: damage that is always refused at
# the first look, or never noticed, would test little. Damaged features and recorded messages are left out.
LEAST = {
    'pcd': (0.1, 0.3),
    'point_cloud2': (0.3, 0.3),
    'opv2v_yaml': (0.2, 0.3),
    'dair_json': (0.1, 0.3),
    'bag_message': (0.5, 0.0),
    'bag_file': (0.3, 0.1),
    'recipe': (0.1, 0.3),
    'card': (0.3, 0.3),
    'plan': (0.1, 0.3),
    'options': (0.02, 0.5),
    'results': (0.1, 0.3),
    'gateway': (0.1, 0.3),
    'feature': (0.9, 0.0),
    'chunks': (0.3, 0.1),
    'link': (0.9, 0.0),
    'odometry': (0.3, 0.3),
}


def run(script: str, *arguments: object) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit status, the outcomes by reader, and what it says about errors."""
    command = [sys.executable, HERE / script, '--json', *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = map(json.loads, done.stdout.splitlines())
    return done.returncode, {line['reader']: line for line in lines}, done.stderr


@pytest.fixture(scope='module')
def outcomes(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The outcomes of the selected readers, from one process, since the imports take seconds."""
    items = [item for item in request.session.items if item.originalname == test_damaged_input.__name__]
    selected = [part for item in items for part in ('--reader', item.callspec.params['reader'])]
    _, found, errors = run('run.py', '--count', COUNT, *selected)
    assert len(found) == len(items), errors
    return found


@pytest.mark.parametrize('reader', LEAST)
def test_damaged_input(reader, outcomes):
    outcome = outcomes[reader]
    assert not outcome['faults'], json.dumps(outcome['faults'][:3], indent=1)
    assert outcome['cases'] * outcome['parts'] >= COUNT
    refused = outcome['refused'] / outcome['cases']
    least_read, least_refused = LEAST[reader]
    assert refused >= least_refused
    assert 1 - refused >= least_read


def test_every_reader_is_tested():
    assert list(LEAST) == re.findall(r"^    '(\w+)': ", (HERE / 'readers.py').read_text(), re.MULTILINE)


FAULTS = {
    'Raises': 'KeyError',
    'NotFinite': 'not finite',
    'Allocates': 'memory',
    'HidesMemoryError': 'memory',
    'Slow': 'time',
    'Hangs': 'time',
    'Dies': 'died',
    'Leaves': 'SystemExit',
}


@pytest.fixture(scope='module')
def faulty() -> dict[str, dict[str, Any]]:
    """The outcomes of all readers with a fault, from one process."""
    selected = [part for reader in FAULTS for part in ('--reader', reader)]
    code, found, errors = run('faulty_readers.py', '--count', 4, *selected)
    assert code == 1, errors
    return found


@pytest.mark.parametrize('reader', FAULTS)
def test_the_run_finds(reader, faulty):
    outcome = faulty[reader]
    assert {each['fault'] for each in outcome['faults']} == {FAULTS[reader]}
    # It goes on after a fault.
    assert len(outcome['faults']) < outcome['cases'] == 4


def test_the_run_accepts_a_sound_reader():
    code, found, _ = run('faulty_readers.py', '--reader', 'Sound', '--count', 5)
    assert code == 0
    assert not found['Sound']['faults']
    assert 0 < found['Sound']['refused'] < 5


def test_undamaged_input_must_be_readable():
    code, found, errors = run('faulty_readers.py', '--reader', 'LacksValid', '--count', 5)
    assert code == 1
    assert not found
    assert 'DiffkdError: refused' in errors
