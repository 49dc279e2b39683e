# SPDX-License-Identifier: Apache-2.0
"""A subscription that adapts its reliability to the publisher's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription

from diffkd_ros.nodes.base import qos

RELIABILITIES = ('auto', *qos.RELIABILITIES)


class InputSubscription:
    """Subscribes to a topic whose publishers may be reliable or best effort.

    With `auto` it requests reliable delivery, and best effort once a publisher offers only that: a reliable
    subscriber gets nothing from a best-effort publisher, and a best-effort subscriber loses large clouds that
    a reliable publisher would retransmit.

    Args:
        node: that subscribes.
        message_class: of the topic.
        topic: relative name.
        depth: of the queue, messages.
        reliability: one of `RELIABILITIES`.
        callback: called in the executor's thread.
        raw: whether the callback gets serialised messages.

    Attributes:
        incompatible: whether a publisher has an incompatible quality of service, so that nothing arrives.
    """

    def __init__(
        self,
        node: Node,
        message_class: type,
        topic: str,
        depth: int,
        reliability: str,
        callback: Callable[..., None],
        *,
        raw: bool = False,
    ) -> None:
        self._node, self._message_class, self._name, self._depth = node, message_class, topic, depth
        self._callback, self._raw = callback, raw
        self._automatic = reliability == 'auto'
        self.incompatible = False
        self._subscription = self._subscribe('reliable' if self._automatic else reliability)

    def _subscribe(self, reliability: str) -> Subscription:
        return self._node.create_subscription(
            self._message_class,
            self._name,
            self._callback,
            qos.link(reliability, self._depth, 0.0),
            event_callbacks=qos.SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible),
            raw=self._raw,
        )

    def _on_incompatible(self, event: Any) -> None:
        if self._automatic:
            self._automatic = False
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe('best_effort')
            # Not if the parameters override the reliability of this topic.
            if self.best_effort:
                self._node.get_logger().warning(
                    f'a publisher of {self.topic} offers best effort only: subscribing best effort'
                )
        else:
            self.incompatible = True
            self._node.get_logger().warning(
                f'a publisher of {self.topic} offers an incompatible quality of service '
                f'(policy {event.last_policy_kind}): its messages will not arrive'
            )

    @property
    def best_effort(self) -> bool:
        """Whether the subscription is best effort."""
        return self._subscription.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT

    @property
    def topic(self) -> str:
        """Full name of the topic, after remapping."""
        return self._subscription.topic_name

    def publishers(self) -> int:
        """Number of publishers of the topic."""
        return self._node.count_publishers(self.topic)

    def destroy(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)
