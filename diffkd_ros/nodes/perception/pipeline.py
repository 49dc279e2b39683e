# SPDX-License-Identifier: Apache-2.0
"""The parts of a configured perception node: model, input, inference thread and report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from threading import Thread

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode

from diffkd_ros.geometry.boxes import count_points
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.nodes.base.diagnostics import ERROR, OK, WARN, Item
from diffkd_ros.nodes.input.pose_parameters import pose_source_of
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.input.sweeps import RefusedSweepError, Sweep, SweepInput
from diffkd_ros.nodes.perception.inference_thread import InferenceThread
from diffkd_ros.nodes.perception.parameters import EncodingParameters
from diffkd_ros.nodes.perception.report import InferenceReport
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.encoder import CloudError, FeatureEncoder
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.runtime.sensor.faults import described
from diffkd_ros.runtime.sensor.monitor import SensorMonitor


class Pipeline(ABC):
    """Encodes sweeps in the inference thread; a subclass decides what happens to the features.

    A node builds it when it is configured and drops it when it is cleaned up. Publishers are created in the
    constructor as lifecycle publishers, which the node destroys; subscriptions in `activate`.

    Args:
        node: owner of publishers and subscriptions.
        p: its parameters.

    Attributes:
        summary: what the node does and publishes, for the log; set by the subclass.
        active: whether it is subscribed to its input.
        monitor: of the vehicle's own sensors, since the activation; has examined the sweep that is processed.

    Raises:
        ModelError: if the model does not load or the device is not available.
        DiffkdError: if the source of poses is not available.
    """

    summary: str

    def __init__(self, node: LifecycleNode, p: EncodingParameters) -> None:
        self.node = node
        # Numba prepares itself at the first call, which takes half a second: meanwhile the networks load.
        nothing = np.empty((0, 3)), np.empty((0, 7))
        Thread(target=count_points, args=nothing, daemon=True).start()
        self.card = ModelCard.load(model_folder(p.model))
        self._encoder = FeatureEncoder(self.card, threads=p.threads, device=p.device)
        # The first run allocates memory: run it now, with one point, to not delay the first sweep.
        grid = self.card.grid.range
        self._encoder.encode(np.array([[*np.add(grid[:3], grid[3:]) / 2, 0.5]], np.float32))
        poses = pose_source_of(node, p)
        self.input = SweepInput(node, poses, p.input_reliability, p.intensity_scale, self.card.grid)
        self.report = InferenceReport(self.card, p.device, p.threads, p.max_latency, p.max_overrun)
        self.worker = InferenceThread[Sweep](self._encode, self._on_error)
        self.active = False
        self.monitor = SensorMonitor()

    @abstractmethod
    def process(self, sweep: Sweep, feature: BevFeature, pose: LidarPose, timer: StageTimer) -> str:
        """Use an encoded sweep, and call `finish`; called in the inference thread.

        Args:
            sweep: as received.
            feature: of the sweep, in the LiDAR frame.
            pose: map <- LiDAR at the sweep's stamp.
            timer: the sweep's stages so far.

        Returns:
            Why it is not used, in a word for counting; empty if it is.
        """

    @abstractmethod
    def items(self) -> list[Item]:
        """Diagnostics items; called in the executor's thread."""

    def activate(self) -> None:
        """Subscribe to clouds and poses, with nothing known of the sensors."""
        self.monitor = SensorMonitor()
        self.input.subscribe(self.receive)
        self.active = True

    def deactivate(self) -> None:
        """Unsubscribe, discard stored input and wait for the sweep being processed."""
        self.active = False
        self.input.unsubscribe()
        self.worker.drain()

    def receive(self, sweep: Sweep) -> None:
        """Store a sweep that arrived; called in the executor's thread."""
        self.worker.submit(sweep)

    def forget_after(self, stamp: int) -> None:
        """Drop stored input with a later stamp (nanoseconds), after time has jumped back."""
        self.input.forget_after(stamp)

    def finish(self, sweep: Sweep, timer: StageTimer) -> dict[str, float]:
        """Record that a sweep was processed; returns its milliseconds by stage."""
        self.input.accept()
        stages = timer.finish()
        self.report.add(sweep.stamp, stages)
        return stages

    def input_item(self, used: str) -> Item:
        """The item `input`; `used` is the name for the count of used sweeps."""
        account = self.worker.account()
        item = self.input.diagnostics(
            {
                'sweeps received': account.received,
                used: account.used,
                'sweeps overwritten': account.overwritten,
                **{f'sweeps refused ({reason})': n for reason, n in sorted(account.refused.items())},
                'sweeps failed': account.failed,
                'sweeps pending': account.pending,
            }
        )
        faults = self.monitor.described() if self.active else []
        if faults and item.level in (OK, WARN):
            level = ERROR if self.monitor.misleading or self.monitor.misplaced else WARN
            item = replace(item, level=level, message='; '.join(faults))
        return item

    def _encode(self, sweep: Sweep) -> str:
        timer = sweep.timer()
        timer.mark('wait')
        try:
            points = self.input.read(sweep).points
            timer.mark('cloud')
            feature = self._encoder.encode(points)
            timer.mark('encode')
            # After encoding, because a pose may arrive slightly later than its cloud.
            pose = self.input.pose(sweep)
            timer.mark('pose')
            self._examine(points, pose, sweep.stamp)
            timer.mark('check')
        except CloudError as error:
            return self.input.refuse('cloud', error).reason
        except RefusedSweepError as error:
            return error.reason
        return self.process(sweep, feature, pose, timer)

    def _examine(self, points: NDArray[np.float32], pose: LidarPose, stamp: int) -> None:
        """Check the sweep for faults of the sensors; log those that begin or end."""
        before, logger = self.monitor.faults, self.node.get_logger()
        try:
            self.monitor.examine(points, pose.pose, pose.map_frame, stamp)
        except Exception as error:
            # The sweep can be used without the checks.
            self.monitor = SensorMonitor()
            logger.error(
                f'check of the own sensors failed: {type(error).__name__}: {error}', throttle_duration_sec=5.0
            )
        now = self.monitor.faults
        for fault in now.keys() - before.keys():
            logger.warning(f'own sensors: {described(fault, now[fault])}')
        for fault in before.keys() - now.keys():
            logger.info(f'own sensors: no longer {fault.value}')

    def _on_error(self, error: Exception) -> None:
        if not self.node.context.ok():
            return  # ROS was shut down while the sweep was processed
        self.report.fail(error)
        self.node.get_logger().error(
            f'inference failed: {type(error).__name__}: {error}', throttle_duration_sec=5.0
        )
