# SPDX-License-Identifier: Apache-2.0
"""Scores a running system: detections against ground truth, latency, and load of the V2X link."""

from __future__ import annotations

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from diffkd_ros import frame
from diffkd_ros.geometry.boxes import within, without_own
from diffkd_ros.messages.names import (
    AGENT_PATTERN,
    CHUNKS_TOPIC,
    FEATURES_TOPIC,
    agent_number,
    degradation_name,
)
from diffkd_ros.messages.reading import NANOSECONDS, MessageError, boxes_of, latency_of, stamp_of
from diffkd_ros.metrics.average_precision import AveragePrecision, EvaluationError, match
from diffkd_ros.metrics.latency import LatencyTable
from diffkd_ros.metrics.link_cost import LinkCost
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.msg import BevChunk, BevFeature, Boxes3D, FusionStatus, NeighbourStatus
from diffkd_ros.nodes.base import entry, qos
from diffkd_ros.nodes.base.link_node import LinkParameters
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.nodes.base.subscription import subscribe_to_all, take_rest
from diffkd_ros.nodes.output.truth_markers import truth_markers
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.link.maps import LAYERS
from diffkd_ros.runtime.model_folder import model_folder

# Most frames kept whose detections or ground truth have not arrived yet.
_PENDING = 200
# Stamps that fall back by more than this belong to a new run, nanoseconds.
_RESTART = NANOSECONDS
# Minimum overlap of a vehicle drawn as found.
_DRAWN_IOU = 0.5


@dataclass(frozen=True)
class EvaluatorParameters(LinkParameters):
    """Parameters of `evaluator_node`."""

    model: str = parameter(
        'sim_edge', 'Model folder or shipped name; ground truth outside its grid does not count.'
    )
    min_points: int = parameter(5, 'Ignore ground-truth boxes with fewer LiDAR returns.', minimum=0)
    out: str = parameter('', 'JSON file for the result, written at the end; empty: no file.')


class _DriveTime:
    """Removes the gaps that a player leaves between scenarios, so that they do not lower bit rates.

    A gap is a step that is longer than the one before by more than 1 s.
    """

    def __init__(self) -> None:
        self._last = self._step = self._removed = 0

    def without_gaps(self, stamp: int) -> int:
        """The stamp, nanoseconds, shifted so that each scenario follows the previous one."""
        step = stamp - self._last
        if step > 0 and self._last:
            if self._step and step > self._step + NANOSECONDS:
                self._removed += step - self._step
            else:
                self._step = step
        self._last = max(self._last, stamp)
        return stamp - self._removed


class _Received:
    """What the ego received of one neighbour.

    Attributes:
        fused: number of its sweeps that were fused.
        refused: number of its sweeps that were not, by reason.
    """

    def __init__(self) -> None:
        self.fused = 0
        self.refused: Counter[str] = Counter()
        self._sums: dict[str, float] = defaultdict(float)
        self._chunks: dict[str, int] | None = None

    def add(self, neighbour: NeighbourStatus) -> None:
        """Add the neighbour's status in one fusion."""
        if neighbour.accepted:
            self.fused += 1
            for name in ('bytes', *(f'{layer}_bytes' for layer in LAYERS), 'restored'):
                self._sums[name] += getattr(neighbour, name)
        else:
            self.refused[neighbour.reason.partition(':')[0]] += 1
        if neighbour.sweep_chunks:
            self._chunks = {
                name: getattr(neighbour, f'chunks_{name}') for name in ('received', 'lost', 'refused')
            }

    @property
    def kilobytes(self) -> float | None:
        """Mean size of a fused sweep's serialised messages, kB; None if none was fused."""
        return self._sums['bytes'] / self.fused / 1e3 if self.fused else None

    def layers(self) -> dict[str, object] | None:
        """Of layered messages: means over the sweeps fused, and the chunks since the neighbour was heard."""
        if self._chunks is None:
            return None
        fused = max(self.fused, 1)
        return {
            'data_kilobytes': {layer: self._sums[f'{layer}_bytes'] / fused / 1e3 for layer in LAYERS},
            'restored': self._sums['restored'] / fused,
            'chunks': self._chunks,
        }


