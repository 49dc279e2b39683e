# SPDX-License-Identifier: Apache-2.0
"""The shipped Fast DDS profiles, for whichever version of it is at hand. It imports no ROS."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from diffkd_ros.share import ament_prefixes

# Version 2 (Humble, Iron, Jazzy) and version 3 (Kilted and later) have a variable and a syntax of their own;
# version 3 reads what it finds in the variable of version 2, too, with errors about both. ROS_DISTRO does
# not tell which one a node loads: wheels do not set it.
_PROFILES = {
    'libfastrtps': ('FASTRTPS_DEFAULT_PROFILES_FILE', 'fastdds_2.xml'),
    'libfastdds': ('FASTDDS_DEFAULT_PROFILES_FILE', 'fastdds.xml'),
}


def fast_dds_environment(
    share: Path, environment: Mapping[str, str] = os.environ, prefix: Path = Path(sys.prefix)
) -> dict[str, str]:
    """The variable that names a profile to the installed Fast DDS: as it is set, else with the shipped one.

    Other middlewares ignore it. Where neither version is found, both get theirs.

    Args:
        share: the package's share folder.
        environment: as it is; a sourced installation of ROS names its prefixes there.
        prefix: of the Python environment, into which wheels install.
    """
    # On Debian, libraries may lie in a folder of their architecture.
    found = (
        library
        for place in (*ament_prefixes(environment), prefix)
        for library in _PROFILES
        if any(place.glob(f'lib/{library}.so*')) or any(place.glob(f'lib/*-linux-gnu/{library}.so*'))
    )
    library = next(found, None)
    wanted = _PROFILES.values() if library is None else [_PROFILES[library]]
    return {variable: environment.get(variable) or str(share / 'config' / name) for variable, name in wanted}
