# SPDX-License-Identifier: Apache-2.0
"""The sending side of a connected vehicle: clouds and poses in, `BevFeature` on the V2X link out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from rclpy.qos import ReliabilityPolicy

from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.msg import BevFeature
from diffkd_ros.nodes.base import entry, qos
from diffkd_ros.nodes.base.diagnostics import OK, WARN, Item
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.input.sweeps import Sweep
from diffkd_ros.nodes.link.feature_message import feature_message
from diffkd_ros.nodes.perception.node import PerceptionNode
from diffkd_ros.nodes.perception.parameters import EncodingParameters
from diffkd_ros.nodes.perception.pipeline import Pipeline
from diffkd_ros.runtime import codec, features


class VehicleNode(PerceptionNode[EncodingParameters]):
    """Encodes each sweep and shares the feature.

    Attributes:
        sent: features sent since the start of the node, the sequence number of the next one.
    """

    def __init__(self) -> None:
        super().__init__('vehicle_node', EncodingParameters, lambda: SharingPipeline(self))
        # Kept here to continue after a clean-up: receivers take a step back as a restart of the sender.
        self.sent = 0

    def close(self) -> None:
        """Stop, and log the number of features sent, which receivers cannot know."""
        super().close()
        self.log_last(f'{self.sent} features sent')


class SharingPipeline(Pipeline):
    """Publishes the feature of each sweep.

    Args:
        node: owner of the publisher and of the sequence number.
    """

    def __init__(self, node: VehicleNode) -> None:
        super().__init__(node, node.p)
        self._vehicle = node
        self._last_bytes = 0
        profile = qos.link(node.p.v2x_reliability, node.p.v2x_depth, node.p.v2x_lifespan)
        self._publisher = node.create_lifecycle_publisher(BevFeature, 'v2x/features', profile)
        self.summary = f'{node.agent} shares features of {self.card.model_id}'

    def process(self, sweep: Sweep, feature: features.BevFeature, pose: LidarPose, timer: StageTimer) -> None:
        """Publish the feature of a sweep."""
        vehicle = self._vehicle
        encoded = codec.encode(feature)
        timer.mark('codec')
        self._publisher.publish(
            feature_message(sweep.cloud.header, vehicle.agent, vehicle.sent, self.card, encoded, pose)
        )
        timer.mark('publish')
        self.finish(sweep, timer)
        vehicle.sent += 1
        self._last_bytes = len(encoded.data)

    def items(self) -> list[Item]:
        """The items of input, link, inference and model."""
        return [
            self.input_item('sweeps sent as features'),
            self._link_item(),
            *self.report.items(),
        ]

    def _link_item(self) -> Item:
        # Not of the parameter, which a quality-of-service override may replace.
        best_effort = self._publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        reliability = 'best_effort' if best_effort else 'reliable'
        receivers = {
            f'{info.node_namespace.rstrip("/")}/{info.node_name}': info.qos_profile.reliability
            for info in self.node.get_subscriptions_info_by_topic(self._publisher.topic_name)
        }
        problem = link_problem(reliability, receivers, self._last_bytes, qos.loses_large_best_effort())
        if problem:
            self.node.get_logger().warning(problem, throttle_duration_sec=30.0)
        values = {
            'features sent': self._vehicle.sent,
            'feature bytes': self._last_bytes,
            'receivers': len(receivers),
            'reliability': reliability,
        }
        return Item('link', WARN if problem else OK, problem or f'{len(receivers)} receivers', values)


def link_problem(reliability: str, receivers: Mapping[str, ReliabilityPolicy], size: int, lossy: bool) -> str:
    """Why a receiver gets no features; empty if no reason is known.

    Args:
        reliability: offered on the link.
        receivers: requested reliability by node.
        size: of the last feature, bytes.
        lossy: whether the middleware loses large best-effort messages.
    """
    best_effort = sorted(name for name, asked in receivers.items() if asked == ReliabilityPolicy.BEST_EFFORT)
    reliable = sorted(receivers.keys() - set(best_effort))
    if reliability == 'best_effort' and reliable:
        return f'the link is best effort, but {", ".join(reliable)} ask for reliable and get nothing'
    if best_effort and lossy and size > qos.MAX_BEST_EFFORT_BYTES:
        return (
            f'a feature of {size} bytes is larger than {qos.MAX_BEST_EFFORT_BYTES}: with the defaults of '
            f'Fast DDS best-effort receivers lose it without notice ({", ".join(best_effort)})'
        )
    return ''


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    entry.run(VehicleNode, args)


if __name__ == '__main__':
    main()
