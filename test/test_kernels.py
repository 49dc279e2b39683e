# SPDX-License-Identifier: Apache-2.0
"""Where the machine code of numeric functions is kept. `test_machines.py` compiles all of them beforehand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox import sandboxed

PROJECT = Path(__file__).parents[1]
COMPILING = 'compiling numeric functions'
# A function that is compiled quickly.
HEIGHT = """
import numpy as np
from diffkd_ros.sources.simulator.ground import height_at
print(height_at(np.ones((2, 2), np.float32), 0.0, 0.0))
"""


def run(code, tmp_path, *, home='/proc/nowhere', read_only=(), **variables):
    """Standard error of a run with the package read-only and without a home folder."""
    temporary = tmp_path / 'tmp'
    temporary.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != 'NUMBA_CACHE_DIR'}
    environment |= {'HOME': home, 'XDG_CACHE_HOME': f'{home}/cache', 'TMPDIR': str(temporary), **variables}
    command = sandboxed([sys.executable, '-c', code], [PROJECT, *read_only])
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '1.0\n'
    return done.stderr


def test_without_a_writable_folder_compiled_functions_are_kept_in_a_private_one(tmp_path):
    assert COMPILING in run(HEIGHT, tmp_path)
    (folder,) = (tmp_path / 'tmp').iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert COMPILING not in run(HEIGHT, tmp_path)
    # A folder that others can write to is not used.
    folder.chmod(0o777)
    assert 'every process compiles them again' in run(HEIGHT, tmp_path)


def test_a_cache_that_was_filled_and_is_read_only_is_used(tmp_path):
    """As in a container that is run read-only, or as another user."""
    filled = tmp_path / 'filled'
    filled.mkdir()
    assert COMPILING in run(HEIGHT, tmp_path, NUMBA_CACHE_DIR=str(filled))
    assert COMPILING not in run(HEIGHT, tmp_path, read_only=[filled], NUMBA_CACHE_DIR=str(filled))


# No byte can be written to a file.
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""


def test_without_any_folder_each_process_compiles(tmp_path):
    assert 'every process compiles' in run(FULL + HEIGHT, tmp_path)


def test_on_a_full_disk_the_functions_run_all_the_same(tmp_path):
    filled = tmp_path / 'filled'
    filled.mkdir()
    assert COMPILING in run(FULL + HEIGHT, tmp_path, NUMBA_CACHE_DIR=str(filled))
    assert not [path for path in filled.rglob('*') if path.is_file()]


@pytest.mark.skipif(shutil.which('ruff', path=str(Path(sys.executable).parent)) is None, reason='no ruff')
def test_numba_is_used_through_the_module_of_kernels_only(tmp_path):
    """Ruff bans the decorators elsewhere, which would end the import where no cache can be written."""
    module = tmp_path / 'module.py'
    module.write_text('from numba import njit\n\n\n@njit\ndef f() -> None:\n    """Do nothing."""\n')
    ruff = Path(sys.executable).with_name('ruff')
    checked = subprocess.run(
        [ruff, 'check', '--config', PROJECT / 'pyproject.toml', module], capture_output=True, text=True
    )
    assert 'TID251' in checked.stdout
