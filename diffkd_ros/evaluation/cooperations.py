# SPDX-License-Identifier: Apache-2.0
"""The ways to cooperate by their names on the command line."""

from __future__ import annotations

from typing import cast, get_args

from diffkd_ros.evaluation.conditions import check_known
from diffkd_ros.evaluation.cooperation import (
    Cooperation,
    EarlyCooperation,
    IntermediateCooperation,
    LateCooperation,
    NoCooperation,
    Plausibility,
)
from diffkd_ros.evaluation.layered import LayeredCooperation
from diffkd_ros.evaluation.voted import VotedCooperation
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.runtime.card import ModelCard

_KINDS: tuple[type[Cooperation], ...] = (
    IntermediateCooperation,
    LateCooperation,
    EarlyCooperation,
    NoCooperation,
    LayeredCooperation,
    VotedCooperation,
)
COOPERATIONS = {kind.name: kind for kind in _KINDS}
INTERMEDIATE = IntermediateCooperation.name


def cooperation_named(name: str) -> type[Cooperation]:
    """Look up a way to cooperate.

    Raises:
        EvaluationError: if there is no such way; names the nearest.
    """
    check_known('cooperation', name, COOPERATIONS)
    return COOPERATIONS[name]


def plausibility_named(name: str | None, cooperation: str, default: Plausibility) -> Plausibility:
    """Look up how what neighbours sent is examined; None for the default.

    Raises:
        EvaluationError: if there is no such way, or nothing is examined in this cooperation.
    """
    if name is None:
        return default
    check_known('plausibility', name, get_args(Plausibility))
    if not cooperation_named(cooperation).examines:
        raise EvaluationError(f'{cooperation} cooperation examines nothing: leave --plausibility out')
    return cast(Plausibility, name)


def live_cooperation(card: ModelCard) -> type[Cooperation]:
    """What the nodes do with a model: share its maps in layers if it has a layered message, else whole."""
    return LayeredCooperation if card.link else IntermediateCooperation
