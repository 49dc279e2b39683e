# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from missing_package import without
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
    assert {'peak arithmetic GFLOP/s', 'memory copy GB/s'} <= set(results)
    assert 'this machine at most: ' in outcome.output
    assert (tmp_path / 'bench.png').exists() == (find_spec('matplotlib') is not None)
    timed_beside = 'in turns, classic design: whole' in results
    assert timed_beside == (find_spec('torch') is not None)
    if timed_beside:
        assert_compared(results)


def assert_compared(results: dict[str, float]) -> None:
    """The classic design has all rows of ours, and the ratios are those of the wholes."""
    parts, ratio = ('encode', 'ego, 3 agents', 'whole'), 'classic design / this'
    for design in ('layers', 'whole maps', 'classic design'):
        encode, ego, whole = (results[f'in turns, {design}: {part}'] for part in parts)
        assert encode + ego == pytest.approx(whole)
        over = results['in turns, classic design: whole'] / whole
        assert results[f'in turns, {design}: {ratio}'] == pytest.approx(over)
    assert results['in turns, layers: encode'] == results['in turns, whole maps: encode']
    for count in ('10,000', '30,000', '100,000', '300,000'):
        assert f'classic design, encode {count} points' in results
    for agents in ('1 agent', '3 agents', '5 agents'):
        assert f'classic design, fuse and head: {agents}' in results


def test_without_extras_ours_is_timed_alone(tmp_path: Path) -> None:
    """Without torch nothing is compared; without Matplotlib nothing is drawn."""
    arguments = ['bench', '--repetitions', '1', '--out', str(tmp_path / 'bench.json')]
    done = subprocess.run(
        [sys.executable, '-c', without('torch', 'matplotlib'), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "the classic design is not timed: torch is missing: pip install 'diffkd-ros[train]'",
        "bench.png is not drawn: matplotlib is missing: pip install 'diffkd-ros[report]'",
    ):
        assert line in done.stdout.splitlines()
    assert json.loads((tmp_path / 'bench.json').read_text())['restore, fuse, detect: 3 agents'] > 0
    assert [path.name for path in tmp_path.iterdir()] == ['bench.json']


def test_the_file_of_the_plot_is_not_used_for_the_times(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ['bench', '--out', str(tmp_path / 'bench.png')])
    assert outcome.exit_code == 1
    assert 'give a file such as bench.json' in outcome.stderr


def test_a_model_without_layers_is_timed_with_whole_maps(whole_map_model: Path) -> None:
    arguments = ['bench', '--repetitions', '1', '--model', str(whole_map_model)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert 'warp, fuse, head: 3 agents' in outcome.output
    assert 'layers' not in outcome.output
    if find_spec('torch') is not None:
        assert 'ours, whole maps' in outcome.output


@pytest.mark.parametrize('arguments', [['bench', '--model', 'no_such'], ['bench', '--device', 'abacus']])
def test_what_cannot_be_timed_is_named(arguments: list[str]) -> None:
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 1
    assert arguments[-1] in outcome.output
