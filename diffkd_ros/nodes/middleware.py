# SPDX-License-Identifier: Apache-2.0
"""The shipped Fast DDS profiles, for whichever version of it is at hand. It imports no ROS."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# Version 2 (Humble, Iron, Jazzy) and version 3 (Kilted and later) each read a variable and a syntax of their
# own and know nothing of the other's. ROS_DISTRO does not tell which one a node loads: wheels do not set it.
_PROFILES = {
    'FASTRTPS_DEFAULT_PROFILES_FILE': 'fastdds_2.xml',
    'FASTDDS_DEFAULT_PROFILES_FILE': 'fastdds.xml',
}


def fast_dds_environment(share: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that name a profile to each version of Fast DDS: as they are set, else the shipped ones.

    Other middlewares ignore them.

    Args:
        share: the package's share folder.
        environment: as it is.
    """
    return {
        variable: environment.get(variable) or str(share / 'config' / name)
        for variable, name in _PROFILES.items()
    }
