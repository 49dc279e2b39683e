# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffkd_ros.cli import app


def test_every_part_is_timed_and_written(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ['bench', '--repetitions', '1', '--out', str(tmp_path / 'bench.json')])
    assert outcome.exit_code == 0, outcome.output
    results = json.loads((tmp_path / 'bench.json').read_text())
    assert all(value > 0 for value in results.values())
    for agents in ('1 agent', '5 agents'):
        assert f'restore, fuse, detect: {agents}' in results
        assert agents in outcome.output
    # With the defaults of Fast DDS, larger best-effort messages are lost silently.
    assert results['payload kB'] < 400


@pytest.mark.parametrize('arguments', [['bench', '--model', 'no_such'], ['bench', '--device', 'abacus']])
def test_what_cannot_be_timed_is_named(arguments: list[str]) -> None:
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 1
    assert arguments[-1] in outcome.output
