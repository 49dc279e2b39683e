# SPDX-License-Identifier: Apache-2.0
"""Quality of service of each kind of topic.

The default is reliable: with the defaults of Fast DDS, best-effort messages larger than about 0.5 MB, as most
sweeps are, get lost without notice. A reliable keep-last queue overwrites old messages instead of blocking.
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


# Only the newest sweep is used.
POINTS = _reliable(1)
# In lock-step every sweep is used: the previous one may still be in retransmission to a recorder.
POINTS_IN_LOCKSTEP = _reliable(10)
# All senders share the topic, and ROS topics have no keys: with depth 1 they would overwrite each other.
FEATURES = _reliable(10)
ODOMETRY = _reliable(50)
RESULTS = _reliable(10)
# Constant messages, delivered to late subscribers too.
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

# Largest message that is delivered with best effort too, see above.
MAX_BEST_EFFORT_BYTES = 400_000


def link(reliability: str, depth: int, lifespan: float) -> QoSProfile:
    """Profile of the V2X link.

    Args:
        reliability: one of `RELIABILITIES`.
        depth: of the queue, messages.
        lifespan: seconds after which an undelivered message is dropped; 0: never.
    """
    profile = _reliable(depth)
    if reliability == 'best_effort':
        profile.reliability = ReliabilityPolicy.BEST_EFFORT
    if lifespan > 0:
        profile.lifespan = Duration(nanoseconds=round(lifespan * 1e9))
    return profile


def loses_large_best_effort() -> bool:
    """Whether the middleware in use loses large best-effort messages with its default configuration."""
    return 'fastrtps' in rclpy.get_rmw_implementation_identifier()
