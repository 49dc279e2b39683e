# SPDX-License-Identifier: Apache-2.0
"""Faults of a vehicle's own LiDAR and pose."""

from __future__ import annotations

from enum import Enum


class Fault(str, Enum):
    """A fault of a vehicle's own sensors; the value is the text in FusionStatus and diagnostics."""

    FROZEN = 'frozen'
    TURNED = 'turned'
    HEADING = 'heading and course disagree'
    UNCLEAR = 'cloud and pose disagree'
    MISSING = 'part of the field missing'
    SPARSE = 'far fewer points'
    SCATTERED = 'scattered returns'


MISLEADING = frozenset({Fault.FROZEN, Fault.TURNED})
"""Faults with which a sweep shows things where they are not."""

MISPLACED = frozenset({Fault.HEADING, Fault.UNCLEAR})
"""Faults with which neighbours' maps may be fused in the wrong place, while the own one may be right."""


def described(fault: Fault, details: str) -> str:
    """A fault with its details."""
    return f'{fault.value}: {details}'
