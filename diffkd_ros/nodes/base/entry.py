# SPDX-License-Identifier: Apache-2.0
"""Runs a node: start, spin, and a clean end on Ctrl-C, SIGTERM or when the node is done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from diffkd_ros.errors import DiffkdError


class SetupError(DiffkdError):
    """A node cannot start: an input that it needs is missing or invalid."""


class RunnableNode(Node):
    """Base of all nodes that `run` executes.

    Attributes:
        done: ends the process once it has a result or an exception; may be set from any thread.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.done: Future[None] = Future()

    def start(self) -> None:
        """Called once after construction, before the node spins.

        Raises:
            SetupError: if the node cannot start.
        """

    def close(self) -> None:
        """Stop threads and write output files; called once, also after Ctrl-C.

        ROS may be shut down already: nothing can be published, and logging needs `log_last`.
        """

    def log_last(self, text: str) -> None:
        """Log to the console only, because /rosout is not available after Ctrl-C has shut down ROS."""
        # The node's own logger would publish to /rosout.
        rclpy.logging.get_logger('diffkd_ros').info(f'{self.get_name()}: {text}')


def run(make_node: Callable[[], RunnableNode], name: str, args: Sequence[str] | None = None) -> int:
    """Run one node until it is done or interrupted.

    Args:
        make_node: constructs the node.
        name: of the node, to log an error of the construction.
        args: command line, `sys.argv` if None.

    Returns:
        Exit code: 0 if the node is done or was interrupted, 1 if it failed, 2 if it could not start.
    """
    node: RunnableNode | None = None
    code = 0
    try:
        rclpy.init(args=None if args is None else list(args))
        try:
            node = make_node()
            node.start()
        except DiffkdError as error:
            rclpy.logging.get_logger(name).fatal(str(error))
            return 2
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin_until_future_complete(node.done)
        if node.done.done() and node.done.exception() is not None:
            node.get_logger().fatal(str(node.done.exception()))
            code = 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        # A callback that runs while SIGTERM shuts down ROS may fail; that is not an error.
        if rclpy.ok():
            raise
    finally:
        # Under `ros2 launch` a node gets SIGINT twice, from terminal and launcher: the second one must not
        # interrupt the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return code
