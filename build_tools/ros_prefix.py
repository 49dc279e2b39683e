# SPDX-License-Identifier: Apache-2.0
"""Where the ROS packages that the message build needs are installed."""

import os
import sys
from pathlib import Path


class RosPackageNotFoundError(RuntimeError):
    """A ROS package that the message build needs is not installed."""


def search_prefixes() -> list[Path]:
    """List the install prefixes that may hold ROS packages, nearest first.

    A sourced ROS installation names its prefixes in `AMENT_PREFIX_PATH`. The ROS wheels install into the
    prefix of their environment, which is `sys.prefix` or, in pip's isolated build, an overlay known only by
    its place on `sys.path` (`<prefix>/lib/python3.x/site-packages`).
    """
    ament = [Path(entry) for entry in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if entry]
    overlays = [
        Path(entry).parents[2]
        for entry in sys.path
        if Path(entry).name == 'site-packages' and len(Path(entry).parents) > 2
    ]
    return list(dict.fromkeys([*ament, Path(sys.prefix), *overlays]))


def prefix_of(package: str) -> Path:
    """Find the install prefix of one ROS package.

    Raises:
        RosPackageNotFoundError: no prefix holds `share/<package>/package.xml`.
    """
    prefixes = search_prefixes()
    for prefix in prefixes:
        if (prefix / 'share' / package / 'package.xml').is_file():
            return prefix
    looked = ', '.join(map(str, prefixes))
    raise RosPackageNotFoundError(f'ROS package {package!r} is not installed; looked in {looked}')


def share_of(package: str) -> Path:
    """Find the share folder of one ROS package, which holds its interface definitions and templates."""
    return prefix_of(package) / 'share' / package
