# SPDX-License-Identifier: Apache-2.0
"""A node's health on `/diagnostics`, once a second: the few lines of `diagnostic_updater` needed here.

`diagnostic_updater` itself is not among the Python wheels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)


@dataclass(frozen=True)
class Item:
    """One line of a node's health: its name ('input', 'neighbour/cav_2', ...), level, summary and values."""

    name: str
    level: bytes
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


class DiagnosticsPublisher:
    """Asks the node for its items once a second and publishes them.

    Args:
        node: whose health it is.
        hardware_id: the agent's name.
        items: called in the executor's thread.
    """

    def __init__(self, node: Node, hardware_id: str, items: Callable[[], Iterable[Item]]) -> None:
        self._node = node
        self._hardware_id = hardware_id
        self._items = items
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # A steady clock: a node whose /clock stands still must still say so.
        self._timer = node.create_timer(1.0, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publish now."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        prefix = self._node.get_fully_qualified_name().lstrip('/')
        message.status = [
            DiagnosticStatus(
                level=item.level,
                name=f'{prefix}: {item.name}',
                message=item.message,
                hardware_id=self._hardware_id,
                values=[KeyValue(key=key, value=str(value)) for key, value in item.values.items()],
            )
            for item in self._items()
        ]
        self._publisher.publish(message)
