# SPDX-License-Identifier: Apache-2.0
"""One frame through the nodes: every vehicle's sweep out, and if so asked what comes of it awaited."""

from __future__ import annotations

import time
from collections.abc import Sequence

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node

from diffkd_ros.messages.reading import stamp_of
from diffkd_ros.msg import BevFeature, FusionStatus
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.playing.arrivals import Arrivals
from diffkd_ros.nodes.playing.feeder import PlayedFrame
from diffkd_ros.nodes.playing.publisher import FramePublisher

# Nodes that start beside us need this long at most, else they are not there.
_PARTNER_TIMEOUT = 30.0


class LockStep:
    """Publishes frames and waits for what comes back of each; for a thread beside the executor's.

    Args:
        node: the node that publishes.
        ego: name of the agent that fuses.
        agents: names of all agents.
        timeout: longest wait for features, and for the answer, seconds.
        waits: whether they are waited for; else frames are only published.
        truth_subscribers: how many the ground truth is to have before the first frame.

    Attributes:
        waits: see above.
        sent: frames published.
        answered: of these, how many the ego answered in time.
        features_missing: neighbours' features that did not come in time.
    """

    def __init__(
        self,
        node: Node,
        ego: str,
        agents: Sequence[str],
        timeout: float,
        *,
        waits: bool,
        truth_subscribers: int = 0,
    ) -> None:
        self._node = node
        self._ego, self._agents, self._timeout = ego, list(agents), timeout
        self.waits = waits
        self._arrivals = Arrivals()
        points = qos.POINTS_IN_LOCKSTEP if waits else qos.POINTS
        self._output = FramePublisher(node, 1, truth_subscribers, points)
        self._features = node.create_subscription(
            BevFeature,
            'v2x/features',
            lambda message: self._arrivals.feature(message.agent_id, stamp_of(message.header)),
            qos.FEATURES,
        )
        self._answers = node.create_subscription(
            FusionStatus,
            f'/{ego}/fusion_status',
            lambda message: self._arrivals.answer(stamp_of(message.header), message.latency_ms),
            qos.RESULTS,
        )
        self._last = -1
        self.sent = 0
        self.answered = 0
        self.features_missing = 0

    def wait_for_partners(self, frame: PlayedFrame) -> list[str]:
        """Wait for the nodes that take the sweeps, as long as that may take.

        Args:
            frame: one with all agents.

        Returns:
            What is still missing.
        """
        self._output.add_agents(frame)
        give_up = time.monotonic() + _PARTNER_TIMEOUT
        while (missing := self._missing()) and time.monotonic() < give_up:
            if not self.sleep(0.05):
                break
        return missing

    def _missing(self) -> list[str]:
        sources = ((self._features.topic_name, len(self._agents) - 1), (self._answers.topic_name, 1))
        return self._output.missing() + [
            f'{count} publishers of {topic}'
            for topic, count in sources
            if self._node.count_publishers(topic) < count
        ]

    def publish(self, frame: PlayedFrame, transforms: Sequence[TransformStamped]) -> bool:
        """Publish a frame: the scene, the neighbours' sweeps, and once their features are there the ego's.

        Args:
            frame: the frame.
            transforms: for TF.

        Returns:
            Whether the ego has answered; False if that is not waited for.
        """
        self._begin(frame)
        self._output.add_agents(frame)
        self._output.clock(frame)
        self._output.transforms(transforms)
        self._output.truth(frame)
        neighbours = [agent for agent in frame.clouds if agent != frame.ego]
        self._output.sweeps(frame, neighbours)
        if self.waits:
            missing = self._arrivals.wait_features(dict.fromkeys(neighbours, frame.stamp), self._timeout)
            self.features_missing += len(missing)
        self._output.sweeps(frame, [frame.ego])
        return self._answered(frame)

    def _answered(self, frame: PlayedFrame) -> bool:
        self.sent += 1
        answered = self.waits and bool(self._arrivals.wait_answers([frame.stamp], self._timeout))
        self.answered += answered
        return answered

    def _begin(self, frame: PlayedFrame) -> None:
        if frame.stamp <= self._last:
            # The world has begun anew: what came for a stamp of the old one is no answer to the new one's.
            self._arrivals = Arrivals()
        self._last = frame.stamp

    def publish_poses(self, frame: PlayedFrame, transforms: Sequence[TransformStamped]) -> bool:
        """Publish what CARLA itself does not: odometry, TF and ground truth; returns as `publish`."""
        self._begin(frame)
        self._output.add_agents(frame)
        self._output.transforms(transforms)
        self._output.odometry(frame, frame.odometry)
        self._output.truth(frame)
        return self._answered(frame)

    def sleep(self, seconds: float) -> bool:
        """Sleep; False if stopped meanwhile."""
        return self._arrivals.sleep_until(time.monotonic() + seconds)

    def stop(self) -> None:
        """Make every wait return at once."""
        self._arrivals.stop()
