# SPDX-License-Identifier: Apache-2.0
"""The ego vehicle: own sweep and neighbours' features in, detections out.

Each own sweep is answered with whatever neighbours have sent by then; the ego never waits for one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from diffkd_ros.msg import BevFeature, Boxes3D, FusionStatus, NeighbourStatus
from diffkd_ros.nodes import diagnostics, entry, qos, vision
from diffkd_ros.nodes.conversions import boxes_message, fill
from diffkd_ros.nodes.encoding import EncodingParameters, agent_of, encode_sweep, load_card, load_encoder
from diffkd_ros.nodes.inference_report import InferenceReport
from diffkd_ros.nodes.inference_thread import InferenceThread
from diffkd_ros.nodes.markers import marker_array
from diffkd_ros.nodes.neighbours import NeighbourSelector, Verdict
from diffkd_ros.nodes.parameters import declare, parameter
from diffkd_ros.nodes.sweep_input import RefusedSweepError, Sweep, SweepInput
from diffkd_ros.runtime import features
from diffkd_ros.runtime.card import ModelError
from diffkd_ros.runtime.detector import CooperativeDetector, Detection


@dataclass(frozen=True)
class EgoParameters(EncodingParameters):
    """Parameters of `ego_node`."""

    max_age: float = parameter(
        0.5, "Oldest neighbour's feature that is fused, s before the own sweep.", minimum=0.0, maximum=5.0
    )
    future_tolerance: float = parameter(
        0.05, "How far a neighbour's feature may lie after the own sweep, s.", minimum=0.0, maximum=1.0
    )


class EgoNode(entry.RunnableNode):
    """Encodes own sweeps, fuses them with neighbours' features and detects."""

    def __init__(self) -> None:
        super().__init__('ego_node')
        p = declare(self, EgoParameters)
        self._agent = agent_of(self, p)
        self._card = load_card(p.model)
        self._encoder = load_encoder(self._card, p)
        self._detector = self._load_detector(p)
        self._neighbours = NeighbourSelector(self._card, self._agent, p.max_age, p.future_tolerance)
        self._report = InferenceReport(self._card, p.device, p.threads)
        self._fused = 0
        self._detections = self.create_publisher(Boxes3D, 'detections', qos.RESULTS)
        self._status = self.create_publisher(FusionStatus, 'fusion_status', qos.RESULTS)
        self._markers = self.create_publisher(MarkerArray, 'markers', qos.RESULTS)
        outputs = 'detections, markers, fusion_status'
        self._vision = None
        if vision.available:
            self._vision = self.create_publisher(
                vision.vision_msgs.Detection3DArray, 'detections_3d', qos.RESULTS
            )
            outputs += ', detections_3d'
        else:
            outputs += '; not detections_3d, for vision_msgs is not installed'
        self._worker = InferenceThread[Sweep](self._process, self._on_error)
        self.create_subscription(BevFeature, 'v2x/features', self._neighbours.add, qos.FEATURES)
        self._input = SweepInput(self, self._worker.submit, p.pose_tolerance)
        self._diagnostics = diagnostics.DiagnosticsPublisher(self, self._agent, self._items)
        self.get_logger().info(f'ready: {self._agent} runs {self._card.model_id}; outputs: {outputs}')

    def _load_detector(self, p: EgoParameters) -> CooperativeDetector:
        """The detector, run once for each number of agents: a first run allocates and compiles."""
        try:
            detector = CooperativeDetector(self._card, threads=p.threads, device=p.device)
        except ModelError as error:
            raise entry.SetupError(str(error)) from error
        grid, channels = self._card.grid, self._card.channels
        empty = features.BevFeature(
            np.zeros((channels, grid.height, grid.width), np.float32),
            np.zeros((grid.height, grid.width), np.float32),
        )
        for agents in range(1, self._card.max_agents + 1):
            detector.detect([empty] * agents, [np.eye(4)] * agents)
        return detector

    def _process(self, sweep: Sweep) -> None:
        timer = sweep.timer()
        timer.mark('wait')
        try:
            feature, pose, odometry = encode_sweep(sweep, self._input, self._encoder, timer)
        except RefusedSweepError:
            return
        verdicts = self._neighbours.select(sweep.stamp, pose, odometry.header.frame_id)
        timer.mark('neighbours')
        detection = self._detector.detect(
            [feature, *(v.feature for v in verdicts if v.feature is not None)],
            [pose, *(v.pose for v in verdicts if v.pose is not None)],
        )
        timer.add(detection.latency_ms)
        header = sweep.cloud.header
        self._detections.publish(boxes_message(header, detection.boxes, self._card.class_names))
        if self._vision is not None:
            self._vision.publish(vision.detection_array(header, detection.boxes, self._card.class_names))
        timer.mark('publish')
        self._fused += 1
        self._input.accept()
        self._report.add(stages := timer.finish())
        self._status.publish(self._status_message(header, verdicts, detection, stages))
        if self._markers.get_subscription_count():
            self._markers.publish(
                marker_array(header, detection.boxes, verdicts, detection.gate_weights[1:], pose)
            )

    def _status_message(
        self, header: Header, verdicts: list[Verdict], detection: Detection, stages: dict[str, float]
    ) -> FusionStatus:
        message = FusionStatus(
            header=header,
            model_id=self._card.model_id,
            ego_reliability=float(detection.reliability),
            stages=list(stages),
            sweeps_received=self._input.received,
            sweeps_fused=self._fused,
            sweeps_overwritten=self._worker.overwritten,
            sweeps_refused=self._input.refused.total(),
        )
        fill(message.latency_ms, list(stages.values()))
        # Accepted neighbours come first, in the order they were given to the detector.
        weights = [float(weight) for weight in detection.gate_weights[1:]]
        for verdict, weight in zip(verdicts, weights + [0.0] * len(verdicts), strict=False):
            message.neighbours.append(
                NeighbourStatus(
                    agent_id=verdict.agent,
                    accepted=verdict.accepted,
                    reason=verdict.reason,
                    age=verdict.age,
                    gate_weight=weight,
                    bytes=verdict.bytes,
                    sequence=verdict.sequence,
                )
            )
        return message

    def _on_error(self, error: Exception) -> None:
        if not self.context.ok():
            return  # interrupted in the middle of a sweep: there is nobody to publish to any more
        self._report.fail(error)
        self.get_logger().error(
            f'inference failed: {type(error).__name__}: {error}', throttle_duration_sec=5.0
        )

    def _items(self) -> list[diagnostics.Item]:
        values = {'sweeps overwritten': self._worker.overwritten, 'sweeps fused': self._fused}
        return [self._input.diagnostics(values), *self._neighbours.diagnostics(), *self._report.items()]

    def close(self) -> None:
        """Stop the inference thread."""
        self._worker.stop()


def main(args: Sequence[str] | None = None) -> int:
    """Entry point."""
    return entry.run(EgoNode, 'ego_node', args)


if __name__ == '__main__':
    sys.exit(main())
