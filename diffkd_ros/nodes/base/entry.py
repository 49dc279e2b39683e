# SPDX-License-Identifier: Apache-2.0
"""What every node's `main` does: start, spin, and leave cleanly on Ctrl-C, SIGTERM or when done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from diffkd_ros.errors import DiffkdError
from diffkd_ros.nodes.base.parameters import ParameterError


class SetupError(DiffkdError):
    """A node cannot start with what it was given (model folder, data source, output path, ...)."""


class RunnableNode(Node):
    """What `run` asks of a node, whichever of rclpy's node classes it is.

    Attributes:
        done: set it, from any thread, to end the process: to a result if all is well, else to an exception.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.done: Future[None] = Future()

    def start(self) -> None:
        """Called once the node is built, before it spins.

        Raises:
            SetupError: if it cannot do its work with what it was given.
        """

    def close(self) -> None:
        """Stop threads and write what is to be written; called once, also after Ctrl-C.

        ROS may be shut down already: nothing can be published any more, and `log_last` must do the logging.
        """

    def log_last(self, text: str) -> None:
        """Log to the console only: /rosout is no longer there once Ctrl-C has shut ROS down."""
        # A logger of the node's name would still publish.
        rclpy.logging.get_logger('diffkd_ros').info(f'{self.get_name()}: {text}')


def run(make_node: Callable[[], RunnableNode], name: str, args: Sequence[str] | None = None) -> int:
    """Run one node until it is done or interrupted.

    Args:
        make_node: builds the node.
        name: the node's name, for the log line if it cannot be built.
        args: command line, `sys.argv` if None.

    Returns:
        The process's exit code: 0 when the node is done or was interrupted, 2 when it cannot start with what
        it was given, 1 when its work failed.
    """
    node: RunnableNode | None = None
    code = 0
    try:
        rclpy.init(args=None if args is None else list(args))
        try:
            node = make_node()
            node.start()
        except (ParameterError, SetupError) as error:
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
        # A callback that was at work when SIGTERM shut ROS down fails; that is part of being interrupted.
        if rclpy.ok():
            raise
    finally:
        # Ctrl-C reaches a node twice under `ros2 launch` (terminal and launcher): the second one must not
        # interrupt the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return code
