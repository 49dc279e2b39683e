# SPDX-License-Identifier: Apache-2.0
"""The ego vehicle: own sweeps and neighbours' features in, detections out.

Each own sweep is fused with the features received by then; the ego never waits for a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import numpy as np
from rclpy.subscription import Subscription
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from diffkd_ros.errors import require
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.building import boxes_message, fill
from diffkd_ros.messages.names import CHUNKS_TOPIC, FEATURES_TOPIC
from diffkd_ros.msg import BevChunk, BevFeature, Boxes3D, FusionStatus, NeighbourStatus
from diffkd_ros.nodes.base import entry, qos
from diffkd_ros.nodes.base.diagnostics import OK, Item
from diffkd_ros.nodes.base.parameters import parameter
from diffkd_ros.nodes.base.subscription import subscribe_to_all
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.input.sweeps import Sweep
from diffkd_ros.nodes.link.neighbours import NeighbourSelector, Verdict
from diffkd_ros.nodes.link.peer_record import PeerRecord
from diffkd_ros.nodes.link.places import is_empty
from diffkd_ros.nodes.output import vision
from diffkd_ros.nodes.output.markers import marker_array
from diffkd_ros.nodes.output.vision import VisionOutput
from diffkd_ros.nodes.perception.degradation import DegradationReport, Ladder
from diffkd_ros.nodes.perception.node import PerceptionNode
from diffkd_ros.nodes.perception.parameters import EncodingParameters
from diffkd_ros.nodes.perception.pipeline import Pipeline
from diffkd_ros.runtime import features
from diffkd_ros.runtime.detector import CooperativeDetector, Detection
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.link.memory import MapMemory, Moment
from diffkd_ros.runtime.link.motion import Motion, Tracks
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.runtime.plausibility.examination import Examination
from diffkd_ros.runtime.plausibility.judge import VIEWS, Judge

if TYPE_CHECKING:
    from diffkd_ros.nodes.link.signing import SignatureCheck

_UINT32_MAX = 2**32 - 1


@dataclass(frozen=True)
class EgoParameters(EncodingParameters):
    """Parameters of `ego_node`."""

    max_age: float = parameter(
        0.5,
        "Oldest neighbour's feature that is fused, s before the own sweep.",
        minimum=0.0,
        maximum=5.0,
        live=True,
    )
    future_tolerance: float = parameter(
        0.05,
        "Newest neighbour's feature that is fused, s after the own sweep.",
        minimum=0.0,
        maximum=1.0,
    )
    allowed_neighbours: tuple[str, ...] = parameter(
        ('*',),
        'Neighbours whose features may be fused, by name; * and ? are wildcards, an empty name allows none.',
        live=True,
    )
    link_rate: float = parameter(
        2000.0,
        'Most messages per second that are read from all neighbours, half of them from one DDS participant; '
        'more are refused. One of more than 10 kB counts as several, the largest as about 30; a layered '
        'sweep has about one per kilobyte.',
        minimum=10.0,
        maximum=1e5,
    )
    plausibility: bool = parameter(
        True,
        'Neighbours whose sweeps contradict what the ego sees are left out, and in quarantine if they do so '
        'repeatedly; with models with a layered message.',
        live=True,
    )
    neighbour_keys: str = parameter(
        '',
        'File with the public keys of the neighbours: only messages that they signed are used. Empty: '
        'signatures are not checked.',
    )
    min_score: float = parameter(
        0.0,
        "Detections with a lower score are not published; the model's own threshold applies, too.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )


class EgoNode(PerceptionNode[EgoParameters]):
    """Encodes own sweeps, fuses them with neighbours' features and publishes detections."""

    def __init__(self) -> None:
        super().__init__('ego_node', EgoParameters, lambda: FusionPipeline(self))


