# SPDX-License-Identifier: Apache-2.0
"""Runs a node: start, spin, and a clean end on Ctrl-C, SIGTERM or when the node is done."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, ClassVar, NoReturn

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from rclpy.task import Future

from diffkd_ros.errors import NOT_STARTED, DiffkdError, missing_extra
from diffkd_ros.nodes.base import parameters, qos
from diffkd_ros.nodes.base.link_node import LinkFirstExecutor, LinkNode

# Seconds between two log lines about the progress of a node at the level INFO.
_PROGRESS_PERIOD = 30.0


class RunnableNode(Node):
    """Base of all nodes that `run` executes.

    Attributes:
        done: ends the process once it has a result or an exception; may be set from any thread.
        link: the node that has the topics of the V2X link: this one, unless `open_link` was called.
        current: the node of this process, to log an error of its constructor with its name.
    """

    current: ClassVar[RunnableNode | None] = None

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        RunnableNode.current = self
        self.done: Future[None] = Future()
        self.link: Node = self

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The node itself and, before it, that of the V2X link if that is another one."""
        return (self,) if self.link is self else (self.link, self)

    def open_link(self, domain: int) -> None:
        """Give the V2X link another DDS domain than the node's own, unless `domain` is negative.

        Raises:
            DiffkdError: see `LinkNode`.
        """
        if domain >= 0:
            self.link = LinkNode(self, domain)
            self.get_logger().info(f'the V2X link is in DDS domain {domain}')

    def start(self) -> None:
        """Called once after construction, before the node spins.

        Raises:
            DiffkdError: if the node cannot start.
        """

    def close(self) -> None:
        """Stop threads and write output files; called once, also after Ctrl-C.

        ROS may be shut down already: nothing can be published, and logging needs `log_last`.
        """

    def log_progress(self, text: str) -> None:
        """Log at DEBUG, and every 30 seconds at INFO."""
        if not self.get_logger().info(text, throttle_duration_sec=_PROGRESS_PERIOD):
            self.get_logger().debug(text)

    def log_last(self, text: str) -> None:
        """Log to the console only, because /rosout is not available after Ctrl-C has shut down ROS."""
        # The node's own logger would publish to /rosout.
        rclpy.logging.get_logger('diffkd_ros').info(f'{self.get_logger().name}: {text}')

    def create_publisher(
        self, msg_type: Any, topic: str, qos_profile: QoSProfile | int, **options: Any
    ) -> Publisher:
        """As of rclpy; the parameters `qos_overrides.TOPIC.publisher.*` override the profile."""
        options['qos_overriding_options'] = qos.overriding_options(self, 'publisher', topic)
        # A copy, because rclpy changes the profile.
        return super().create_publisher(msg_type, topic, copy(qos_profile), **options)

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[..., None],
        qos_profile: QoSProfile | int,
        **options: Any,
    ) -> Subscription:
        """As of rclpy; the parameters `qos_overrides.TOPIC.subscription.*` override the profile."""
        options['qos_overriding_options'] = qos.overriding_options(self, 'subscription', topic)
        return super().create_subscription(msg_type, topic, callback, copy(qos_profile), **options)

    def destroy_node(self) -> None:
        """Destroy the node and that of the V2X link."""
        if self.link is not self:
            self.link.destroy_node()
        super().destroy_node()

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As of rclpy, with the reason why a parameter cannot be changed."""
        refusal = parameters.refusal(self, [given.name for given in parameter_list])
        if refusal:
            return SetParametersResult(successful=False, reason=refusal)
        return super().set_parameters_atomically(parameter_list)


def run(make_node: Callable[[], RunnableNode], args: Sequence[str] | None = None) -> NoReturn:
    """Run one node until it is done or interrupted, and end the process.

    The exit code is 0 if the node is done or was interrupted, 1 if it failed, 2 if it could not start.

    Args:
        make_node: constructs the node.
        args: command line, `sys.argv` if None.
    """
    code = _run(make_node, args)
    # Not sys.exit: tearing down the interpreter takes half a second of CPU time, seconds on a busy machine.
    # ROS logs with C's streams.
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
    os._exit(code)


def _run(make_node: Callable[[], RunnableNode], args: Sequence[str] | None) -> int:
    node: RunnableNode | None = None
    code = 0
    spinning = False

    def interrupt(*_: object) -> None:
        # ROS ends the spinning itself, between two callbacks: an exception in one would lose its message.
        if not spinning:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # one is enough, see below
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        try:
            rclpy.init(args=None if args is None else list(args))
        except RuntimeError as error:
            # Without a folder for its logs, for example, or with an argument it does not know.
            print(f'ROS does not start: {error}', file=sys.stderr)
            return NOT_STARTED
        try:
            node = make_node()
            node.start()
            qos.warn_of_unused_overrides(node)
        except (DiffkdError, ModuleNotFoundError) as error:
            missing = missing_extra(error) if isinstance(error, ModuleNotFoundError) else error
            if missing is None:
                raise
            named = RunnableNode.current
            logger = rclpy.logging.get_logger('diffkd_ros') if named is None else named.get_logger()
            logger.fatal(str(missing))
            return NOT_STARTED
        executor = LinkFirstExecutor()
        for each in node.nodes:
            executor.add_node(each)
        spinning = True
        executor.spin_until_future_complete(node.done)
        # What fails in a thread while SIGTERM shuts down ROS is not an error.
        if rclpy.ok() and node.done.done() and node.done.exception() is not None:
            node.get_logger().fatal(str(node.done.exception()))
            code = 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        # Nor is what fails in a callback then.
        if rclpy.ok():
            raise
    finally:
        # Under `ros2 launch` a node gets SIGINT twice, from terminal and launcher, and SIGTERM if it takes
        # 5 seconds: neither may interrupt the clean-up.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            try:
                node.close()
            except DiffkdError as error:
                # A result that cannot be written. /rosout is not available any more.
                rclpy.logging.get_logger('diffkd_ros').fatal(str(error))
                code = 1
            node.destroy_node()
        rclpy.try_shutdown()
    return code
