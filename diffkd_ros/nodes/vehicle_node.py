# SPDX-License-Identifier: Apache-2.0
"""A connected vehicle's sending side: cloud and pose in, `BevFeature` on the V2X topic out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rclpy.qos import ReliabilityPolicy

from diffkd_ros.messages.lidar_pose import LidarPose
from diffkd_ros.msg import BevFeature
from diffkd_ros.nodes.base import diagnostics, entry, qos
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.input.sweeps import Sweep
from diffkd_ros.nodes.link.feature_message import feature_message
from diffkd_ros.nodes.perception.encoding import EncodingParameters
from diffkd_ros.nodes.perception.lifecycle import PerceptionNode
from diffkd_ros.runtime import codec, features


class VehicleNode(PerceptionNode[EncodingParameters]):
    """Encodes each sweep and shares the feature."""

    def __init__(self) -> None:
        super().__init__('vehicle_node', EncodingParameters)
        # Goes on over a deactivation: receivers see gaps as losses and steps back as a restart.
        self._sent = 0
        self._last_bytes = 0

    def configure(self) -> str:
        """Create the publisher."""
        profile = qos.link(self.p.v2x_reliability, self.p.v2x_depth, self.p.v2x_lifespan)
        self._publisher = self.create_lifecycle_publisher(BevFeature, 'v2x/features', profile)
        return f'{self.agent} shares features of {self.card.model_id}'

    def activate(self) -> None:
        """Nothing to do: clouds and poses are all it needs."""

    def deactivate(self) -> None:
        """Nothing to do."""

    def clean_up(self) -> None:
        """Remove the publisher."""
        self.destroy_lifecycle_publisher(self._publisher)

    def process(self, sweep: Sweep, feature: features.BevFeature, pose: LidarPose, timer: StageTimer) -> None:
        """Publish a sweep's feature."""
        encoded = codec.encode(feature)
        timer.mark('codec')
        self._publisher.publish(
            feature_message(sweep.cloud.header, self.agent, self._sent, self.card, encoded, pose)
        )
        timer.mark('publish')
        self.input.accept()
        self.report.add(sweep.stamp, timer.finish())
        self._sent += 1
        self._last_bytes = len(encoded.data)

    def close(self) -> None:
        """Stop, and say how many features went out: the one figure that receivers cannot know."""
        super().close()
        self.log_last(f'{self._sent} features sent')

    def input_values(self) -> dict[str, object]:
        """What became of the sweeps."""
        return {'features sent': self._sent}

    def items(self) -> list[diagnostics.Item]:
        """The item `link`: what goes out, and whether it can arrive."""
        receivers = {
            f'{info.node_namespace.rstrip("/")}/{info.node_name}': info.qos_profile.reliability
            for info in self.get_subscriptions_info_by_topic(self._publisher.topic_name)
        }
        trouble = link_trouble(
            self.p.v2x_reliability, receivers, self._last_bytes, qos.loses_large_best_effort()
        )
        if trouble:
            self.get_logger().warning(trouble, throttle_duration_sec=30.0)
        values = {
            'features sent': self._sent,
            'feature bytes': self._last_bytes,
            'receivers': len(receivers),
            'reliability': self.p.v2x_reliability,
        }
        level = diagnostics.WARN if trouble else diagnostics.OK
        return [diagnostics.Item('link', level, trouble or f'{len(receivers)} receivers', values)]


def link_trouble(reliability: str, receivers: Mapping[str, ReliabilityPolicy], size: int, lossy: bool) -> str:
    """Why features do not arrive somewhere; empty if nothing is known to stop them.

    Args:
        reliability: offered on the link.
        receivers: reliability that each asks for, by node.
        size: of the last feature, bytes.
        lossy: whether the middleware loses large best-effort messages.
    """
    modest = [name for name, asked in receivers.items() if asked == ReliabilityPolicy.BEST_EFFORT]
    if reliability == 'best_effort':
        deaf = sorted(receivers.keys() - set(modest))
        if deaf:
            return f'the link is best effort, but {", ".join(deaf)} ask for reliable and get nothing'
    if modest and lossy and size > qos.MAX_BEST_EFFORT_BYTES:
        return (
            f'a feature of {size} bytes is larger than {qos.MAX_BEST_EFFORT_BYTES}: with the defaults of '
            f'Fast DDS best-effort receivers lose it without notice ({", ".join(sorted(modest))})'
        )
    return ''


def main(args: Sequence[str] | None = None) -> int:
    """Entry point."""
    return entry.run(VehicleNode, 'vehicle_node', args)


if __name__ == '__main__':
    sys.exit(main())
