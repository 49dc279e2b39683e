# SPDX-License-Identifier: Apache-2.0
"""Corruptions of sensors, poses and links, in one registry: applied by name, severity and seed."""

from diffkd_ros.corruptions.corruption import WHO, Corruption, Family, Profile, Role, Who
from diffkd_ros.corruptions.errors import CorruptionError
from diffkd_ros.corruptions.link import Arrival, Link, LinkConditions
from diffkd_ros.corruptions.registry import CORRUPTIONS, corrupt_frame, lookup, names, open_link

__all__ = [
    'CORRUPTIONS',
    'WHO',
    'Arrival',
    'Corruption',
    'CorruptionError',
    'Family',
    'Link',
    'LinkConditions',
    'Profile',
    'Role',
    'Who',
    'corrupt_frame',
    'lookup',
    'names',
    'open_link',
]
