# SPDX-License-Identifier: Apache-2.0
"""Which of the shipped Fast DDS profiles fits the ROS distribution at hand. It imports no ROS."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# They come with Fast DDS 2, which reads another syntax and another variable than version 3.
_FAST_DDS_2 = {'humble', 'iron', 'jazzy'}


def fast_dds_environment(share: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variable that names a Fast DDS profile, and the profile: the one set already, else the shipped one.

    Other middlewares ignore it. Without a ROS installation it is for the wheels, which are Kilted's.

    Args:
        share: the package's share folder.
        environment: as it is.
    """
    if environment.get('ROS_DISTRO') in _FAST_DDS_2:
        variable, name = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'fastdds_2.xml'
    else:
        variable, name = 'FASTDDS_DEFAULT_PROFILES_FILE', 'fastdds.xml'
    return {variable: environment.get(variable) or str(share / 'config' / name)}
