# SPDX-License-Identifier: Apache-2.0
"""Publishes the clouds and odometry of a drive again and again, forwards and backwards.

Reads orders from its standard input, a line each: `offset SECONDS` shifts the stamps of the ego, `frozen 1`
repeats the ego's cloud until `frozen 0`, `end` ends it. Before it publishes a sweep of the ego it prints the
monotonic time and the stamp, in nanoseconds.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import rclpy
from nav_msgs.msg import Odometry
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import PointCloud2

from diffkd_ros.frame import CoopFrame
from diffkd_ros.launching.graph import sensor_topics
from diffkd_ros.messages.building import cloud_message, header_message, odometry_message
from diffkd_ros.messages.names import MAP_FRAME, agent_name, lidar_frame
from diffkd_ros.nodes.base import qos

SECOND = 1_000_000_000


class Orders:
    """What the sender was ordered to do.

    Attributes:
        offset: seconds added to the ego's stamps.
        frozen: whether the ego's cloud is repeated.
        end: whether to end.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self.frozen = self.end = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            order, _, value = line.strip().partition(' ')
            if order == 'offset':
                self.offset = float(value)
            elif order == 'frozen':
                self.frozen = value == '1'
            elif order == 'end':
                self.end = True


def there_and_back(frames: list[CoopFrame]) -> list[CoopFrame]:
    """The frames, then those between in reverse order: no vehicle jumps when they are repeated."""
    back = []
    for frame in frames[-2:0:-1]:
        agents = {
            agent: replace(sweep, velocity=None if sweep.velocity is None else -sweep.velocity)
            for agent, sweep in frame.agents.items()
        }
        back.append(replace(frame, agents=agents))
    return frames + back


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--frames', type=Path, required=True, help='pickled frames')
    parser.add_argument('--domain', type=int, required=True)
    parser.add_argument('--rate', type=float, required=True, help='sweeps per second')
    options = parser.parse_args()
    drive = there_and_back(pickle.loads(options.frames.read_bytes()))
    ego = drive[0].ego
    rclpy.init(domain_id=options.domain, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('sweep_sender')
    publishers = {}
    for agent in drive[0].agents:
        points, odometry = sensor_topics(agent)
        # Every sweep must arrive, so that each one is accounted for.
        clouds = node.create_publisher(PointCloud2, points, qos.POINTS_IN_LOCKSTEP)
        publishers[agent] = (clouds, node.create_publisher(Odometry, odometry, qos.ODOMETRY))
    orders = Orders()
    while not orders.end and not all(each.get_subscription_count() for each in publishers[ego]):
        time.sleep(0.05)
    # The ego knows the publishers a little later than they know it.
    time.sleep(0.5)
    seen = drive[0].agents[ego]
    due, wall = time.monotonic(), time.time_ns()
    for number in itertools.count():
        if orders.end:
            return
        time.sleep(max(0.0, due - time.monotonic()))
        frame = drive[number % len(drive)]
        if not orders.frozen:
            seen = frame.agents[ego]
        for agent, sweep in frame.agents.items():
            stamp = wall + round(number / options.rate * SECOND)
            if agent == ego:
                stamp += round(orders.offset * SECOND)
            clouds, poses = publishers[agent]
            lidar = lidar_frame(agent_name(agent))
            poses.publish(
                odometry_message(header_message(stamp, MAP_FRAME), lidar, sweep.pose, sweep.velocity)
            )
            points = seen if agent == ego else sweep
            cloud = cloud_message(header_message(stamp, lidar), points.points, points.ring, points.time)
            if agent == ego:
                print(time.monotonic_ns(), stamp, flush=True)
            clouds.publish(cloud)
        due += 1 / options.rate


if __name__ == '__main__':
    main()
