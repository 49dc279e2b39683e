# SPDX-License-Identifier: Apache-2.0
"""`diffkd bench-opencda` on the look-alike of OpenCDA, and the arithmetic of its table."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import opencda_look_alike as opencda
import pytest
from processes_below import processes_below
from rich.console import Console

from diffkd_ros.cosim.opencda.diffkd_opencda import timing
from diffkd_ros.errors import DiffkdError

DEFAULTS = """
world: {sync_mode: true, fixed_delta_seconds: 0.05}
vehicle_base:
  sensing:
    perception: {activate: false, camera: {num: 1, positions: [[2.5, 0, 1.0, 0]]}, lidar: {range: 50}}
  behavior: {max_speed: 111}
  controller: {type: pid_controller, args: {dt: '${world.fixed_delta_seconds}'}}
"""


@pytest.fixture
def checkout(tmp_path):
    """Makes a folder in which `import opencda` gives the look-alike of a version."""

    def make(generation):
        package = tmp_path / 'checkout' / 'opencda'
        scenarios = package / 'scenario_testing' / 'config_yaml'
        scenarios.mkdir(parents=True)
        (scenarios / 'default.yaml').write_text(DEFAULTS)
        (package / '__init__.py').write_text(
            f'import sys\nsys.path.insert(0, {str(Path(opencda.__file__).parent)!r})\n'
            f'import opencda_look_alike\nsys.modules.update(opencda_look_alike.modules({generation!r}))\n'
        )
        return package.parent

    return make


def bench(checkout, model, **changed):
    pytest.importorskip('carla', reason='the CARLA client has no wheel here')
    pytest.importorskip('msgpack', reason='the stand-in needs msgpack')
    pytest.importorskip('rclpy', reason='the gateway needs ROS 2')
    from diffkd_ros.demo.opencda import OpencdaBench

    values = {'python': Path(sys.executable), 'model': str(model), 'steps': 3, 'warm_up': 1}
    return OpencdaBench(checkout, **{**values, **changed})


# They differ most in how the perception manager is constructed.
@pytest.mark.parametrize('generation', ['first', 'cooperative'])
def test_both_kinds_of_steps_are_timed(generation, checkout, model, tmp_path, capsys):
    from diffkd_ros.cosim.testing.street import street

    out = tmp_path / 'out'
    result = bench(checkout(generation), model).run([2], out, Console(width=200))
    assert json.loads((out / 'times.json').read_text()) == result
    result = result['2']
    assert result['step_s'] == 0.1
    frame = street(2)
    ego, truth = frame.agents[1].pose[:2, 3], frame.ground_truth.boxes
    near = sum(0.1 < math.dist(ego, box[:2]) < 50.0 for box in truth)
    # Some of them are hidden from both vehicles, and OpenCDA has no range for detections.
    assert result['server']['vehicles'] == pytest.approx(near, abs=1)
    assert 0.3 * near < result['cooperative']['vehicles'] < 1.7 * near
    for kind in ('cooperative', 'server'):
        own = result[kind]
        parts = own['milliseconds']
        assert own['steps'] == 3
        assert all(parts[part] > 0.0 for part in ('world', 'perception', 'planner'))
        assert own['steps_per_second'] == pytest.approx(1e3 / own['step_ms'])
        assert own['times_real_time'] == pytest.approx(0.1 * own['steps_per_second'])
    assert result['cooperative']['milliseconds']['gateway'] > 1.0
    assert result['server']['milliseconds']['gateway'] == result['server']['milliseconds']['sweeps'] == 0.0
    assert 'ground truth' in capsys.readouterr().out
    assert not processes_below(out, 'diffkd')


def test_a_checkout_that_cannot_be_imported_is_reported(checkout, model, tmp_path):
    broken = checkout('first')
    (broken / 'opencda' / '__init__.py').write_text('import opencood_of_a_user')
    with pytest.raises(DiffkdError, match=r'ended with code 1:[^$]*opencood_of_a_user'):
        bench(broken, model).run([2], tmp_path / 'out', Console())
    assert not processes_below(tmp_path / 'out', 'diffkd')


def test_another_folder_is_refused_before_anything_is_written(model, tmp_path):
    with pytest.raises(DiffkdError, match=r'is not a checkout of OpenCDA: it has no opencda/.*\.yaml$'):
        bench(tmp_path, model).run([2], tmp_path / 'out', Console())
    assert not (tmp_path / 'out').exists()


def test_a_part_inside_another_counts_once():
    watch = timing.Stopwatch()
    started = time.perf_counter()
    with watch.part('perception'):
        time.sleep(0.02)
        watch.timed('gateway', time.sleep)(0.05)
    passed = time.perf_counter() - started
    seconds = watch.read()
    assert seconds['gateway'] >= 0.05
    assert seconds['perception'] >= 0.02
    assert sum(seconds.values()) <= passed
    assert sum(watch.read().values()) == 0.0


def test_medians():
    def row(kind, world, gateway):
        parts = dict.fromkeys(timing.PARTS, 0.0) | {'world': world, 'gateway': gateway}
        return {'objects': kind, 'vehicles': 4, **parts}

    rows = [row('cooperative', 0.1, each) for each in (0.1, 0.3, 0.9)] + [row('server', 0.05, 0.0)] * 2
    summary = timing.summarise(rows, 0.1)
    own = summary['cooperative']
    assert (own['milliseconds']['world'], own['milliseconds']['gateway']) == pytest.approx((100.0, 300.0))
    assert own['steps_per_second'] == pytest.approx(2.5)
    assert own['times_real_time'] == pytest.approx(0.25)
    assert (summary['server']['steps'], summary['server']['times_real_time']) == (2, pytest.approx(2.0))
