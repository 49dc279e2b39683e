# SPDX-License-Identifier: Apache-2.0
"""The sending side of a connected vehicle: clouds and poses in, features on the V2X link out.

With a model that has a layered message they are sent as `BevChunk`s, else as `BevFeature`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from rclpy.qos import ReliabilityPolicy

from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.nodes.base import entry, qos
from diffkd_ros.nodes.base.diagnostics import OK, WARN, Item
from diffkd_ros.nodes.base.parameters import parameter
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.input.sweeps import Sweep
from diffkd_ros.nodes.output.sending import LayeredSending, MapSending, Sending
from diffkd_ros.nodes.perception.node import PerceptionNode
from diffkd_ros.nodes.perception.parameters import EncodingParameters
from diffkd_ros.nodes.perception.pipeline import Pipeline
from diffkd_ros.runtime import features
from diffkd_ros.runtime.link.packing import DEFAULT_BUDGET


@dataclass(frozen=True)
class VehicleParameters(EncodingParameters):
    """Parameters of `vehicle_node`."""

    bandwidth: float = parameter(
        DEFAULT_BUDGET / 1e3,
        'Most kilobytes of a layered message, with the other fields of its chunks: 4 kB at 10 Hz are '
        '0.32 Mbit/s. Whole maps are not limited.',
        minimum=0.3,
        maximum=300.0,
        live=True,
    )
    signing_key: str = parameter(
        '', 'Private key of OpenSSH (Ed25519) that signs what is sent; empty: nothing is signed.'
    )


class VehicleNode(PerceptionNode[VehicleParameters]):
    """Encodes each sweep and shares the feature.

    Attributes:
        sent: sweeps sent since the start of the node, the sequence number of the next one.
    """

    def __init__(self) -> None:
        super().__init__('vehicle_node', VehicleParameters, lambda: SharingPipeline(self))
        # Kept here to continue after a clean-up: receivers take a step back as a restart of the sender.
        self.sent = 0

    def close(self) -> None:
        """Stop, and log the number of sweeps sent, which receivers cannot know."""
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
        p = node.p
        link = p.v2x_reliability, p.v2x_depth, p.v2x_lifespan
        common = node.create_link_publisher, node.agent, self.card, link, p.signing_key
        self._layered = LayeredSending(*common, p.threads, p.device) if self.card.link else None
        self._sending: Sending = self._layered or MapSending(*common)
        form = 'in layers' if self._layered else 'as whole maps'
        self.summary = f'{node.agent} shares features of {self.card.model_id} {form}'
        self._too_narrow = ''

    def process(self, sweep: Sweep, feature: features.BevFeature, pose: LidarPose, timer: StageTimer) -> str:
        """Publish the feature of a sweep.

        It is refused if the bandwidth is too low for any of it, or if it shows things where they are not.
        """
        if self.monitor.misleading:
            error = DiffkdError(f'own sensors: {"; ".join(self.monitor.described())}')
            return self.input.refuse('sensor', error).reason
        vehicle = self._vehicle
        if self._layered is not None:
            self._layered.budget = round(1e3 * vehicle.p.bandwidth)
        sent = self._sending.send(sweep.cloud.header, vehicle.sent, feature, pose, timer)
        self.finish(sweep, timer)
        vehicle.sent += sent
        self._too_narrow = '' if sent else f'no chunk fits into a bandwidth of {vehicle.p.bandwidth:g} kB'
        return '' if sent else 'bandwidth'

    def items(self) -> list[Item]:
        """The items of input, link, inference and model."""
        return [
            self.input_item('sweeps sent as features'),
            self._link_item(),
            *self.report.items(),
        ]

    def _link_item(self) -> Item:
        # Not of the parameter, which a quality-of-service override may replace.
        publisher = self._sending.publisher
        best_effort = publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        reliability = 'best_effort' if best_effort else 'reliable'
        receivers = {
            f'{info.node_namespace.rstrip("/")}/{info.node_name}': info.qos_profile.reliability
            for info in self._vehicle.link.get_subscriptions_info_by_topic(publisher.topic_name)
        }
        problem = self._too_narrow or link_problem(
            reliability, receivers, self._sending.largest, qos.loses_large_best_effort()
        )
        if problem:
            self.node.get_logger().warning(problem, throttle_duration_sec=30.0)
        values = {
            'features sent': self._vehicle.sent,
            **self._sending.values(),
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