class EvaluatorNode(entry.RunnableNode):
    """Subscribes to `detections`, `ground_truth`, `fusion_status`, `/diagnostics` and the V2X link.

    The ego, which the namespace names (``/cav_1``), need not find its own box. The node publishes
    `truth_markers`: the vehicles to be found, and which of them were found.
    """

    def __init__(self) -> None:
        super().__init__('evaluator_node')
        self._p = declare(self, EvaluatorParameters)
        self.open_link(self._p.v2x_domain)
        self._grid = ModelCard.load(model_folder(self._p.model)).grid
        self._precision = AveragePrecision(min_points=self._p.min_points)
        self._warm_up()
        name = self.get_namespace().strip('/')
        self._ego = agent_number(name) if re.fullmatch(AGENT_PATTERN, name) else None
        self._latency = LatencyTable()
        self._link = LinkCost()
        self._time = _DriveTime()
        self._truth: dict[int, frame.Boxes3D] = {}
        self._detected: dict[int, frame.Boxes3D] = {}
        self._newest: dict[str, int] = {}
        self._messages_refused: Counter[str] = Counter()
        self._degradations: Counter[str] = Counter()
        self._truths = 0
        self._answered = 0
        self._cooperative = 0
        self._received: dict[str, _Received] = {}
        self._vehicles: dict[str, dict[str, float]] = {}
        self.create_subscription(Boxes3D, 'ground_truth', self._on_truth, qos.RESULTS)
        self.create_subscription(Boxes3D, 'detections', self._on_detections, qos.RESULTS)
        self.create_subscription(FusionStatus, 'fusion_status', self._on_status, qos.RESULTS)
        self.link.create_subscription(BevFeature, FEATURES_TOPIC, self._on_feature, qos.FEATURES, raw=True)
        subscribe_to_all(self.link, BevChunk, CHUNKS_TOPIC, self._on_chunk, qos.CHUNKS, raw=True)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, qos.RESULTS)
        self._markers = self.create_publisher(MarkerArray, 'truth_markers', qos.RESULTS)
        self._timer = self.create_timer(1.0, self._report)

    def start(self) -> None:
        """Say that the node is ready, once an interruption closes it."""
        self.get_logger().info('ready')

    def _warm_up(self) -> None:
        """Score a pair of boxes, because the first call compiles."""
        boxes = frame.Boxes3D(np.array([[0.0, 0, 0, 4, 2, 2, 0]]), scores=np.ones(1, np.float32))
        AveragePrecision().add(boxes, boxes)

    def _on_truth(self, message: Boxes3D) -> None:
        self._truths += 1
        self._keep('ground_truth', self._truth, message)

    def _on_detections(self, message: Boxes3D) -> None:
        self._keep('detections', self._detected, message)

    def _keep(self, topic: str, table: dict[int, frame.Boxes3D], message: Boxes3D) -> None:
        try:
            boxes = boxes_of(message)
        except (MessageError, frame.FrameError) as error:
            self._refuse(topic, error)
            return
        stamp = stamp_of(message.header)
        # By topic, because detections may arrive seconds after their ground truth.
        newest = self._newest.get(topic, stamp)
        if stamp < newest - _RESTART:
            self._forget_after(stamp + _RESTART)
            newest = stamp
        self._newest[topic] = max(newest, stamp)
        table[stamp] = boxes
        while len(table) > _PENDING:
            del table[min(table)]
        if stamp in self._truth and stamp in self._detected:
            area = self._grid.area
            truth = self._truth.pop(stamp)
            if self._ego is not None:
                truth = without_own(truth, self._ego)
            # Neighbours send boxes from beyond the ego's grid, too.
            detected = within(self._detected.pop(stamp), *area)
            self._score(message.header, detected, within(truth, *area))

    def _forget_after(self, stamp: int) -> None:
        """Drop later stamps, which belong to the previous run."""
        for table in (self._truth, self._detected):
            for later in [at for at in table if at > stamp]:
                del table[later]
        self._newest.clear()

    def _score(self, header: Header, detected: frame.Boxes3D, truth: frame.Boxes3D) -> None:
        try:
            self._precision.add(detected, truth)
        except EvaluationError as error:
            self._refuse('detections', error)
            return
        # Not of messages taken by `close`, when ROS may be shut down.
        if self.context.ok() and self._markers.get_subscription_count():
            matching = match(detected, truth, _DRAWN_IOU, self._p.min_points)
            self._markers.publish(truth_markers(header, truth, matching))

    def _refuse(self, topic: str, error: Exception) -> None:
        self._messages_refused[topic] += 1
        self.get_logger().warning(f'{topic} refused: {error}', throttle_duration_sec=5.0)

    def _on_status(self, message: FusionStatus) -> None:
        try:
            self._latency.add(latency_of(message))
        except (MessageError, EvaluationError) as error:
            self._refuse('fusion_status', error)
            return
        self._answered += 1
        self._degradations[degradation_name(message.degradation)] += 1
        for neighbour in message.neighbours:
            self._received.setdefault(neighbour.agent_id, _Received()).add(neighbour)
        self._cooperative += any(neighbour.accepted for neighbour in message.neighbours)

    def _on_feature(self, data: bytes) -> None:
        self._on_link(deserialize_message(data, BevFeature), len(data), part=False)

    def _on_chunk(self, data: bytes) -> None:
        self._on_link(deserialize_message(data, BevChunk), len(data), part=True)

    def _on_link(self, message: BevFeature | BevChunk, size: int, *, part: bool) -> None:
        """Count all bytes of a serialised message, as the ego and the sender's bandwidth do."""
        stamp = self._time.without_gaps(stamp_of(message.header))
        self._link.add(message.agent_id, size, stamp, message.sequence, part=part)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """Keep each agent's latest stage times, which vehicle nodes publish only here."""
        for status in message.status:
            if status.name.endswith(': inference'):
                times = self._vehicles[status.hardware_id] = {}
                for value in status.values:
                    # Other nodes may use the same names for values that are not numbers.
                    with contextlib.suppress(ValueError):
                        if value.key.endswith('[ms]'):
                            times[value.key] = float(value.value)

    def _report(self) -> None:
        if self._precision.frames:
            self.log_progress(self._summary())

    def _summary(self) -> str:
        precision = self._precision.compute()
        total = self._latency.summary().get('total', {'p50': 0.0, 'p95': 0.0})
        link = ', '.join(f'{agent} {cost["mbit_per_s"]:.2f}' for agent, cost in self._link.summary().items())
        return (
            f'{self._precision.frames} frames, AP@0.5 {precision[0.5]:.3f}, '
            f'latency p50 {total["p50"]:.0f} p95 {total["p95"]:.0f} ms, Mbit/s {link or "none"}'
        )

    def result(self) -> dict[str, object]:
        """All results so far, ready for JSON."""
        return {
            'frames_scored': self._precision.frames,
            'frames_with_truth': self._truths,
            'frames_answered': self._answered,
            'frames_fused': self._cooperative,
            'degradation': dict(self._degradations),
            'truths_counted': self._precision.truths,
            'average_precision': {str(k): v for k, v in self._precision.compute().items()},
            'latency_ms': self._latency.summary(),
            'link': self._link.summary(),
            'kilobytes_fused': self._of_neighbours(lambda each: each.kilobytes),
            'layers': self._of_neighbours(lambda each: each.layers()),
            'features_fused': self._of_neighbours(lambda each: each.fused),
            'features_refused': self._of_neighbours(lambda each: dict(each.refused)),
            'messages_refused': dict(self._messages_refused),
            'node_latency_ms': self._vehicles,
        }

    def _of_neighbours(self, figure: Callable[[_Received], object]) -> dict[str, object]:
        """A figure of each neighbour that has it."""
        figures = {agent: figure(received) for agent, received in self._received.items()}
        return {agent: value for agent, value in figures.items() if value}

    def close(self) -> None:
        """Write the result, with what was published before the end."""
        take_rest(each for node in self.nodes for each in node.subscriptions)
        self.log_last(self._summary())
        if self._p.out:
            write_json(Path(self._p.out), self.result())


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    entry.run(EvaluatorNode, args)


if __name__ == '__main__':
    main()
