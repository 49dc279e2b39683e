# SPDX-License-Identifier: Apache-2.0
"""Subscriptions that adapt to the publisher's reliability, and taking all that waits in their queues."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from diffkd_ros.nodes.base import qos

RELIABILITIES = ('auto', *qos.RELIABILITIES)

# Of `take_rest`, seconds and messages.
_QUIET = 0.2
_LONGEST_REST = 2.0
_TAKEN_AT_ONCE = 100
# Seconds in which nothing is taken while there are too many messages.
_FLOOD_PAUSE = 0.005


def take_waiting(subscription: Subscription, most: int) -> Iterator[tuple[Any, Any]]:
    """Take messages that wait in a subscription's queue, and their `MessageInfo`, without the executor.

    Args:
        subscription: of a node whose executor calls this function, or has ended.
        most: stop after so many.
    """
    for _ in range(most):
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        if taken is None:
            return
        yield taken


def subscribe_to_all(
    node: Node,
    message_class: type,
    topic: str,
    callback: Callable[..., object],
    profile: QoSProfile,
    *,
    raw: bool = False,
) -> Subscription:
    """Subscribe to a topic on which many small messages arrive at once, such as the chunks of a sweep.

    An executor takes one message of each subscription in a turn. This one passes on all that wait, so that a
    message of another topic that arrives after them is not handled before them.

    Args:
        node: that subscribes.
        message_class: of the topic.
        topic: relative name.
        callback: called in the executor's thread with each message and, if it takes two arguments, its
            `MessageInfo`. If it returns False there are too many: the rest stays in the queue, where newer
            messages replace them at less cost, until a pause of some milliseconds is over.
        profile: quality of service.
        raw: whether the callback gets serialised messages.
    """
    call = _with_info(callback)

    def pass_on(message: Any, info: Any) -> None:
        results = (
            call(*each) for each in chain([(message, info)], take_waiting(subscription, profile.depth))
        )
        if any(result is False for result in results):
            time.sleep(_FLOOD_PAUSE)

    subscription = node.create_subscription(message_class, topic, pass_on, profile, raw=raw)
    return subscription


def take_rest(subscriptions: Iterable[Subscription]) -> None:
    """Pass on what was published before this call, once the executor has ended.

    A message may still wait in a queue, or be on its way on a busy machine: returns when none of them has
    arrived for `_QUIET` seconds, after `_LONGEST_REST` seconds in any case.
    """
    ended, begun = time.time_ns(), time.monotonic()
    subscriptions, last = list(subscriptions), begun
    while time.monotonic() < min(last + _QUIET, begun + _LONGEST_REST):
        for subscription in subscriptions:
            for message, info in take_waiting(subscription, _TAKEN_AT_ONCE):
                if int(info['source_timestamp']) <= ended:
                    last = time.monotonic()
                    _with_info(subscription.callback)(message, info)
        time.sleep(0.01)


def _with_info(callback: Callable[..., object]) -> Callable[[Any, Any], object]:
    """A subscription's callback, called as an executor does, with or without the `MessageInfo`."""
    if len(inspect.signature(callback).parameters) > 1:
        return callback
    return lambda message, _: callback(message)


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

    def waiting(self) -> Iterator[Any]:
        """Take the messages that wait in the queue; for the callback, in the executor's thread."""
        return (message for message, _ in take_waiting(self._subscription, self._depth))

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
