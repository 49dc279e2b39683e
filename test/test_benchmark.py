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
    stages = ('decode and restore', 'warp, fuse, head', 'boxes and suppression', 'merge with sent boxes')
    # All of one run.
    assert (
        sum(results[f'  {stage}: 5 agents'] for stage in stages) < results['restore, fuse, detect: 5 agents']
    )
    assert {'encode 10,000 points', 'encode 300,000 points', 'pack layers', 'unpack them'} <= set(results)
    assert 0 < results['share of a core'] <= 1.01
    assert ('the machine is busy' in outcome.output) == (results['share of a core'] < 0.9)
    assert results['most memory MB'] > 50
    assert 3.5 < results['layers kB'] <= 4
    # With the defaults of Fast DDS, larger best-effort messages are lost silently.
    assert results['payload kB'] < 400


def test_a_model_without_layers_is_timed_with_whole_maps(whole_map_model: Path) -> None:
    arguments = ['bench', '--repetitions', '1', '--model', str(whole_map_model)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert 'warp, fuse, head: 3 agents' in outcome.output
    assert 'layers' not in outcome.output


@pytest.mark.parametrize('arguments', [['bench', '--model', 'no_such'], ['bench', '--device', 'abacus']])
def test_what_cannot_be_timed_is_named(arguments: list[str]) -> None:
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 1
    assert arguments[-1] in outcome.output
