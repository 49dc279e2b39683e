# SPDX-License-Identifier: Apache-2.0
"""The ego vehicle: own sweep and neighbours' features in, detections out.

Each own sweep is answered with whatever neighbours have sent by then; the ego never waits for one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rclpy.subscription import Subscription
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from diffkd_ros.messages.conversions import boxes_message, fill
from diffkd_ros.messages.lidar_pose import LidarPose
from diffkd_ros.msg import BevFeature, Boxes3D, FusionStatus, NeighbourStatus
from diffkd_ros.nodes.base import diagnostics, entry, qos
from diffkd_ros.nodes.base.parameters import parameter
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.input.sweeps import Sweep
from diffkd_ros.nodes.link.neighbours import NeighbourSelector, Verdict
from diffkd_ros.nodes.link.peer_record import PeerRecord
from diffkd_ros.nodes.output import vision
from diffkd_ros.nodes.output.markers import marker_array
from diffkd_ros.nodes.output.observed_area import observed_area
from diffkd_ros.nodes.output.vision import VisionOutput
from diffkd_ros.nodes.perception.encoding import EncodingParameters
from diffkd_ros.nodes.perception.lifecycle import PerceptionNode
from diffkd_ros.runtime import features
from diffkd_ros.runtime.card import ModelError
from diffkd_ros.runtime.detector import CooperativeDetector, Detection

# The largest that uint32 holds.
_MOST = 2**32 - 1


@dataclass(frozen=True)
class EgoParameters(EncodingParameters):
    """Parameters of `ego_node`."""

    max_age: float = parameter(
        0.5, "Oldest neighbour's feature that is fused, s before the own sweep.", minimum=0.0, maximum=5.0
    )
    future_tolerance: float = parameter(
        0.05, "How far a neighbour's feature may lie after the own sweep, s.", minimum=0.0, maximum=1.0
    )


class EgoNode(PerceptionNode[EgoParameters]):
    """Encodes own sweeps, fuses them with neighbours' features and detects."""

    def __init__(self) -> None:
        super().__init__('ego_node', EgoParameters)
        self._fused = 0
        self._features: Subscription | None = None

    def configure(self) -> str:
        """Load the detector and create publishers."""
        self._detector = self._load_detector(self.p)
        self._neighbours = NeighbourSelector(self.card, self.agent, self.p.max_age, self.p.future_tolerance)
        self._detections = self.create_lifecycle_publisher(Boxes3D, 'detections', qos.RESULTS)
        self._status = self.create_lifecycle_publisher(FusionStatus, 'fusion_status', qos.RESULTS)
        self._markers = self.create_lifecycle_publisher(MarkerArray, 'markers', qos.RESULTS)
        self._vision = VisionOutput(self, self.card) if vision.available else None
        outputs = 'detections, markers, fusion_status'
        if self._vision is not None:
            outputs += f', {VisionOutput.DETECTIONS}, {VisionOutput.LABELS}'
        else:
            outputs += f'; not {VisionOutput.DETECTIONS}, for vision_msgs is not installed'
        return f'{self.agent} runs {self.card.model_id}; outputs: {outputs}'

    def activate(self) -> None:
        """Listen to neighbours."""
        self._features = self.create_subscription(
            BevFeature,
            'v2x/features',
            self._neighbours.add,
            qos.link(self.p.v2x_reliability, self.p.v2x_depth, self.p.v2x_lifespan),
        )
        if self._vision is not None:
            self._vision.publish_labels()

    def deactivate(self) -> None:
        """Listen no more, and forget what neighbours sent."""
        if self._features is not None:
            self.destroy_subscription(self._features)
            self._features = None
        self._neighbours.buffer.clear()

    def clean_up(self) -> None:
        """Remove detector and publishers."""
        for publisher in (self._detections, self._status, self._markers):
            self.destroy_lifecycle_publisher(publisher)
        if self._vision is not None:
            self._vision.destroy()
        del self._detector, self._neighbours

    def on_arrival(self, sweep: Sweep) -> None:
        """Store a sweep that just arrived, and its stamp to compare neighbours' clocks with."""
        self._neighbours.own_sweep(sweep.stamp)
        super().on_arrival(sweep)

    def forget_after(self, stamp: int) -> None:
        """Drop what is stamped later: time has jumped back to here."""
        super().forget_after(stamp)
        self._neighbours.buffer.forget_after(stamp)

    def _load_detector(self, p: EgoParameters) -> CooperativeDetector:
        """The detector, run once for each number of agents: a first run allocates and compiles."""
        try:
            detector = CooperativeDetector(self.card, threads=p.threads, device=p.device)
        except ModelError as error:
            raise entry.SetupError(str(error)) from error
        grid, channels = self.card.grid, self.card.channels
        empty = features.BevFeature.empty(channels, grid.height, grid.width)
        for agents in range(1, self.card.max_agents + 1):
            detector.detect([empty] * agents, [np.eye(4)] * agents)
        return detector

    def process(self, sweep: Sweep, feature: features.BevFeature, pose: LidarPose, timer: StageTimer) -> None:
        """Fuse a sweep with what has arrived by now, and publish what comes out."""
        verdicts = self._neighbours.select(sweep.stamp, pose.pose, pose.map_frame)
        accepted = [(v.feature, v.pose) for v in verdicts if v.feature is not None and v.pose is not None]
        shared = [feature, *(shared for shared, _ in accepted)]
        poses = [pose.pose, *(place for _, place in accepted)]
        timer.mark('neighbours')
        detection = self._detector.detect(shared, poses)
        timer.add(detection.latency_ms)
        self._neighbours.weigh(verdicts, detection.gate_weights[1:])
        header = sweep.cloud.header
        self._detections.publish(boxes_message(header, detection.boxes, self.card.class_names))
        if self._vision is not None:
            self._vision.publish(header, detection.boxes)
        timer.mark('publish')
        self._fused += 1
        self.input.accept()
        self.report.add(sweep.stamp, stages := timer.finish())
        self._status.publish(self._status_message(header, verdicts, detection, stages))
        if self._markers.get_subscription_count():
            area = observed_area(shared, poses, self.card.grid)
            self._markers.publish(marker_array(header, detection, verdicts, pose.pose, area, self.card.grid))

    def _status_message(
        self, header: Header, verdicts: list[Verdict], detection: Detection, stages: dict[str, float]
    ) -> FusionStatus:
        message = FusionStatus(
            header=header,
            model_id=self.card.model_id,
            ego_reliability=float(detection.reliability),
            stages=list(stages),
            sweeps_received=self.input.received,
            sweeps_fused=self._fused,
            sweeps_overwritten=self.worker.overwritten,
            sweeps_refused=self.input.refused.total(),
        )
        fill(message.latency_ms, list(stages.values()))
        # Accepted neighbours come first, in the order they were given to the detector.
        weights = [float(weight) for weight in detection.gate_weights[1:]]
        records = self._neighbours.buffer.snapshot()
        for verdict, weight in zip(verdicts, weights + [0.0] * len(verdicts), strict=False):
            record = records.get(verdict.agent) or PeerRecord()
            message.neighbours.append(neighbour_status(verdict, weight, record))
        return message

    def input_values(self) -> dict[str, object]:
        """What became of the sweeps."""
        return {'sweeps fused': self._fused}

    def items(self) -> list[diagnostics.Item]:
        """The neighbours."""
        return self._neighbours.items()


def neighbour_status(verdict: Verdict, weight: float, record: PeerRecord) -> NeighbourStatus:
    """One neighbour in `FusionStatus`; counts too large for it stand still at 2^32 - 1.

    Args:
        verdict: on its feature.
        weight: gate weight of that feature, 0 if it was refused.
        record: its totals.
    """
    return NeighbourStatus(
        agent_id=verdict.agent,
        accepted=verdict.accepted,
        reason=verdict.reason,
        age=verdict.age,
        gate_weight=weight,
        bytes=verdict.bytes,
        sequence=verdict.sequence,
        rate=record.rate,
        kilobytes_per_s=record.kilobytes_per_s,
        messages_received=min(record.received, _MOST),
        messages_lost=min(record.lost, _MOST),
        messages_fused=min(record.fused, _MOST),
        messages_refused=min(record.refused.total(), _MOST),
        messages_overwritten=min(record.overwritten, _MOST),
    )


def main(args: Sequence[str] | None = None) -> int:
    """Entry point."""
    return entry.run(EgoNode, 'ego_node', args)


if __name__ == '__main__':
    sys.exit(main())
