# SPDX-License-Identifier: Apache-2.0
"""The lifecycle that `vehicle_node` and `ego_node` share.

Configure loads the model and creates publishers, activate subscribes, deactivate unsubscribes and drops what
was stored, clean-up frees the model. With `autostart` (the default) the node takes the first two by itself.
"""

from __future__ import annotations

import traceback
from abc import abstractmethod
from typing import Generic, TypeVar

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from diffkd_ros.messages.lidar_pose import LidarPose
from diffkd_ros.nodes.base import diagnostics
from diffkd_ros.nodes.base.entry import RunnableNode, SetupError
from diffkd_ros.nodes.base.parameters import ParameterError, declare
from diffkd_ros.nodes.input.pose_parameters import pose_source_of
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.input.sweeps import RefusedSweepError, Sweep, SweepInput
from diffkd_ros.nodes.perception.encoding import (
    EncodingParameters,
    agent_of,
    encode_sweep,
    load_card,
    load_encoder,
)
from diffkd_ros.nodes.perception.inference_thread import InferenceThread
from diffkd_ros.nodes.perception.report import InferenceReport
from diffkd_ros.runtime import features

Table = TypeVar('Table', bound=EncodingParameters)

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

# Time that jumps back by less is taken for the clock's own unrest.
_BACKWARD = Duration(seconds=-0.5)


