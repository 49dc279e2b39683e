# SPDX-License-Identifier: Apache-2.0
"""A subscription of sensor data that fits the publisher's reliability, or says why it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from diffkd_ros.nodes.base import qos

RELIABILITIES = ('auto', *qos.RELIABILITIES)


class InputSubscription:
    """Subscribes to a topic that drivers publish in either reliability.

    With `auto` it asks for reliable delivery, and for best effort once a publisher turns out to offer no
    more: a reliable subscriber gets nothing from such a one, and a best-effort subscriber loses large clouds
    that a reliable publisher would have sent again.

    Args:
        node: that subscribes.
        message_class: of the topic.
        topic: its name, relative.
        depth: messages kept.
        reliability: one of `RELIABILITIES`.
        callback: called in the executor's thread.
        raw: whether it gets the serialised message.

    Attributes:
        best_effort: whether it is subscribed so.
        incompatible: whether a publisher was seen of which nothing will arrive.
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
        self.best_effort = reliability == 'best_effort'
        self.incompatible = False
        self._subscription = self._subscribe()

    def _profile(self) -> QoSProfile:
        return qos.link('best_effort' if self.best_effort else 'reliable', self._depth, 0.0)

    def _subscribe(self) -> Subscription:
        return self._node.create_subscription(
            self._message_class,
            self._name,
            self._callback,
            self._profile(),
            event_callbacks=qos.SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible),
            raw=self._raw,
        )

    def _on_incompatible(self, event: Any) -> None:
        if self._automatic and not self.best_effort:
            self.best_effort = True
            self._node.get_logger().warning(
                f'a publisher of {self.topic} offers best effort only: subscribing best effort'
            )
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()
        else:
            self.incompatible = True
            self._node.get_logger().warning(
                f'a publisher of {self.topic} offers an incompatible quality of service '
                f'(policy {event.last_policy_kind}): nothing of it will arrive'
            )

    @property
    def topic(self) -> str:
        """The topic's full name, after remapping."""
        return self._subscription.topic_name

    def publishers(self) -> int:
        """How many publishers there are of the topic."""
        return self._node.count_publishers(self.topic)

    def destroy(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)
