# SPDX-License-Identifier: Apache-2.0
"""Messages for a `NeighbourSelector`, and what it decides."""

from __future__ import annotations

from typing import Any

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.names import MAP_FRAME
from diffkd_ros.nodes.link.neighbours import NeighbourSelector, Verdict


def sent_by(participant: int) -> dict[str, Any]:
    """The `MessageInfo` of a message of a participant."""
    gid = bytes([participant] * 12 + [0, 0, 1, 3])
    return {'publisher_gid': {'implementation_identifier': 'rmw_fastrtps_cpp', 'data': gid}}


def verdicts(selector: NeighbourSelector, stamp: int, ego_pose: Matrix) -> dict[str, Verdict]:
    """The verdict on each neighbour for a sweep of the ego, in which all that are accepted are fused."""
    found = selector.select(stamp, ego_pose, MAP_FRAME)
    concluded = selector.conclude(stamp, found, [0.5] * len(found))
    return {verdict.agent: verdict for verdict in concluded}
