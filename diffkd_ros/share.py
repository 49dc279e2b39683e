# SPDX-License-Identifier: Apache-2.0
"""Finds the package's files that are not Python: `models/`, `config/`, `launch/`, `msg/`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from diffkd_ros.errors import DiffkdError

PACKAGE_NAME = 'diffkd_ros'


class ShareNotFoundError(DiffkdError):
    """The package's own files are in none of the places where an installation puts them."""


def share_directory() -> Path:
    """Find the folder that holds the package's `models/`, `config/`, `launch/` and `msg/`.

    The files that belong to the running code come first: the checkout around it, else the installation it is
    part of (pip, colcon). Then other ROS prefixes and this environment are tried.

    Raises:
        ShareNotFoundError: names every place that was looked in.
    """
    candidates = _candidates(Path(__file__).absolute().parent)
    for candidate in candidates:
        if (candidate / 'package.xml').is_file():
            return candidate
    looked = '\n  '.join(map(str, candidates))
    raise ShareNotFoundError(
        f'the files of {PACKAGE_NAME} (models, config, ...) are missing: no package.xml in\n  {looked}\n'
        'install it with pip or colcon, or run from a checkout'
    )


def ament_prefixes(environment: Mapping[str, str]) -> list[Path]:
    """The prefixes of a sourced installation of ROS, nearest first."""
    return [Path(entry) for entry in environment.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if entry]


def _candidates(code: Path) -> list[Path]:
    """List where the files may lie, given the folder of the package's code."""
    share = Path('share') / PACKAGE_NAME
    prefixes = [
        code.parent,  # pip install --target
        *code.parents[3:4],  # <prefix>/lib/python3.x/site-packages/diffkd_ros
        *ament_prefixes(os.environ),
        Path(sys.prefix),
    ]
    return list(dict.fromkeys([code.parent, *(prefix / share for prefix in prefixes)]))
