# SPDX-License-Identifier: Apache-2.0
"""A corruption: name, family, parameters per severity, and the function that applies it to one agent."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np

from diffkd_ros.corruptions.errors import CorruptionError
from diffkd_ros.frame import AgentSweep, CoopFrame

Family = Literal['lidar', 'pose', 'link']
Role = Literal['paper', 'held_out', 'extra']
Profile = Literal['lab', 'graded']
Who = Literal['ego', 'neighbours', 'all']
WHO: tuple[Who, ...] = get_args(Who)
Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hit:
    """An agent of a frame to be corrupted.

    Attributes:
        frame: the clean frame.
        agent: a key of its agents.
        rng: generator for this seed, corruption, scenario, frame and agent.
        seed: of the experiment.
    """

    frame: CoopFrame
    agent: int
    rng: np.random.Generator
    seed: int

    @property
    def sweep(self) -> AgentSweep:
        """The agent's sweep."""
        return self.frame.agents[self.agent]


@dataclass(frozen=True, slots=True)
class Corruption:
    """An entry of the registry.

    Attributes:
        name: in the registry.
        family: `lidar` acts on sweeps, `pose` on poses, `link` on messages.
        role: `paper` for the paper's seven, `held_out` for types excluded from training, `extra` for others.
        summary: one line.
        profiles: parameters of each severity, from 1, by profile.
        apply: corrupts one agent; None for the link family.
        hits: the agents it applies to by default.
    """

    name: str
    family: Family
    role: Role
    summary: str
    profiles: Mapping[Profile, tuple[Parameters, ...]]
    apply: Callable[..., AgentSweep] | None = field(repr=False)
    hits: Who = 'all'

    def severities(self, profile: Profile = 'graded') -> tuple[int, ...]:
        """Severities of the profile, from 1; empty if the corruption lacks the profile."""
        return tuple(range(1, len(self.profiles.get(profile, ())) + 1))

    def parameters(self, severity: int, profile: Profile = 'graded', **options: Any) -> dict[str, Any]:
        """Parameters of a severity; `options` override the profile's values.

        Raises:
            CorruptionError: if the profile, severity or an option is unknown; the message names the nearest.
        """
        if profile not in self.profiles:
            raise unknown(f'profile of {self.name}', profile, self.profiles)
        table = self.profiles[profile]
        known = self.severities(profile)
        if not isinstance(severity, Integral) or severity not in known:
            nearest = min(known, key=lambda s: abs(s - severity)) if isinstance(severity, Real) else known[0]
            raise CorruptionError(
                f'{self.name} has severities {list(known)} in profile {profile!r}, got {severity!r}; '
                f'the nearest is {nearest}'
            )
        row = table[severity - 1]
        for option in options:
            if option not in row:
                raise unknown(f'option of {self.name}', option, row)
        return {**row, **options}


def unknown(what: str, got: Any, known: Iterable[str]) -> CorruptionError:
    """The error for an unknown name; the message names the nearest known one."""
    names_known = list(known)
    nearest = difflib.get_close_matches(str(got), names_known, 1, 0.0)
    return CorruptionError(
        f'unknown {what} {got!r}; the nearest is {nearest[0]!r} of {", ".join(names_known)}'
    )
