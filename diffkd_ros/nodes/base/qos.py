# SPDX-License-Identifier: Apache-2.0
"""The quality of service of each kind of topic.

Everything is reliable unless a parameter says otherwise. With Fast DDS's defaults a best-effort message of
more than about 0.5 MB is silently lost, and a sweep is larger than that; a reliable keep-last queue
overwrites instead of blocking.
"""

from __future__ import annotations

import rclpy
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

__all__ = ['SubscriptionEventCallbacks']

RELIABILITIES = ('reliable', 'best_effort')


def _reliable(depth: int) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.RELIABLE)


# Only the newest sweep is of use.
POINTS = _reliable(1)
# In lock-step all of them are: a recorder may still be having the one before repaired.
POINTS_IN_LOCKSTEP = _reliable(10)
# Several senders share the topic, and ROS topics have no keys: with depth 1 one would overwrite another.
FEATURES = _reliable(10)
ODOMETRY = _reliable(50)
RESULTS = _reliable(10)
# For whoever joins late: what does not change.
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

# The largest message that travels safely whatever the reliability, see above.
MAX_BEST_EFFORT_BYTES = 400_000


def link(reliability: str, depth: int, lifespan: float) -> QoSProfile:
    """The V2X link's profile.

    Args:
        reliability: one of `RELIABILITIES`.
        depth: messages kept.
        lifespan: seconds after which a message not yet taken is dropped; 0: never.
    """
    profile = _reliable(depth)
    if reliability == 'best_effort':
        profile.reliability = ReliabilityPolicy.BEST_EFFORT
    if lifespan > 0:
        profile.lifespan = Duration(nanoseconds=round(lifespan * 1e9))
    return profile


def loses_large_best_effort() -> bool:
    """Whether the middleware in use loses large best-effort messages unless it is configured not to."""
    return 'fastrtps' in rclpy.get_rmw_implementation_identifier()