class FusionPipeline(Pipeline):
    """Fuses each sweep with neighbours' features and publishes the detections.

    Args:
        node: owner of publishers and subscriptions.
    """

    def __init__(self, node: EgoNode) -> None:
        super().__init__(node, node.p)
        self._ego = node
        p = node.p
        self._detector = CooperativeDetector(self.card, threads=p.threads, device=p.device)
        self._receiver = MapReceiver(self.card, p.threads, p.device) if self.card.link else None
        tables = None if self._receiver is None else self._receiver.tables
        self._memory, self._tracks, self._map_frame = MapMemory(), Tracks(), ''
        grid = self.card.grid
        self._nothing = features.BevFeature.empty(self.card.channels, grid.height, grid.width)
        self._sender = MapSender(self.card, p.threads, p.device) if self.card.link else None
        self._judge = Judge(VIEWS)
        self._warm_up()
        self._neighbours = NeighbourSelector(
            self.card,
            node.agent,
            p.max_age,
            p.future_tolerance,
            p.link_rate,
            p.allowed_neighbours,
            tables,
            _signature_check(p.neighbour_keys),
        )
        self._begin()
        self._subscriptions: list[Subscription] = []
        self._detections = node.create_lifecycle_publisher(Boxes3D, 'detections', qos.RESULTS)
        self._status = node.create_lifecycle_publisher(FusionStatus, 'fusion_status', qos.RESULTS)
        self._markers = node.create_lifecycle_publisher(MarkerArray, 'markers', qos.RESULTS)
        self._vision = VisionOutput(node, self.card) if vision.available else None
        own, of_vision = (
            'detections, markers, fusion_status',
            f'{VisionOutput.DETECTIONS}, {VisionOutput.LABELS}',
        )
        outputs = f'{of_vision}, {own}' if vision.available else f'{own}; no {of_vision} without vision_msgs'
        self.summary = f'{node.agent} runs {self.card.model_id}; outputs: {outputs}'

    def _begin(self) -> None:
        """Start with no fusion known."""
        self._ladder = Ladder()
        self._degradation = DegradationReport(self._neighbours.seconds, self.node.get_logger())

    def _warm_up(self) -> None:
        """Run the networks once with the most agents, on a GPU once with each number of them.

        The first run allocates memory and compiles. On a CPU that with other numbers takes no longer.
        """
        shared: features.BevFeature | ReceivedMap = self._nothing
        if self._receiver is not None:
            shared = Unpacker(self._receiver.tables).unpack([])
        most = self.card.max_agents
        for agents in range(most if self._ego.p.device == 'cpu' else 1, most + 1):
            self._fuse(self._nothing, [shared] * (agents - 1), [np.eye(4)] * agents)
        if self._sender is not None:
            self._sender.view(self._nothing, self._nothing.density > 0)

    def _fuse(
        self,
        own: features.BevFeature,
        shared: Sequence[features.BevFeature | ReceivedMap],
        poses: Sequence[Matrix],
        moment: Moment | None = None,
        examination: Examination | None = None,
        motion: Motion | None = None,
    ) -> Detection:
        if self._receiver is None:
            # Without tables no layered message is accepted.
            return self._detector.detect([own, *cast(Sequence[features.BevFeature], shared)], poses)
        return detect_layered(
            self.card, self._receiver, self._detector.detect, own, shared, poses, moment, examination, motion
        )

    def activate(self) -> None:
        """Subscribe to clouds, poses and neighbours' features; publish the class names."""
        p = self._ego.p
        link, receive = (p.v2x_reliability, p.v2x_depth, p.v2x_lifespan), self._neighbours.receive
        # Before the clouds: in each turn of the executor the ego first takes what neighbours sent.
        self._subscriptions = [
            subscribe_to_all(self._ego.link, kind, topic, partial(receive, kind), profile, raw=True)
            for kind, topic, profile in (
                (BevFeature, FEATURES_TOPIC, qos.features(*link)),
                (BevChunk, CHUNKS_TOPIC, qos.chunks(*link)),
            )
        ]
        if self._vision is not None:
            self._vision.publish_labels()
        self._begin()
        super().activate()

    def deactivate(self) -> None:
        """Unsubscribe, discard stored input and wait for the sweep being processed."""
        super().deactivate()
        for subscription in self._subscriptions:
            self._ego.link.destroy_subscription(subscription)
        self._subscriptions = []
        self._neighbours.buffer.pause()
        self._memory.clear()
        self._tracks.clear()
        self._judge.clear()

    def receive(self, sweep: Sweep) -> None:
        """Store a sweep that arrived, and its stamp to compare neighbours' clocks with."""
        self._neighbours.own_sweep(sweep.stamp)
        self._degradation.received()
        super().receive(sweep)

    def forget_after(self, stamp: int) -> None:
        """Drop stored input with a later stamp (nanoseconds), after time has jumped back."""
        super().forget_after(stamp)
        self._neighbours.forget_after(stamp)

    def process(self, sweep: Sweep, feature: features.BevFeature, pose: LidarPose, timer: StageTimer) -> str:
        """Fuse a sweep with the features received by now, and publish the results.

        A sweep that shows things where they are not is left out, if a neighbour's map or box is there: the
        ego's map is then that of a vehicle without returns.
        """
        p = self._ego.p
        self._neighbours.limit(p.max_age, p.allowed_neighbours)
        verdicts = self._neighbours.select(sweep.stamp, pose.pose, pose.map_frame)
        accepted = [(v, v.feature, v.pose) for v in verdicts if v.feature is not None and v.pose is not None]
        monitor = self.monitor
        left_out = monitor.misleading and not all(is_empty(shared) for _, shared, _ in accepted)
        if left_out:
            feature = self._nothing
            self._memory.forget(self._ego.agent)
        shared = [neighbour for _, neighbour, _ in accepted]
        poses = [pose.pose, *(neighbour_pose for *_, neighbour_pose in accepted)]
        agents = [self._ego.agent, *(verdict.agent for verdict, *_ in accepted)]
        stamps = [sweep.stamp, *(verdict.stamp for verdict, *_ in accepted)]
        if pose.map_frame != self._map_frame:
            # Where an agent was in another frame says nothing of where it is in this one.
            self._memory.clear()
            self._tracks.clear()
            self._map_frame = pose.map_frame
        moment = examination = None
        if self.card.memory:
            moment = Moment(self._memory, agents, stamps)
        if self._sender is not None and p.plausibility:
            examination = Examination(self._sender, self._judge, agents[1:], stamps, self.card.grid)
        motion = Motion(self._tracks, agents[1:], stamps)
        timer.mark('neighbours')
        detection = _above(p.min_score, self._fuse(feature, shared, poses, moment, examination, motion))
        if left_out:
            detection = replace(detection, reliability=0.0)
        timer.add(detection.latency_ms)
        weights, doubts = detection.gate_weights[1:], detection.doubts
        verdicts = self._neighbours.conclude(sweep.stamp, verdicts, weights, doubts)
        header = sweep.cloud.header
        self._detections.publish(boxes_message(header, detection.boxes, self.card.class_names))
        if self._vision is not None:
            self._vision.publish(header, detection.boxes)
        timer.mark('publish')
        stages = self.finish(sweep, timer)
        degradation = self._ladder.decide(
            sweep.stamp, verdicts, monitor.faults, self.report.overdue, not left_out
        )
        self._degradation.fused(degradation)
        status = self._status_message(header, verdicts, detection, stages)
        status.sensor_faults, status.own_map_used = monitor.described(), not left_out
        status.degradation, status.degradation_cause = degradation.level, degradation.cause
        self._status.publish(status)
        if self._markers.get_subscription_count():
            fused = [verdict.pose for verdict in verdicts if verdict.accepted and verdict.pose is not None]
            poses = [pose.pose, *fused]
            self._markers.publish(
                marker_array(header, detection, verdicts, feature.density > 0, poses, self.card.grid)
            )
        return ''

    def _status_message(
        self, header: Header, verdicts: list[Verdict], detection: Detection, stages: dict[str, float]
    ) -> FusionStatus:
        account = self.worker.account()
        message = FusionStatus(
            header=header,
            model_id=self.card.model_id,
            ego_reliability=float(detection.reliability),
            stages=list(stages),
            sweeps_received=account.received,
            # Including this one, which is still being processed.
            sweeps_fused=account.used + 1,
            sweeps_overwritten=account.overwritten,
            sweeps_refused=account.refused.total(),
            height=self.card.grid.height,
            width=self.card.grid.width,
        )
        message.grid_range = np.array(self.card.grid.range, np.float32)
        fill(message.latency_ms, list(stages.values()))
        fill(message.seen_by, detection.seen_by)
        # Accepted neighbours come first, in the order that the detector got them.
        weights = [float(weight) for weight in detection.gate_weights[1:]]
        records = self._neighbours.buffer.snapshot()
        for verdict, weight in zip(verdicts, weights + [0.0] * len(verdicts), strict=False):
            record = records.get(verdict.agent) or PeerRecord()
            message.neighbours.append(neighbour_status(verdict, weight, record))
        return message

    def items(self) -> list[Item]:
        """The items of input, degradation, neighbours, clock, inference and model."""
        return [
            self.input_item('sweeps fused'),
            self._degradation_item(),
            *self._neighbours.items(),
            *self.report.items(),
        ]

    def _degradation_item(self) -> Item:
        if not self.active:
            return Item('degradation', OK, 'no fusion: the node is not active', {})
        return self._degradation.current(self.input.unused() or self.report.failure).item()


