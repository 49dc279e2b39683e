# SPDX-License-Identifier: Apache-2.0
"""A copy of this checkout to build in."""

import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
# Ignored by git, and git's own folder.
MADE = {'.git', '.venv', 'build', 'demo', 'demo-carla', 'dist', 'install', 'log', 'runs'}


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    def made(folder: str, names: list[str]) -> set[str]:
        at_top = MADE if Path(folder) == PROJECT else set()
        return {name for name in names if name in at_top or name == '__pycache__' or name.endswith('_cache')}

    copy = tmp_path_factory.mktemp('workspace') / 'src' / 'diffkd_ros'
    shutil.copytree(PROJECT, copy, ignore=made)
    return copy
