# SPDX-License-Identifier: Apache-2.0
"""A ROS node that talks to the nodes under test over DDS, in a domain of each module: for conftests."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from patience import PATIENCE, attempts, scaled

pytest.importorskip('rclpy', reason='the nodes need ROS 2')

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from diffkd_ros.msg import BevChunk, BevFeature, Boxes3D, FusionStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile

from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.launching import graph
from diffkd_ros.launching.middleware import fast_dds_environment, free_domain
from diffkd_ros.launching.processes import NodeGroup, NodeProcess
from diffkd_ros.messages.building import cloud_message, header_message, odometry_message
from diffkd_ros.messages.names import MAP_FRAME, lidar_frame
from diffkd_ros.nodes.base import qos
from diffkd_ros.share import share_directory

SECOND = 1_000_000_000

# Long enough for a whole run: the executor takes one message per subscription and turn, so on a busy
# machine a topic with several senders overflows a short queue.
HISTORY = qos.link('reliable', 1000, 0.0)

# Read once, when the first participant of this process is created.
os.environ.update(fast_dds_environment(share_directory(), loopback=True))
_DOMAINS = itertools.count(os.getpid())


class Partner:
    """A ROS node in this process that feeds the nodes under test and collects what they publish."""

    def __init__(self, domain: int) -> None:
        self.domain = domain
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node('partner', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._condition = threading.Condition()
        self.received: dict[str, list] = defaultdict(list)
        self._publishers: dict[str, object] = {}
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        self._context.try_shutdown()

    def listen(self, message_class: type, topic: str, profile: QoSProfile = HISTORY) -> None:
        def store(message: object) -> None:
            with self._condition:
                self.received[topic].append(message)
                self._condition.notify_all()

        self.node.create_subscription(message_class, topic, store, profile)

    def publish(self, topic: str, message: object) -> None:
        publisher = self._publishers.get(topic)
        if publisher is None:
            publisher = self.node.create_publisher(type(message), topic, qos.FEATURES)
            self._publishers[topic] = publisher
            self.until(lambda: publisher.get_subscription_count() > 0, f'a subscriber of {topic}')
        publisher.publish(message)

    def until(self, condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> object:
        """Wait until the condition returns something true, and return that."""
        with self._condition:
            give_up = time.monotonic() + timeout
            while not (result := condition()):
                assert time.monotonic() < give_up, f'waited {timeout:g} s for {what}'
                self._condition.wait(0.05)
            return result

    def message_at(self, topic: str, stamp: int, timeout: float = PATIENCE) -> object:
        """The message with that stamp."""

        def find() -> object:
            wanted = (stamp // SECOND, stamp % SECOND)
            found = [
                m for m in self.received[topic] if (m.header.stamp.sec, m.header.stamp.nanosec) == wanted
            ]
            return found[-1] if found else None

        return self.until(find, f'{topic} at {stamp}', timeout)

    def diagnosis(self, name: str, text: str) -> DiagnosticStatus:
        """The first item published from now on whose name ends with `name` and whose message holds `text`."""
        seen = len(self.received['/diagnostics'])

        def find() -> object:
            for array in self.received['/diagnostics'][seen:]:
                for status in array.status:
                    if status.name.endswith(name) and text in status.message:
                        return status
            return None

        return self.until(find, f'diagnostics {name} saying {text!r}')

    def sweep(self, agent: str, stamp: int, sweep: AgentSweep, map_frame: str = MAP_FRAME) -> None:
        """Publish a vehicle's odometry and cloud."""
        frame_id = lidar_frame(agent)
        odometry = odometry_message(header_message(stamp, map_frame), frame_id, sweep.pose, sweep.velocity)
        self.publish(f'/{agent}/odometry', odometry)
        cloud = cloud_message(header_message(stamp, frame_id), sweep.points, sweep.ring, sweep.time)
        self.publish(f'/{agent}/points', cloud)

    def until_answered(
        self,
        answer: str,
        exchange: Callable[[int], None],
        accepted: Callable[[object], bool] = bool,
        start: int = 0,
    ) -> int:
        """Repeat an exchange, with stamps 0.1 s apart, until its answer is accepted.

        Messages sent before two nodes have discovered each other in both directions are lost.

        Returns:
            The stamp of the exchange that was answered.
        """
        for k, wait in enumerate(attempts(), 1):
            stamp = start + k * SECOND // 10
            exchange(stamp)
            try:
                if accepted(self.message_at(answer, stamp, timeout=wait)):
                    return stamp
            except AssertionError:
                continue
        raise AssertionError(f'no accepted {answer} in {k} exchanges')