def _signature_check(path: str) -> SignatureCheck | None:
    if not path:
        return None
    require('cryptography')
    from diffkd_ros.nodes.link.signing import SignatureCheck

    return SignatureCheck(Path(path))


def _above(min_score: float, detection: Detection) -> Detection:
    """The detection without boxes of lower scores."""
    boxes = detection.boxes
    if boxes.scores is None or not min_score:
        return detection
    high = boxes.scores >= min_score
    seen_by = detection.seen_by[high] if len(detection.seen_by) else detection.seen_by
    return replace(detection, boxes=boxes[high], seen_by=seen_by)


def neighbour_status(verdict: Verdict, weight: float, record: PeerRecord) -> NeighbourStatus:
    """One neighbour's entry in `FusionStatus`; counts saturate at 2^32 - 1.

    Args:
        verdict: on its sweep.
        weight: gate weight of the sweep, 0 if it was refused.
        record: totals of the neighbour.
    """
    layers = verdict.feature.bytes_of if isinstance(verdict.feature, ReceivedMap) else {}
    status = NeighbourStatus(
        agent_id=verdict.agent,
        accepted=verdict.accepted,
        reason=verdict.reason,
        age=verdict.age,
        gate_weight=weight,
        bytes=verdict.extent.size,
        sequence=verdict.sequence,
        rate=record.rate,
        kilobytes_per_s=record.kilobytes_per_s,
        messages_received=min(record.received, _UINT32_MAX),
        messages_lost=min(record.lost, _UINT32_MAX),
        messages_fused=min(record.fused, _UINT32_MAX),
        messages_refused=min(record.refused.total(), _UINT32_MAX),
        messages_overwritten=min(record.overwritten, _UINT32_MAX),
        sweep_chunks=verdict.extent.announced,
        sweep_chunks_received=verdict.extent.chunks,
        **{f'{layer}_bytes': size for layer, size in layers.items()},
        restored=verdict.restored,
        chunks_received=min(record.chunks_received, _UINT32_MAX),
        chunks_lost=min(record.chunks_lost, _UINT32_MAX),
        chunks_refused=min(record.chunks_refused.total(), _UINT32_MAX),
    )
    if verdict.tiles is not None:
        fill(status.tiles, verdict.tiles)
    return status


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    entry.run(EgoNode, args)


if __name__ == '__main__':
    main()
