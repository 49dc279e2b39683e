# SPDX-License-Identifier: Apache-2.0
"""The registry of corruptions by name, and their application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffkd_ros.corruptions.catalogue import CATALOGUE
from diffkd_ros.corruptions.corruption import (
    WHO,
    Corruption,
    Family,
    Hit,
    Profile,
    Role,
    Who,
    unknown,
)
from diffkd_ros.corruptions.errors import CorruptionError
from diffkd_ros.corruptions.link import Link, LinkConditions
from diffkd_ros.corruptions.payload import SizeOf
from diffkd_ros.corruptions.randomness import generator
from diffkd_ros.corruptions.sweeps import require_finite
from diffkd_ros.frame import CoopFrame

CORRUPTIONS: Mapping[str, Corruption] = {corruption.name: corruption for corruption in CATALOGUE}


def lookup(name: str) -> Corruption:
    """The corruption of a name.

    Raises:
        CorruptionError: if the name is unknown; the message names the nearest.
    """
    if name not in CORRUPTIONS:
        raise unknown('corruption', name, CORRUPTIONS)
    return CORRUPTIONS[name]


def names(
    family: Family | None = None, role: Role | None = None, profile: Profile | None = None
) -> tuple[str, ...]:
    """Names of the corruptions of a family, role and profile (all by default), in the registry's order."""
    return tuple(
        corruption.name
        for corruption in CATALOGUE
        if (family is None or corruption.family == family)
        and (role is None or corruption.role == role)
        and (profile is None or profile in corruption.profiles)
    )


def corrupt_frame(
    frame: CoopFrame,
    name: str,
    severity: int,
    seed: int,
    who: Who | None = None,
    profile: Profile = 'graded',
    **options: Any,
) -> CoopFrame:
    """Corrupt the sweeps or poses of a frame.

    Draws depend only on (seed, name, scenario, frame index, agent): the same seed gives the same bytes, and
    all severities share their draws. Agents that are not affected keep their sweep objects.

    Args:
        frame: the clean frame. Its ground truth does not change; with corrupted poses, use this frame's.
        name: of the `lidar` or `pose` family.
        severity: from 1.
        seed: of the realisation.
        who: the affected agents: `ego`, `neighbours` or `all`; None for the corruption's default, `all` for
            sensors and `neighbours` for poses.
        profile: `lab` or `graded`.
        options: override parameters of the profile.

    Raises:
        CorruptionError: if name, severity, who, profile or an option is unknown or out of range, or the
            corruption does not apply to this frame (for example, wet ground if no ground is found, or to
            returns that are not finite).
    """
    corruption = lookup(name)
    if corruption.apply is None:
        raise CorruptionError(f'{name} acts on messages, not on frames; use open_link')
    if who is not None and who not in WHO:
        raise unknown('value of who', who, WHO)
    who = who or corruption.hits
    parameters = corruption.parameters(severity, profile, **options)
    agents = dict(frame.agents)
    for agent in agents:
        if who == 'all' or (agent == frame.ego) == (who == 'ego'):
            rng = generator(seed, name, frame.scenario, frame.index, agent)
            try:
                if corruption.family == 'lidar':
                    require_finite(agents[agent])
                agents[agent] = corruption.apply(Hit(frame, agent, rng, seed), **parameters)
            except CorruptionError as error:
                where = f'frame {frame.index} of scenario {frame.scenario!r}, agent {agent}'
                raise CorruptionError(f'{name}, {where}: {error}') from error
    return replace(frame, agents=agents)


def open_link(
    name: str,
    severity: int,
    seed: int,
    scenario: str,
    sender: int,
    profile: Profile = 'graded',
    size_of: SizeOf | None = None,
    **options: Any,
) -> Link[Any]:
    """Create the link from one sender to the ego under a corruption of the `link` family.

    Severity, profile (`graded`) and options are as for `corrupt_frame`, the others as for `Link`.

    Raises:
        CorruptionError: if name, severity, profile or an option is unknown or out of range.
    """
    corruption = lookup(name)
    if corruption.family != 'link':
        raise CorruptionError(f'{name} acts on frames, not on messages; use corrupt_frame')
    conditions = LinkConditions(**corruption.parameters(severity, profile, **options))
    return Link(conditions, seed, scenario, sender, size_of)
