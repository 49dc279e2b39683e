# SPDX-License-Identifier: Apache-2.0
"""A connected vehicle's sending side: cloud and pose in, `BevFeature` on the V2X topic out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diffkd_ros.msg import BevFeature
from diffkd_ros.nodes import diagnostics, entry, qos
from diffkd_ros.nodes.conversions import feature_message
from diffkd_ros.nodes.encoding import EncodingParameters, agent_of, encode_sweep, load_card, load_encoder
from diffkd_ros.nodes.inference_report import InferenceReport
from diffkd_ros.nodes.inference_thread import InferenceThread
from diffkd_ros.nodes.parameters import declare
from diffkd_ros.nodes.sweep_input import RefusedSweepError, Sweep, SweepInput
from diffkd_ros.runtime import codec


class VehicleNode(entry.RunnableNode):
    """Encodes each sweep and shares the feature."""

    def __init__(self) -> None:
        super().__init__('vehicle_node')
        p = declare(self, EncodingParameters)
        self._agent = agent_of(self, p)
        self._card = load_card(p.model)
        self._encoder = load_encoder(self._card, p)
        self._publisher = self.create_publisher(BevFeature, 'v2x/features', qos.FEATURES)
        self._report = InferenceReport(self._card, p.device, p.threads)
        self._sent = 0
        self._last_bytes = 0
        self._worker = InferenceThread[Sweep](self._process, self._on_error)
        self._input = SweepInput(self, self._worker.submit, p.pose_tolerance)
        self._diagnostics = diagnostics.DiagnosticsPublisher(self, self._agent, self._items)
        self.get_logger().info(f'ready: {self._agent} shares features of {self._card.model_id}')

    def _process(self, sweep: Sweep) -> None:
        timer = sweep.timer()
        timer.mark('wait')
        try:
            feature, _, odometry = encode_sweep(sweep, self._input, self._encoder, timer)
        except RefusedSweepError:
            return
        encoded = codec.encode(feature)
        timer.mark('codec')
        self._publisher.publish(
            feature_message(sweep.cloud.header, self._agent, self._sent, self._card, encoded, odometry)
        )
        timer.mark('publish')
        self._input.accept()
        self._report.add(timer.finish())
        self._sent += 1
        self._last_bytes = len(encoded.data)
        if self._last_bytes > qos.MAX_FEATURE_BYTES:
            self.get_logger().warning(
                f'a feature of {self._last_bytes} bytes is larger than {qos.MAX_FEATURE_BYTES}: '
                'best-effort receivers may lose it',
                throttle_duration_sec=10.0,
            )

    def _on_error(self, error: Exception) -> None:
        if not self.context.ok():
            return  # interrupted in the middle of a sweep: there is nobody to publish to any more
        self._report.fail(error)
        self.get_logger().error(
            f'inference failed: {type(error).__name__}: {error}', throttle_duration_sec=5.0
        )

    def _items(self) -> list[diagnostics.Item]:
        values = {
            'sweeps overwritten': self._worker.overwritten,
            'features sent': self._sent,
            'feature bytes': self._last_bytes,
        }
        return [self._input.diagnostics(values), *self._report.items()]

    def close(self) -> None:
        """Stop the inference thread."""
        self._worker.stop()


def main(args: Sequence[str] | None = None) -> int:
    """Entry point."""
    return entry.run(VehicleNode, 'vehicle_node', args)


if __name__ == '__main__':
    sys.exit(main())
