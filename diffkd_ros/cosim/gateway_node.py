# SPDX-License-Identifier: Apache-2.0
"""Publishes OpenCDA's vehicles as ROS topics and returns the ego's detections to OpenCDA.

Each step's sweeps arrive over TCP from `opencda/diffkd_opencda`, which runs in OpenCDA's own Python
environment. OpenCDA ticks the world and waits for the detections.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from diffkd_ros.cosim.opencda.diffkd_opencda import (
    POINT_BYTES,
    PROTOCOL,
    GatewayError,
    receive_message,
    send_message,
)
from diffkd_ros.cosim.opencda.steps import StepError, read_step, rows_in_carla
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import Boxes3D, CoopFrame, FrameError
from diffkd_ros.messages.names import agent_name
from diffkd_ros.messages.reading import MessageError, boxes_of, stamp_of
from diffkd_ros.msg import Boxes3D as Boxes3DMessage
from diffkd_ros.nodes.base import diagnostics, entry, qos
from diffkd_ros.nodes.base.link_node import LinkParameters
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.nodes.playing.feeder import played
from diffkd_ros.nodes.playing.lockstep import LockStep

# Longest time for a whole message, and between messages if another client waits, seconds. Without another
# client there is no limit between messages, because a simulator may be paused.
_SILENT = 2.0
# Points of a LiDAR with 128 channels and 4096 columns.
_LARGEST_SWEEP = 128 * 4096
# A step may include agents without nodes.
_AGENTS = 8
_LARGEST_HEAD = 1 << 20


@dataclass(frozen=True)
class GatewayParameters(LinkParameters):
    """Parameters of `gateway_node`."""

    host: str = parameter('127.0.0.1', 'Address to listen on; clients are not authenticated.')
    port: int = parameter(7410, 'Port to listen on; 0: any free port, see the log.', minimum=0, maximum=65535)
    vehicles: tuple[int, ...] = parameter(
        (1, 2, 3),
        'Agents with nodes: vehicles 1, 2, ... in the order OpenCDA creates them, units -1, -2, ...',
    )
    ego: int = parameter(1, 'The vehicle that fuses.')
    ego_timeout: float = parameter(
        1.5, 'Longest wait for features, and then for the answer, s.', minimum=0.05
    )


class GatewayNode(entry.RunnableNode):
    """Serves one OpenCDA process at a time, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__('gateway_node')
        self._p = p = declare(self, GatewayParameters)
        self.open_link(p.v2x_domain)
        if p.ego not in p.vehicles:
            raise DiffkdError(f'the ego, {p.ego}, is not among the vehicles {list(p.vehicles)}')
        self._ego = agent_name(p.ego)
        self._largest_step = _LARGEST_HEAD + max(_AGENTS, len(p.vehicles)) * _LARGEST_SWEEP * POINT_BYTES
        self._lockstep = LockStep(self, p.ego_timeout, waits=True, link=self.link, ego=self._ego)
        self._detections: dict[int, Boxes3D] = {}
        self._condition = threading.Condition()
        self.create_subscription(Boxes3DMessage, f'/{self._ego}/detections', self._on_detections, qos.RESULTS)
        self._problem = ''
        self._refused = 0
        self._stopping = False
        self._connection: socket.socket | None = None
        try:
            self._listener = socket.create_server((p.host, p.port))
        except OSError as error:
            raise DiffkdError(f'cannot listen on {p.host}:{p.port}: {error}') from error
        self._address = f'{p.host}:{self._listener.getsockname()[1]}'
        self._diagnostics = diagnostics.DiagnosticsPublisher(self, f'OpenCDA {self._address}', self._items)
        self._thread = threading.Thread(target=self._run, name='opencda', daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Say that the node is ready, once an interruption closes it."""
        self.get_logger().info(f'ready: waiting for OpenCDA at {self._address}')

    def _on_detections(self, message: Boxes3DMessage) -> None:
        try:
            boxes = boxes_of(message)
        except (MessageError, FrameError) as error:
            self.get_logger().warning(f'detections refused: {error}', throttle_duration_sec=5.0)
            return
        with self._condition:
            self._detections[stamp_of(message.header)] = boxes
            while len(self._detections) > 20:
                del self._detections[next(iter(self._detections))]
            self._condition.notify_all()

    def _run(self) -> None:
        while not self._stopping:
            try:
                connection, peer = self._listener.accept()
            except OSError as error:
                if not self._stopping:  # otherwise it is closed
                    self.get_logger().warning(f'no connection: {error}', throttle_duration_sec=5.0)
                    self._lockstep.sleep(0.1)
                continue
            self._connection = connection
            self.get_logger().info(f'OpenCDA connected from {peer[0]}:{peer[1]}')
            try:
                with connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while not self._stopping:
                        self._wait_for_step(connection)
                        self._step(connection)
            except (OSError, GatewayError) as error:
                if not self._stopping:
                    self.get_logger().info(f'OpenCDA disconnected: {error or type(error).__name__}')
            except Exception as error:  # no message of a client may end the gateway
                if not self._stopping and self.context.ok():
                    self._refused += 1
                    self._problem = f'disconnected after a step failed: {type(error).__name__}: {error}'
                    self.get_logger().error(self._problem)
            finally:
                self._connection = None

    def _wait_for_step(self, connection: socket.socket) -> None:
        """Wait for the client to send something.

        Raises:
            GatewayError: if it sends nothing and another client waits.
        """
        if select.select([connection], [], [], _SILENT)[0]:
            return
        if connection not in select.select([connection, self._listener], [], [])[0]:
            raise GatewayError('it sent nothing while another client waits')

    def _step(self, connection: socket.socket) -> None:
        """Receive one step and send the answer."""
        head, data = receive_message(connection, self._largest_step, _SILENT)
        connection.settimeout(_SILENT)
        try:
            step = read_step(head, data, self._p.vehicles, self._p.ego)
        except StepError as error:
            self._refused += 1
            self._refuse(connection, str(error))
            return
        frame = step.frame
        boxes = self._fused(frame)
        if boxes is None:
            # Not an empty list, which would mean that nothing is there.
            self._refuse(connection, f'{self._ego} did not answer within {self._p.ego_timeout:g} s')
            return
        self._problem = ''
        rows = rows_in_carla(boxes, frame.agents[frame.ego].pose, step.ego_body)
        answer = {'protocol': PROTOCOL, 'frame': frame.index, 'ego': frame.ego, 'detections': len(rows)}
        send_message(connection, answer, [rows])

    def _refuse(self, connection: socket.socket, problem: str) -> None:
        self._problem = problem
        self.get_logger().warning(problem, throttle_duration_sec=5.0)
        send_message(connection, {'protocol': PROTOCOL, 'error': problem})

    def _fused(self, frame: CoopFrame) -> Boxes3D | None:
        """The ego's detections for a frame; None if it does not answer."""
        message = played(frame)
        with self._condition:
            # Late answers to earlier steps, which may have the stamps of this scenario.
            self._detections.clear()
        self._lockstep.connect(message)
        answered = self._lockstep.publish(message) is not None
        with self._condition:
            # The ego publishes its detections before its status, so they arrive soon.
            self._condition.wait_for(lambda: frame.stamp in self._detections, 0.5 if answered else 0.0)
            return self._detections.pop(frame.stamp, None)

    def _items(self) -> list[diagnostics.Item]:
        lockstep = self._lockstep
        values = {
            'steps': lockstep.sent,
            'unanswered': lockstep.sent - lockstep.answered,
            'features missing': lockstep.features_missing,
            'refused': self._refused,
        }
        if self._problem:
            return [diagnostics.Item('opencda', diagnostics.WARN, self._problem, values)]
        text = 'connected' if self._connection is not None else f'waiting for OpenCDA at {self._address}'
        return [diagnostics.Item('opencda', diagnostics.OK, text, values)]

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._stopping = True
        self._lockstep.stop()
        # shutdown wakes a thread that waits in accept or recv; close alone does not.
        for end in (self._listener, self._connection):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._thread.join(2.0)
        self.log_last(f'{self._lockstep.sent} steps, {self._lockstep.answered} answered')


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    entry.run(GatewayNode, args)


if __name__ == '__main__':
    main()
