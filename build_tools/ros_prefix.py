# SPDX-License-Identifier: Apache-2.0
"""Finds the ROS packages that the message build needs."""

import os
import sys
from pathlib import Path


class RosPackageNotFoundError(RuntimeError):
    """A ROS package that the message build needs is not installed."""


def search_prefixes() -> list[Path]:
    """Install prefixes that may hold ROS packages, in the order of the search.

    A sourced ROS installation lists its prefixes in `AMENT_PREFIX_PATH`. ROS wheels are installed in
    `sys.prefix` or, in an isolated build of pip, in an overlay that is only on `sys.path`
    (`<prefix>/lib/python3.x/site-packages`).
    """
    ament = [Path(entry) for entry in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if entry]
    overlays = [
        Path(entry).parents[2]
        for entry in sys.path
        if Path(entry).name == 'site-packages' and len(Path(entry).parents) > 2
    ]
    return list(dict.fromkeys([*ament, Path(sys.prefix), *overlays]))


def prefix_of(package: str) -> Path:
    """The install prefix of a ROS package.

    Raises:
        RosPackageNotFoundError: if no prefix has `share/<package>/package.xml`.
    """
    prefixes = search_prefixes()
    for prefix in prefixes:
        if (prefix / 'share' / package / 'package.xml').is_file():
            return prefix
    looked = ', '.join(map(str, prefixes))
    raise RosPackageNotFoundError(f'ROS package {package!r} is not installed; looked in {looked}')


def share_of(package: str) -> Path:
    """The share folder of a ROS package, which holds its interface definitions and templates."""
    return prefix_of(package) / 'share' / package
