# SPDX-License-Identifier: Apache-2.0
"""How the adapter gets into OpenCDA, without a server."""

from __future__ import annotations

import ast
import gc
import math
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('carla', reason='the CARLA client has no wheel here')

import opencda_look_alike as opencda

from diffkd_ros.cosim.opencda import diffkd_opencda
from diffkd_ros.cosim.opencda.diffkd_opencda.__main__ import main
from diffkd_ros.cosim.opencda.diffkd_opencda.perception import box_corners


def put_modules(monkeypatch, generation='first'):
    for name, module in opencda.modules(generation).items():
        monkeypatch.setitem(sys.modules, name, module)


def test_an_opencda_without_a_perception_manager_is_named(monkeypatch):
    put_modules(monkeypatch)
    monkeypatch.delattr(sys.modules['opencda.core.common.vehicle_manager'], 'PerceptionManager')
    with pytest.raises(ImportError, match=r'PerceptionManager.*agent_manager'):
        diffkd_opencda.install()


def test_the_cause_is_named_if_a_module_of_opencda_cannot_be_imported(monkeypatch, tmp_path):
    put_modules(monkeypatch)
    monkeypatch.delitem(sys.modules, 'opencda.core.common.vehicle_manager')
    (tmp_path / 'vehicle_manager.py').write_text('import opencood_of_a_user')
    monkeypatch.setattr(sys.modules['opencda.core.common'], '__path__', [str(tmp_path)])
    with pytest.raises(ImportError, match=r"vehicle_manager cannot be imported: .*'opencood_of_a_user'"):
        diffkd_opencda.install()


def test_a_module_that_cannot_be_imported_is_named_although_another_one_is_there(
    monkeypatch, tmp_path, caplog
):
    put_modules(monkeypatch)
    (tmp_path / 'agent_manager.py').write_text('import AIM_of_a_user')
    monkeypatch.setattr(sys.modules['opencda.core.common'], '__path__', [str(tmp_path)])
    diffkd_opencda.install()
    assert "agent_manager cannot be imported: No module named 'AIM_of_a_user'" in caplog.text


def test_a_perception_manager_that_is_not_replaced_is_named(monkeypatch, caplog):
    put_modules(monkeypatch)
    clustering = type('ClusteringPerceptionManager', (opencda.FirstGeneration,), {})
    diffkd_opencda.install()
    assert f'{clustering.__module__}.ClusteringPerceptionManager is not replaced' in caplog.text
    caplog.clear()
    # Not the subclass that `install` itself has made before.
    del clustering
    gc.collect()
    put_modules(monkeypatch)
    diffkd_opencda.install()
    assert 'is not replaced' not in caplog.text


def test_a_script_runs_unchanged_behind_it(monkeypatch, tmp_path):
    put_modules(monkeypatch, 'keyword')
    script = tmp_path / 'opencda.py'
    script.write_text(
        'import pathlib, sys\n'
        'import opencda.core.common.agent_manager as holder\n'
        'assert __name__ == "__main__"\n'
        'pathlib.Path(sys.argv[2]).write_text(holder.PerceptionManager.__name__)\n'
    )
    monkeypatch.setattr(sys, 'argv', [])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    out = tmp_path / 'out'
    assert main([str(script), '-t', str(out)]) == 0
    assert out.read_text() == 'DiffKDPerceptionManager'


def test_it_is_python_3_7_and_needs_numpy_only():
    files = sorted(Path(diffkd_opencda.__file__).parent.glob('*.py'))
    imported = {
        alias.name.split('.')[0] if isinstance(node, ast.Import) else node.module.split('.')[0]
        for file in files
        for node in ast.walk(ast.parse(file.read_text(), feature_version=(3, 7)))
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.level == 0)
        for alias in node.names
    }
    assert len(files) > 1
    assert imported - set(sys.stdlib_module_names) == {'numpy', 'carla'}


def test_a_second_scenario_of_the_process_numbers_its_vehicles_from_1():
    hub = diffkd_opencda.Hub()

    class Unit:
        vehicle = lidar = None

    first, second = opencda.CavWorld(), opencda.CavWorld()
    units = [Unit(), Unit()]
    assert [hub.join(unit, first) for unit in units] == [-1, -2]
    # Its predecessors were not destroyed.
    again = [Unit(), Unit()]
    assert [hub.join(unit, second) for unit in again] == [-1, -2]
    hub.leave(again[0])
    assert hub.join(Unit(), second) == -3


def test_numbers_start_again_once_all_have_left():
    hub, world = diffkd_opencda.Hub(), opencda.CavWorld()
    unit = type('Unit', (), {'vehicle': None, 'lidar': None})()
    assert hub.join(unit, world) == -1
    hub.leave(unit)
    assert hub.join(unit, world) == -1


def test_corners_go_around_the_box():
    corners = box_corners([0.0, 0.0, 1.0, 4.0, 2.0, 1.0, 90.0, 1.0])
    # Turned to the right: its front is at +y, its left side at +x.
    np.testing.assert_allclose(corners[0], (1.0, 2.0, 0.5), atol=1e-9)
    np.testing.assert_allclose(corners[4], (1.0, 2.0, 1.5), atol=1e-9)
    area = 0.5 * sum(
        corners[k, 0] * corners[(k + 1) % 4, 1] - corners[(k + 1) % 4, 0] * corners[k, 1] for k in range(4)
    )
    assert math.isclose(area, 8.0)