class PerceptionNode(RunnableNode, LifecycleNode, Generic[Table]):
    """Takes sweeps in, one at a time, in a thread that owns the model; callbacks only store.

    Args:
        name: of the node.
        table: its parameters.

    Attributes:
        p: the parameters' values.
        agent: name of the vehicle on the V2X link.
    """

    def __init__(self, name: str, table: type[Table]) -> None:
        super().__init__(name)
        self.p: Table = declare(self, table)
        self.agent = agent_of(self, self.p)
        self._failure = ''
        self._configured = False
        self._active = False
        self._diagnostics = diagnostics.DiagnosticsPublisher(self, self.agent, self._items)
        threshold = JumpThreshold(min_forward=None, min_backward=_BACKWARD, on_clock_change=False)
        self._jumps = self.get_clock().create_jump_callback(threshold, post_callback=self._on_jump)

    @abstractmethod
    def configure(self) -> str:
        """Load the rest of the model and create publishers; `card` and `encoder` are there.

        Returns:
            What the node does and publishes, for the log.

        Raises:
            SetupError: if it cannot.
        """

    @abstractmethod
    def activate(self) -> None:
        """Subscribe to what else it needs, and publish what is latched."""

    @abstractmethod
    def deactivate(self) -> None:
        """Undo `activate`, and drop what was stored."""

    @abstractmethod
    def clean_up(self) -> None:
        """Undo `configure`."""

    @abstractmethod
    def process(self, sweep: Sweep, feature: features.BevFeature, pose: LidarPose, timer: StageTimer) -> None:
        """Work on one sweep that was encoded; called in the inference thread.

        Args:
            sweep: as it came.
            feature: of it.
            pose: of its LiDAR.
            timer: goes on from there.
        """

    @abstractmethod
    def items(self) -> list[diagnostics.Item]:
        """Diagnostics beside those of input, inference and model; called while configured."""

    @abstractmethod
    def input_values(self) -> dict[str, object]:
        """Values for the diagnostics item of the input; called while configured."""

    def on_arrival(self, sweep: Sweep) -> None:
        """Store a sweep that just arrived; called in the executor's thread."""
        self.worker.submit(sweep)

    def forget_after(self, stamp: int) -> None:
        """Drop what is stamped later: time has jumped back to here."""
        self.input.forget_after(stamp)

    def start(self) -> None:
        """Configure and activate, unless `autostart` is off.

        Raises:
            SetupError: if configuring fails.
        """
        if not self.p.autostart:
            self.get_logger().info('ready to be configured: autostart is off')
            return
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            raise SetupError(self._failure)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create publishers."""
        try:
            self.card = load_card(self.p.model)
            self.encoder = load_encoder(self.card, self.p)
            self.input = SweepInput(
                self,
                pose_source_of(self, self.p),
                self.p.input_reliability,
                self.p.intensity_scale,
                self.card.grid,
            )
            p = self.p
            self.report = InferenceReport(self.card, p.device, p.threads, p.max_latency, p.max_overrun)
            self._does = self.configure()
        except (SetupError, ParameterError) as error:
            self._failure = str(error)
            if not self.p.autostart:
                self.get_logger().error(f'cannot be configured: {error}')
            return FAILURE
        except Exception:
            self._log_exception()
            raise
        self.worker = InferenceThread[Sweep](self._take, self._on_error)
        self._configured = True
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe."""
        result = super().on_activate(state)
        try:
            self.activate()
            self.input.subscribe(self.on_arrival)
        except Exception:
            self._log_exception()
            raise
        self._active = True
        self.get_logger().info(f'ready: {self._does}')
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the sweep at work and drop what was stored."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the publishers."""
        self._free()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs, free everything and end the process."""
        self._stop()
        self._free()
        self.done.set_result(None)
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        self._stop()
        self._free()
        return SUCCESS

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:  # noqa: N802
        """Refuse a transition that makes no sense: in Jazzy rclpy lets it end the process."""
        try:
            return super()._LifecycleNodeMixin__change_state(transition_id)  # type: ignore[misc]
        except rclpy_implementation.RCLError as error:
            self.get_logger().error(f'transition {transition_id} refused: {error}')
            return TransitionCallbackReturn.ERROR

    def _log_exception(self) -> None:
        """Show what a transition raised: rclpy keeps it to itself."""
        self._failure = traceback.format_exc()
        self.get_logger().error(self._failure)

    def _stop(self) -> None:
        if self._active:
            self._active = False
            self.input.unsubscribe()
            self.deactivate()
            self.worker.drain()

    def _free(self) -> None:
        if self._configured:
            self._configured = False
            self.worker.stop()
            self.clean_up()
            del self.encoder, self.input, self.worker, self.report, self.card

    def _on_jump(self, jump: TimeJump) -> None:
        now = self.get_clock().now().nanoseconds
        self.get_logger().warning(f'time jumped back by {-jump.delta.nanoseconds * 1e-9:.1f} s')
        if self._active:
            self.forget_after(now)

    def _take(self, sweep: Sweep) -> None:
        timer = sweep.timer()
        timer.mark('wait')
        try:
            feature, pose = encode_sweep(sweep, self.input, self.encoder, timer)
        except RefusedSweepError:
            return
        self.process(sweep, feature, pose, timer)

    def _on_error(self, error: Exception) -> None:
        if not self.context.ok():
            return  # interrupted in the middle of a sweep: there is nobody to publish to any more
        self.report.fail(error)
        self.get_logger().error(
            f'inference failed: {type(error).__name__}: {error}', throttle_duration_sec=5.0
        )

    def _items(self) -> list[diagnostics.Item]:
        state = 'active' if self._active else 'inactive' if self._configured else 'unconfigured'
        level = diagnostics.OK if self._active else diagnostics.WARN
        items = [diagnostics.Item('state', level, state)]
        # Until the first message on /clock, simulated time stands at zero.
        simulated = self.get_parameter('use_sim_time').value
        if simulated and not self.get_clock().now().nanoseconds:
            items[0] = diagnostics.Item(
                'state', diagnostics.WARN, f'{state}; use_sim_time, but /clock is silent'
            )
        if self._configured:
            values = {'sweeps overwritten': self.worker.overwritten, **self.input_values()}
            items += [self.input.diagnostics(values), *self.items(), *self.report.items()]
        return items

    def close(self) -> None:
        """Stop the inference thread."""
        if self._configured:
            self.worker.stop()
