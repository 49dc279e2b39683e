# SPDX-License-Identifier: Apache-2.0
"""The topics a player publishes: each vehicle's sweep and odometry, ground truth, clock and TF."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator

from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from diffkd_ros.geometry.poses import PoseError
from diffkd_ros.messages.building import time_message, transform_message
from diffkd_ros.messages.poses import pose_of
from diffkd_ros.msg import Boxes3D
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.playing.feeder import PlayedFrame

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # the ROS 2 wheels do not include it
    TFMessage = None


class FramePublisher:
    """Publishes frames; an agent's topics are created at its first frame.

    Args:
        node: the node that publishes.
        subscribers: number of subscribers each cloud and odometry needs, see `missing`.
        truth_subscribers: the same for the ground truth.
        points: quality of service of the clouds.

    Attributes:
        poses_left_out: number of invalid odometry poses, not published to TF.
    """

    def __init__(self, node: Node, subscribers: int, truth_subscribers: int, points: QoSProfile) -> None:
        self._node, self._points = node, points
        self._subscribers, self._truth_subscribers = subscribers, truth_subscribers
        self.poses_left_out = 0
        self._clouds: dict[str, Publisher] = {}
        self._odometry: dict[str, Publisher] = {}
        self._clock = node.create_publisher(Clock, '/clock', qos.RESULTS)
        self._truth = node.create_publisher(Boxes3D, 'ground_truth', qos.RESULTS)
        self._tf = node.create_publisher(TFMessage, '/tf', qos.RESULTS) if TFMessage else None

    def add_agents(self, frame: PlayedFrame) -> bool:
        """Create the topics of new agents; returns whether there were any."""
        fresh = [agent for agent in frame.clouds if agent not in self._clouds]
        for agent in fresh:
            self._odometry[agent] = self._node.create_publisher(Odometry, f'/{agent}/odometry', qos.ODOMETRY)
            self._clouds[agent] = self._node.create_publisher(PointCloud2, f'/{agent}/points', self._points)
        return bool(fresh)

    def missing(self) -> list[str]:
        """The topics that lack subscribers, and how many they need."""
        wanted = dict.fromkeys([*self._clouds.values(), *self._odometry.values()], self._subscribers)
        wanted[self._truth] = self._truth_subscribers
        return [
            f'{count} subscribers of {publisher.topic_name}'
            for publisher, count in wanted.items()
            if publisher.get_subscription_count() < count
        ]

    def scene(self, frame: PlayedFrame, transforms: Iterable[TransformStamped] | None = None) -> None:
        """Publish clock, TF and ground truth; by default TF holds map -> LiDAR of each agent."""
        self._clock.publish(Clock(clock=time_message(frame.stamp)))
        self.transforms(self._lidar_transforms(frame) if transforms is None else transforms)
        self.truth(frame)

    def _lidar_transforms(self, frame: PlayedFrame) -> Iterator[TransformStamped]:
        for message in itertools.chain.from_iterable(frame.odometry.values()):
            try:
                pose = pose_of(message.pose.pose)
            except PoseError:
                # Localisation that has not converged sends a zero quaternion.
                self.poses_left_out += 1
                continue
            yield transform_message(message.header, message.child_frame_id, pose)

    def transforms(self, transforms: Iterable[TransformStamped]) -> None:
        """Publish to TF if its messages are installed."""
        if self._tf is not None:
            self._tf.publish(TFMessage(transforms=list(transforms)))

    def truth(self, frame: PlayedFrame) -> None:
        """Publish the ground truth if the frame has one."""
        if frame.ground_truth is not None:
            self._truth.publish(frame.ground_truth)

    def odometry(self, frame: PlayedFrame, agents: Iterable[str]) -> None:
        """Publish the odometry of some agents."""
        for agent in agents:
            for message in frame.odometry[agent]:
                self._odometry[agent].publish(message)

    def finish(self, timeout: float) -> None:
        """Wait until all reliable subscribers have what was published, at most `timeout` seconds.

        Large clouds may still be in retransmission, and end with their publisher.
        """
        give_up = time.monotonic() + timeout
        for publisher in (*self._clouds.values(), *self._odometry.values(), self._clock, self._truth):
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, give_up - time.monotonic())))

    def sweeps(self, frame: PlayedFrame, agents: Iterable[str]) -> None:
        """Publish odometry and clouds of some agents."""
        agents = list(agents)
        self.odometry(frame, agents)
        for agent in agents:
            self._clouds[agent].publish(frame.clouds[agent])
