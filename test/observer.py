# SPDX-License-Identifier: Apache-2.0
"""Observes an ego, cav_1, from outside over a long run: its answers, diagnostics, memory, and its books."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from diffkd_ros.msg import FusionStatus
from rclpy.executors import SingleThreadedExecutor

from diffkd_ros.launching.processes import NodeProcess
from diffkd_ros.messages.reading import stamp_of
from diffkd_ros.nodes.base import qos

# Long enough for a pause of this process on a busy machine.
_HISTORY = qos.link('reliable', 1000, 0.0)


@dataclass(frozen=True)
class Event:
    """A sweep that was published, or answered.

    Attributes:
        at: monotonic seconds.
        stamp: of the sweep, nanoseconds.
    """

    at: float
    stamp: int


class Observer:
    """A node that receives the ego's messages.

    Attributes:
        answers: the sweeps that the ego answered.
        status: its latest answer.
        reports: number of its diagnostics.
        diagnostics: values of their items, by name without the agent.
        messages: likewise, the messages.
        warned: number of reports in which an item was not OK.
    """

    def __init__(self, domain: int) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node('observer', context=self._context)
        self.answers: list[Event] = []
        self.status: FusionStatus | None = None
        self.reports = 0
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.messages: dict[str, str] = {}
        self.warned: Counter[str] = Counter()
        self.node.create_subscription(FusionStatus, '/cav_1/fusion_status', self._answer, _HISTORY)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._health, _HISTORY)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)

    def start(self) -> None:
        """Start to receive."""
        self._thread.start()

    def _answer(self, message: FusionStatus) -> None:
        self.answers.append(Event(time.monotonic(), stamp_of(message.header)))
        self.status = message

    def _health(self, message: DiagnosticArray) -> None:
        own = [status for status in message.status if status.name.startswith('cav_1/')]
        for status in own:
            name = status.name.partition(': ')[2]
            self.diagnostics[name] = {v.key: v.value for v in status.values}
            self.messages[name] = status.message
            if status.level != b'\x00':
                self.warned[name] += 1
        self.reports += bool(own)

    def close(self) -> None:
        """Stop to receive."""
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        self._context.try_shutdown()


@dataclass(frozen=True)
class Memory:
    """Memory of a process at one time.

    Attributes:
        seconds: since the start of the run.
        own: anonymous memory, MB; a leak makes it grow.
    """

    seconds: float
    own: float


def memory_of(process: NodeProcess, seconds: float) -> Memory | None:
    """The present memory of a process; None if it has ended."""
    try:
        status = Path(f'/proc/{process.pid}/status').read_text()
    except OSError:
        return None
    found = re.search(r'RssAnon:\s+(\d+)', status)
    return None if found is None else Memory(seconds, int(found[1]) / 1e3)


_OUTCOMES = ('fused', 'overwritten', 'refused', 'failed', 'pending')


def sweeps_of(inputs: Mapping[str, str]) -> dict[str, int]:
    """The counts of the ego's sweeps, from the values of its item `input`."""
    return {
        'missing': int(inputs['sweeps missing by their stamps']),
        'pauses': int(inputs['pauses of more than 1 s']),
        'received': int(inputs['sweeps received']),
        'fused': int(inputs['sweeps fused']),
        'overwritten': int(inputs['sweeps overwritten']),
        'refused': sum(int(v) for k, v in inputs.items() if k.startswith('sweeps refused')),
        'failed': int(inputs['sweeps failed']),
        'pending': int(inputs['sweeps pending']),
    }


def unbalanced(sweeps: Mapping[str, int], link: Mapping[str, int]) -> list[str]:
    """The books that do not balance.

    Args:
        sweeps: as of `sweeps_of`.
        link: the values of the ego's item `neighbours`.
    """
    found = []
    settled = link['fused'] + link['refused'] + link['overwritten'] + link['waiting']
    if link['received'] != settled:
        found.append(f'{link["received"]} features received, {settled} accounted for')
    done = sum(sweeps[outcome] for outcome in _OUTCOMES)
    if sweeps['received'] != done:
        found.append(f'{sweeps["received"]} sweeps received, {done} accounted for')
    return found
