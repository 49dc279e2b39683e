# SPDX-License-Identifier: Apache-2.0
"""Help, version and completion of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import diffkd_ros
from diffkd_ros.cli import app

DIFFKD = str(Path(sys.executable).parent / 'diffkd')
VERBS = [
    'demo',
    'demo-carla',
    'train',
    'quantise',
    'bench',
    'bench-opencda',
    'compile',
    'evaluate',
    'evidence',
    'data',
    'bag',
]


@pytest.mark.parametrize('words', [[], ['data'], ['bag']])
def test_help_shows_whole_sentences(words):
    done = CliRunner().invoke(app, [*words, '--help'], terminal_width=80)
    assert done.exit_code == 0
    listed = done.output.partition('Commands:')[2]
    assert '...' not in listed
    if not words:
        assert [line.split()[0] for line in listed.splitlines() if line[:3].strip()] == VERBS
        assert 'Train a model by a recipe, score it on held-out frames and' in listed


def test_version():
    done = CliRunner().invoke(app, ['--version'])
    assert done.output == f'diffkd {diffkd_ros.__version__}\n'


@pytest.mark.skipif(not os.access(DIFFKD, os.X_OK), reason='the command is not installed')
def test_a_shell_completes_verbs():
    """As bash asks, through the function that `--show-completion` prints."""
    environment = {
        **os.environ,
        '_DIFFKD_COMPLETE': 'complete_bash',
        'COMP_WORDS': 'diffkd bag con',
        'COMP_CWORD': '2',
    }
    done = subprocess.run([DIFFKD], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ['convert'], done.stderr
