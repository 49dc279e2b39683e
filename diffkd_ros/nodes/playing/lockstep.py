# SPDX-License-Identifier: Apache-2.0
"""Publishes frames and, in lock-step, waits for the features and the answer to each one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.subscription import Subscription

from diffkd_ros.messages.names import CHUNKS_TOPIC, FEATURES_TOPIC
from diffkd_ros.messages.reading import stamp_of
from diffkd_ros.msg import BevChunk, BevFeature, FusionStatus
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.base.subscription import subscribe_to_all
from diffkd_ros.nodes.playing.arrivals import Arrivals
from diffkd_ros.nodes.playing.feeder import PlayedFrame
from diffkd_ros.nodes.playing.publisher import FramePublisher

# Longest start of the partner nodes, seconds; those missing then are assumed not to run.
_PARTNER_TIMEOUT = 30.0


class LockStep:
    """Publishes frames from a thread other than the executor's.

    Args:
        node: the node that publishes.
        timeout: longest wait for features, and for the answer, seconds.
        waits: wait for features and answers; otherwise frames are only published.
        link: the node that has the topics of the V2X link; None: the same.
        ego: name of the ego, to subscribe to its answers at once; by default at its first frame.
        subscribers: number of subscribers `connect` waits for on each cloud and odometry; 0: do not wait.
        truth_subscribers: the same for the ground truth.
        answer_subscribers: the same for the ego's detections.

    Attributes:
        waits: see above.
        output: the publisher of the frames.
        sent: frames published.
        answered: frames the ego answered in time.
        features_missing: neighbours' features that did not arrive in time, or not all chunks of which.
        left_out: sum of the `left_out` of the frames published.
    """

    def __init__(
        self,
        node: Node,
        timeout: float,
        *,
        waits: bool,
        link: Node | None = None,
        ego: str | None = None,
        subscribers: int = 1,
        truth_subscribers: int = 0,
        answer_subscribers: int = 0,
    ) -> None:
        self._node, self._timeout = node, timeout
        self._link_node = node if link is None else link
        self._subscribers, self._answer_subscribers = subscribers, answer_subscribers
        self.waits = waits
        self._arrivals = Arrivals()
        points = qos.POINTS_IN_LOCKSTEP if waits else qos.POINTS
        self.output = FramePublisher(node, subscribers, truth_subscribers, points)
        # Each neighbour publishes on one of the two topics.
        self._link = (
            subscribe_to_all(
                self._link_node,
                BevFeature,
                FEATURES_TOPIC,
                lambda message: self._arrivals.feature(message.agent_id, stamp_of(message.header)),
                qos.FEATURES,
            ),
            subscribe_to_all(
                self._link_node,
                BevChunk,
                CHUNKS_TOPIC,
                lambda message: self._arrivals.chunk(
                    message.agent_id, stamp_of(message.header), message.chunk, message.chunks
                ),
                qos.CHUNKS,
            ),
        )
        self._answers: dict[str, Subscription] = {}
        if ego is not None:
            self._listen_to(ego)
        self._last = -1
        self.sent = 0
        self.answered = 0
        self.features_missing = 0
        self.left_out: Counter[str] = Counter()

    def _listen_to(self, ego: str) -> None:
        if ego not in self._answers:
            self._answers[ego] = self._node.create_subscription(
                FusionStatus,
                f'/{ego}/fusion_status',
                lambda message: self._arrivals.answer(stamp_of(message.header), message.latency_ms),
                qos.RESULTS,
            )

    def connect(self, frame: PlayedFrame) -> None:
        """Create the topics of a frame's new agents and wait for the nodes at their other ends.

        Logs a warning with the topics whose partners are still missing after 30 seconds.
        """
        self._listen_to(frame.ego)
        if not self.output.add_agents(frame) or not self._subscribers:
            return
        give_up = time.monotonic() + _PARTNER_TIMEOUT
        while missing := self._missing(frame):
            if time.monotonic() > give_up:
                self._node.get_logger().warning(f'still missing, going on: {", ".join(missing)}')
                return
            if not self.sleep(0.05):
                return

    def _missing(self, frame: PlayedFrame) -> list[str]:
        """The topics that lack publishers or subscribers, and how many they need."""
        sources = (
            (self._link_node, self._link, len(frame.clouds) - 1),
            (self._node, (self._answers[frame.ego],), 1),
        )
        missing = self.output.missing()
        for node, subscriptions, count in sources:
            topics = [subscription.topic_name for subscription in subscriptions]
            if sum(map(node.count_publishers, topics)) < count:
                missing.append(f'{count} publishers of {" or ".join(topics)}')
        detections, wanted = f'/{frame.ego}/detections', self._answer_subscribers
        if self._node.count_subscribers(detections) < wanted:
            missing.append(f'{wanted} subscribers of {detections}')
        return missing

    def publish(
        self, frame: PlayedFrame, transforms: Iterable[TransformStamped] | None = None
    ) -> float | None:
        """Publish clock, TF, ground truth and the neighbours' sweeps, then the ego's.

        In lock-step it waits for the neighbours' features in between, and then for the ego's answer.

        Args:
            frame: the frame.
            transforms: for TF; by default map -> LiDAR of each agent.

        Returns:
            The ego's total latency in milliseconds; None if it did not answer in time or is not waited for.
        """
        self._begin(frame)
        self.output.scene(frame, transforms)
        neighbours = {agent: stamp for agent, stamp in frame.stamps.items() if agent != frame.ego}
        self.output.sweeps(frame, neighbours)
        if self.waits:
            self.features_missing += len(self._arrivals.wait_features(neighbours, self._timeout))
        self.output.sweeps(frame, [frame.ego])
        return self._answer(frame)

    def publish_poses(self, frame: PlayedFrame, transforms: Iterable[TransformStamped]) -> float | None:
        """Publish what CARLA does not publish itself: TF, odometry and ground truth; returns as `publish`."""
        self._begin(frame)
        self.output.transforms(transforms)
        self.output.odometry(frame, frame.odometry)
        self.output.truth(frame)
        return self._answer(frame)

    def _begin(self, frame: PlayedFrame) -> None:
        if frame.stamp <= self._last:
            # Time has jumped back: arrivals from before do not belong to the new frames of the same stamps.
            self._arrivals.clear()
        self._last = frame.stamp
        self._listen_to(frame.ego)
        self.output.add_agents(frame)

    def _answer(self, frame: PlayedFrame) -> float | None:
        self.sent += 1
        self.left_out.update(frame.left_out)
        latencies = self._arrivals.wait_answers([frame.stamp], self._timeout) if self.waits else []
        self.answered += len(latencies)
        return latencies[0] if latencies else None

    def wait_answers(self, stamps: Iterable[int], timeout: float) -> list[float]:
        """Wait for the answers to frames already published; returns the latencies (ms) of those in time."""
        return self._arrivals.wait_answers(stamps, timeout)

    def sleep(self, seconds: float) -> bool:
        """Sleep; returns False if stopped."""
        return self._arrivals.sleep(seconds)

    def stop(self) -> None:
        """Make every wait return at once, now and later."""
        self._arrivals.stop()
