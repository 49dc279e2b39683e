# SPDX-License-Identifier: Apache-2.0
"""The quality of service of each kind of topic.

Everything is reliable. With Fast DDS's defaults a best-effort message of more than about 0.5 MB is silently
lost, and a sweep is larger than that; a reliable keep-last queue overwrites instead of blocking.
"""

from __future__ import annotations

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy


def _reliable(depth: int) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.RELIABLE)


# Only the newest sweep is of use.
POINTS = _reliable(1)
# Several senders share the topic, and ROS topics have no keys: with depth 1 one would overwrite another.
FEATURES = _reliable(10)
ODOMETRY = _reliable(50)
RESULTS = _reliable(10)
# A recorder may lag while its disk is busy.
RECORDING = _reliable(50)

# The largest feature message that travels safely whatever the reliability, see above.
MAX_FEATURE_BYTES = 400_000
