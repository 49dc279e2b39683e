# SPDX-License-Identifier: Apache-2.0
"""Names of agents, topics, frames and types in messages."""

from __future__ import annotations

import re

from diffkd_ros.errors import DiffkdError

BOXES3D_TYPE = 'diffkd_ros/msg/Boxes3D'

# What this package publishes and writes; recordings may have others.
MAP_FRAME = 'map'
CLASS_NAMES = ['vehicle']
TRUTH_TOPIC = '/ground_truth'
# The V2X link: whole maps (version 1 of the exchange), and the chunks of layered messages (version 2).
FEATURES_TOPIC = 'v2x/features'
CHUNKS_TOPIC = 'v2x/chunks'

AGENT_PATTERN = r'(?:cav|rsu)_\d+'


def agent_name(agent: int) -> str:
    """The namespace and V2X name of an agent: ``cav_7`` for vehicle 7, ``rsu_1`` for road-side unit -1."""
    return f'cav_{agent}' if agent >= 0 else f'rsu_{-agent}'


def agent_number(name: str) -> int:
    """The inverse of `agent_name`.

    Raises:
        DiffkdError: if the name has another form.
    """
    if not re.fullmatch(AGENT_PATTERN, name):
        raise DiffkdError(f'agent name {name!r} is neither cav_<number> nor rsu_<number>')
    kind, number = name.split('_')
    return int(number) if kind == 'cav' else -int(number)


def lidar_frame(agent: str) -> str:
    """The frame of an agent's LiDAR."""
    return f'{agent}/lidar'


DEGRADATIONS = ('full', 'fewer peers', 'boxes only', 'ego alone', 'peers alone', 'stale')
"""Names of the levels of degradation in FusionStatus.msg, by number."""


def degradation_name(level: int) -> str:
    """Name of a level of degradation; of one that is not known, its number."""
    return DEGRADATIONS[level] if 0 <= level < len(DEGRADATIONS) else f'level {level}'
