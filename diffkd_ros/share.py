# SPDX-License-Identifier: Apache-2.0
"""Location of the package's data files: `models/`, `config/`, `launch/` and `msg/`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from diffkd_ros.errors import DiffkdError

PACKAGE_NAME = 'diffkd_ros'


def share_directory() -> Path:
    """Find the folder that holds `models/`, `config/`, `launch/` and `msg/`.

    The files that belong to the running code come first: those of its checkout, else of its installation
    (pip, colcon). Then other ROS prefixes and the Python environment are tried.

    Raises:
        DiffkdError: if no candidate has the files; the message lists all candidates.
    """
    code = Path(__file__).absolute().parent
    share = Path('share') / PACKAGE_NAME
    prefixes = [
        code.parent,  # pip install --target
        *code.parents[3:4],  # <prefix>/lib/python3.x/site-packages/diffkd_ros
        *ament_prefixes(os.environ),
        Path(sys.prefix),
    ]
    candidates = list(dict.fromkeys([code.parent, *(prefix / share for prefix in prefixes)]))
    for candidate in candidates:
        if (candidate / 'package.xml').is_file():
            return candidate
    looked = '\n  '.join(map(str, candidates))
    raise DiffkdError(
        f'the files of {PACKAGE_NAME} (models, config, ...) are missing: no package.xml in\n  {looked}\n'
        'install it with pip or colcon, or run from a checkout'
    )


def ament_prefixes(environment: Mapping[str, str]) -> list[Path]:
    """The prefixes of the sourced ROS workspaces, the last sourced first."""
    return [Path(entry) for entry in environment.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if entry]
