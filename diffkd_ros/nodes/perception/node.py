# SPDX-License-Identifier: Apache-2.0
"""The lifecycle that `vehicle_node` and `ego_node` share.

Configure builds the pipeline: it loads the model and creates publishers. Activate subscribes, deactivate
unsubscribes and discards stored input, clean-up drops the pipeline. With `autostart` (the default) the node
configures and activates itself.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from copy import copy
from typing import Any, Generic, TypeVar

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from diffkd_ros.errors import DiffkdError
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.base.diagnostics import OK, WARN, DiagnosticsPublisher, Item
from diffkd_ros.nodes.base.entry import RunnableNode
from diffkd_ros.nodes.base.parameters import declare
from diffkd_ros.nodes.perception.parameters import EncodingParameters
from diffkd_ros.nodes.perception.pipeline import Pipeline

Table = TypeVar('Table', bound=EncodingParameters)

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

# Smaller jumps back are jitter of the clock.
_BACKWARD = Duration(seconds=-0.5)


class PerceptionNode(RunnableNode, LifecycleNode, Generic[Table]):
    """A managed node that runs a pipeline.

    Args:
        name: of the node.
        table: its parameters.
        build: builds the pipeline, when the node is configured.

    Attributes:
        p: values of the parameters; replaced when one is set.
        agent: the agent's name on the V2X link.

    Raises:
        DiffkdError: if a parameter is unknown or invalid, or neither parameter nor namespace names the agent.
    """

    def __init__(self, name: str, table: type[Table], build: Callable[[], Pipeline]) -> None:
        super().__init__(name)
        self.p: Table = declare(self, table, self._adopt)
        self.agent = self.p.agent_id or self.get_namespace().strip('/')
        if not self.agent:
            raise DiffkdError('an agent needs a name: set the parameter agent_id or a namespace')
        self.open_link(self.p.v2x_domain)
        self._build = build
        self._pipeline: Pipeline | None = None
        self._failure = ''
        self._diagnostics = DiagnosticsPublisher(self, self.agent, self._items)
        threshold = JumpThreshold(min_forward=None, min_backward=_BACKWARD, on_clock_change=False)
        self._jumps = self.get_clock().create_jump_callback(threshold, post_callback=self._on_jump)

    def start(self) -> None:
        """Configure and activate, unless `autostart` is off.

        Raises:
            DiffkdError: if that fails.
        """
        if not self.p.autostart:
            self.get_logger().info('ready to be configured: autostart is off')
            return
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            raise DiffkdError(self._failure)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create publishers."""
        try:
            self._pipeline = self._build()
        except DiffkdError as error:
            self._free()
            self._failure = str(error)
            if not self.p.autostart:
                self.get_logger().error(f'cannot be configured: {error}')
            return FAILURE
        except Exception:
            self._log_exception()
            raise
        self._pipeline.worker.start()
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe."""
        assert self._pipeline is not None
        result = super().on_activate(state)
        try:
            self._pipeline.activate()
        except Exception:
            self._log_exception()
            raise
        self.get_logger().info(f'ready: {self._pipeline.summary}')
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the sweep being processed and discard stored input."""
        assert self._pipeline is not None
        self._pipeline.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the publishers."""
        self._free()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything and end the process."""
        self._free()
        self.done.set_result(None)
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured."""
        self._free()
        return SUCCESS

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:  # noqa: N802
        """Refuse an invalid transition; in Jazzy rclpy lets it end the process."""
        try:
            return super()._LifecycleNodeMixin__change_state(transition_id)  # type: ignore[misc]
        except rclpy_implementation.RCLError as error:
            self.get_logger().error(f'transition {transition_id} refused: {error}')
            return TransitionCallbackReturn.ERROR

    def _adopt(self, p: Table) -> None:
        self.p = p

    def create_lifecycle_publisher(
        self, msg_type: Any, topic: str, qos_profile: QoSProfile | int, **options: Any
    ) -> LifecyclePublisher:
        """As of rclpy; the parameters `qos_overrides.TOPIC.publisher.*` override the profile."""
        options['qos_overriding_options'] = qos.overriding_options(self, 'publisher', topic)
        return super().create_lifecycle_publisher(msg_type, topic, copy(qos_profile), **options)

    def create_link_publisher(self, msg_type: Any, topic: str, qos_profile: QoSProfile) -> LifecyclePublisher:
        """A lifecycle publisher on the V2X link."""
        options: dict[str, Any] = {'publisher_class': LifecyclePublisher}
        publisher: Any = self.link.create_publisher(msg_type, topic, qos_profile, **options)
        self.add_managed_entity(publisher)
        return publisher

    def _log_exception(self) -> None:
        """Log the exception that a transition raised; rclpy does not."""
        self._failure = traceback.format_exc()
        self.get_logger().error(self._failure)

    def _free(self) -> None:
        if self._pipeline is not None:
            self._pipeline.deactivate()
            self._pipeline.worker.stop()
            self._pipeline = None
        for node in self.nodes:
            for publisher in [each for each in node.publishers if isinstance(each, LifecyclePublisher)]:
                self._managed_entities.discard(publisher)
                node.destroy_publisher(publisher)

    def _on_jump(self, jump: TimeJump) -> None:
        now = self.get_clock().now().nanoseconds
        self.get_logger().warning(f'time jumped back by {-jump.delta.nanoseconds * 1e-9:.1f} s')
        if self._pipeline is not None:
            self._pipeline.forget_after(now)

    def _items(self) -> list[Item]:
        pipeline = self._pipeline
        if pipeline is None:
            level, state = WARN, 'unconfigured'
        else:
            level, state = (OK, 'active') if pipeline.active else (WARN, 'inactive')
        # Simulated time is zero until the first message on /clock.
        if self.get_parameter('use_sim_time').value and not self.get_clock().now().nanoseconds:
            level, state = WARN, f'{state}; use_sim_time is set, but no message on /clock was received'
        return [Item('state', level, state), *(pipeline.items() if pipeline is not None else ())]

    def close(self) -> None:
        """Stop the inference thread."""
        if self._pipeline is not None:
            self._pipeline.worker.stop(timeout=1.0)
