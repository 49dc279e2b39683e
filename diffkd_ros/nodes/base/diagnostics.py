# SPDX-License-Identifier: Apache-2.0
"""Publishes a node's diagnostics once a second.

It replaces `diagnostic_updater`, which is not available as a Python wheel.
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
    """One diagnostic status: name ('input', 'neighbour/cav_2', ...), level, summary and values."""

    name: str
    level: bytes
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


class DiagnosticsPublisher:
    """Publishes a node's items on `/diagnostics` once a second.

    Args:
        node: owner of publisher and timer.
        hardware_id: the agent's name.
        items: returns the items; called in the executor's thread.
    """

    def __init__(self, node: Node, hardware_id: str, items: Callable[[], Iterable[Item]]) -> None:
        self._node = node
        self._hardware_id = hardware_id
        self._items = items
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # Steady time: diagnostics must also be published while /clock stands still.
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