def start_ego(
    group: NodeGroup,
    partner: Partner,
    sweep: AgentSweep,
    model: Path,
    share: Callable[[int], None],
    **parameters: object,
) -> NodeProcess:
    """Start the ego `cav_1` and exchange sweeps with it until it fuses what a neighbour shares.

    Args:
        group: to start it in.
        partner: sends it sweeps.
        sweep: of the ego.
        model: folder of the model.
        share: sends what a neighbour shares of a stamp.
        parameters: of the node.
    """
    (spec,) = graph.vehicle_specs([1], 1, {'model': str(model), 'threads': 1})
    process = group.start(replace(spec, parameters={**spec.parameters, **parameters}))
    group.wait_ready(PATIENCE)

    def exchange(stamp: int) -> None:
        share(stamp)
        partner.sweep('cav_1', stamp, sweep)

    def fused(status: FusionStatus) -> bool:
        return any(neighbour.accepted for neighbour in status.neighbours)

    partner.until_answered('/cav_1/fusion_status', exchange, fused)  # type: ignore[arg-type]
    return process


def until_fused(partner: Partner, scene: CoopFrame, start: int) -> int:
    """Send sweeps of vehicles 1 and 2 until ego `cav_1` fuses what `cav_2` sent of the same stamp.

    What this process has received of a vehicle may still be on its way to the ego.

    Args:
        partner: sends the sweeps.
        scene: theirs.
        start: the stamps follow it, nanoseconds.

    Returns:
        That stamp.
    """

    def exchange(stamp: int) -> None:
        partner.sweep('cav_2', stamp, scene.agents[2])
        with contextlib.suppress(AssertionError):
            partner.message_at('/v2x/features', stamp, timeout=scaled(1.0))
        partner.sweep('cav_1', stamp, scene.agents[1])

    def fused(status: FusionStatus) -> bool:
        return any(neighbour.accepted and neighbour.age == 0.0 for neighbour in status.neighbours)

    return partner.until_answered('/cav_1/fusion_status', exchange, fused, start)  # type: ignore[arg-type]


@pytest.fixture(scope='module')
def domain() -> int:
    """A DDS domain that no other test uses."""
    return free_domain(next(_DOMAINS))


@pytest.fixture(scope='module')
def partner(domain: int) -> Iterator[Partner]:
    partner = Partner(domain)
    for message_class, topic in (
        (BevFeature, '/v2x/features'),
        (Boxes3D, '/cav_1/detections'),
        (FusionStatus, '/cav_1/fusion_status'),
        (DiagnosticArray, '/diagnostics'),
    ):
        partner.listen(message_class, topic)
    partner.listen(BevChunk, '/v2x/chunks', qos.link('best_effort', 1000, 0.0))
    yield partner
    partner.close()


@pytest.fixture(scope='module')
def group(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeGroup]:
    """Starts nodes as processes, with the shipped parameter file."""
    logs = tmp_path_factory.mktemp('logs')
    environment = {'ROS_DOMAIN_ID': str(domain), 'ROS_LOG_DIR': str(logs / 'ros')}
    with NodeGroup([share_directory() / 'config' / 'coop.yaml'], logs, environment) as group:
        yield group
