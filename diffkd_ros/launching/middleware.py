# SPDX-License-Identifier: Apache-2.0
"""Set-up of the middleware: Fast DDS profile and DDS domain. No ROS is imported."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from diffkd_ros.errors import DiffkdError
from diffkd_ros.share import ament_prefixes

# Fast DDS 2 (Humble, Iron, Jazzy) and 3 (Kilted and later) have different variables and syntax. Version 3
# reads the variable of version 2 too and then logs errors, so only one may be set. ROS_DISTRO does not help:
# wheels do not set it.
_PROFILES = {
    'libfastrtps': ('FASTRTPS_DEFAULT_PROFILES_FILE', 'fastdds_2'),
    'libfastdds': ('FASTDDS_DEFAULT_PROFILES_FILE', 'fastdds'),
}
_RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE'


def fast_dds_environment(
    share: Path,
    environment: Mapping[str, str] = os.environ,
    prefix: Path = Path(sys.prefix),
    *,
    loopback: bool = False,
) -> dict[str, str]:
    """The environment variables that make the installed Fast DDS load a profile.

    A profile that is already set is kept. Other middlewares ignore the variable. If neither version of Fast
    DDS is found, the variables of both are returned.

    Args:
        share: the package's share folder.
        environment: holds the prefixes of a sourced ROS installation.
        prefix: of the Python environment, into which wheels install.
        loopback: find no processes on other machines, as with the discovery range LOCALHOST.

    Returns:
        Variable -> path of the profile; for loopback also the discovery range.
    """
    # On Debian, libraries may lie in a folder named after the architecture.
    found = (
        library
        for place in (*ament_prefixes(environment), prefix)
        for library in _PROFILES
        if any(place.glob(f'lib/{library}.so*')) or any(place.glob(f'lib/*-linux-gnu/{library}.so*'))
    )
    library = next(found, None)
    wanted = _PROFILES.values() if library is None else [_PROFILES[library]]
    set_before = {variable: environment.get(variable, '') for variable, _ in wanted}
    # A process that was started with ours starts others: they get the same again.
    limited = {variable: str(share / 'config' / f'{name}_loopback.xml') for variable, name in wanted}
    loopback = loopback or environment.get(_RANGE) == 'LOCALHOST' or set_before == limited
    suffix = '_loopback' if loopback else ''
    ours = {variable: str(share / 'config' / f'{name}{suffix}.xml') for variable, name in wanted}
    variables = {variable: set_before[variable] or profile for variable, profile in ours.items()}
    if loopback:
        loads_ours = (
            library is not None
            and variables == ours
            and 'fastrtps' in environment.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
        )
        # rmw_fastrtps adds shared memory to any profile if the range is LOCALHOST; ours needs no such limit.
        variables[_RANGE] = 'SUBNET' if loads_ours else 'LOCALHOST'
    return variables


def free_domain(first: int | None = None) -> int:
    """A DDS domain, 1 to 100, that no participant on this machine uses.

    Args:
        first: number at which the search starts; by default it depends on the process.

    Raises:
        DiffkdError: if all are in use.
    """
    first = os.getpid() if first is None else first
    for domain in (1 + number % 100 for number in range(first, first + 100)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # RTPS: base port 7400, 250 per domain, +10 for unicast discovery of the first participant.
                probe.bind(('', 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    raise DiffkdError('no DDS domain is free on this machine')
