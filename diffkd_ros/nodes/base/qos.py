# SPDX-License-Identifier: Apache-2.0
"""Quality of service of each kind of topic.

The default is reliable: with the defaults of Fast DDS, best-effort messages larger than about 0.5 MB, as most
sweeps are, get lost without notice. A reliable keep-last queue overwrites old messages instead of blocking.

As in other ROS nodes, the parameters `qos_overrides.TOPIC.publisher.POLICY` and
`qos_overrides.TOPIC.subscription.POLICY` override a profile; TOPIC is the full name after remapping, POLICY
is history, depth or reliability.
"""

from __future__ import annotations

import re
from copy import copy

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions, _declare_qos_parameters
from rclpy.subscription import Subscription

from diffkd_ros.runtime.link.packing import MOST_CHUNKS

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

__all__ = ['SubscriptionEventCallbacks']

RELIABILITIES = ('reliable', 'best_effort')
HISTORIES = ('keep_last', 'keep_all')
OVERRIDES = 'qos_overrides.'
_POLICIES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
_OVERRIDE = re.compile(r'qos_overrides\.(/[\w/]+)\.(publisher|subscription)\.(history|depth|reliability)')


def _reliable(depth: int) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.RELIABLE)


# Only the newest sweep is used.
POINTS = _reliable(1)
# A receiver takes every sweep that arrived while its thread was busy, so that those not used are counted.
POINTS_RECEIVED = 10
# In lock-step every sweep is used: the previous one may still be in retransmission to a recorder.
POINTS_IN_LOCKSTEP = _reliable(10)
ODOMETRY = _reliable(50)
RESULTS = _reliable(10)
# Constant messages, delivered to late subscribers too.
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

# Largest message that is delivered with best effort too, see above.
MAX_BEST_EFFORT_BYTES = 400_000


def link(reliability: str, depth: int, lifespan: float) -> QoSProfile:
    """Profile of a topic of the V2X link.

    Args:
        reliability: one of `RELIABILITIES`.
        depth: of the queue, messages.
        lifespan: seconds after which an undelivered message is dropped; 0: never.
    """
    profile = _reliable(depth)
    if reliability == 'best_effort':
        profile.reliability = ReliabilityPolicy.BEST_EFFORT
    if lifespan > 0:
        profile.lifespan = Duration(nanoseconds=round(lifespan * 1e9))
    return profile


def features(reliability: str, depth: int, lifespan: float) -> QoSProfile:
    """Profile of whole maps on the V2X link, with `auto` reliable: a map that lacks a fragment is lost.

    Args:
        reliability: one of `RELIABILITIES`, or `auto`.
        depth: of the queue, sweeps of all senders together: they share the topic, which has no keys.
        lifespan: see `link`.
    """
    return link('reliable' if reliability == 'auto' else reliability, depth, lifespan)


def chunks(reliability: str, depth: int, lifespan: float) -> QoSProfile:
    """Profile of chunks on the V2X link, with `auto` best effort; arguments as of `features`.

    A chunk is one packet, and each is used without the others. Were they reliable, those that follow a lost
    one would wait until it has been sent again, and the sender would exceed its bandwidth. The queue holds
    all chunks of its sweeps, whatever the bandwidth.
    """
    reliability = 'best_effort' if reliability == 'auto' else reliability
    return link(reliability, MOST_CHUNKS * depth, lifespan)


FEATURES = features('auto', 10, 0.0)
# Receives what any sender offers.
CHUNKS = chunks('auto', 10, 0.0)


def loses_large_best_effort() -> bool:
    """Whether the middleware in use loses large best-effort messages with its default configuration."""
    return 'fastrtps' in rclpy.get_rmw_implementation_identifier()


def overriding_options(node: Node, kind: str, topic: str) -> QoSOverridingOptions:
    """The policies of a topic that the node's parameters override.

    Args:
        node: owner of the publisher or subscription.
        kind: 'publisher' or 'subscription'.
        topic: relative name.
    """
    # rclpy creates the publisher of /parameter_events before it reads the parameters.
    given = getattr(node, '_parameter_overrides', {})
    prefix = f'{OVERRIDES}{node.resolve_topic_name(topic)}.{kind}.'
    return QoSOverridingOptions([p for p in _POLICIES if f'{prefix}{p.name.lower()}' in given])


def overridden(
    node: Node, kind: type[Publisher] | type[Subscription], topic: str, profile: QoSProfile | int
) -> tuple[str, QoSProfile | int]:
    """Name and profile that a topic of another node gets from the remappings and parameters of a node.

    Args:
        node: that has the parameters, and declares those it uses.
        kind: class of the publisher or subscription.
        topic: relative name.
        profile: without overrides.
    """
    name, profile = node.resolve_topic_name(topic), copy(profile)
    options = overriding_options(node, kind.__name__.lower(), topic)
    if options.policy_kinds and isinstance(profile, QoSProfile):
        _declare_qos_parameters(kind, node, name, profile, options)
    return name, profile


def override_error(name: str, value: object) -> str:
    """Why a parameter `qos_overrides.*` is invalid; empty if it is valid."""
    match = _OVERRIDE.fullmatch(name)
    if match is None:
        return (
            f'parameter {name} is not of the form qos_overrides./TOPIC.publisher.POLICY or '
            'qos_overrides./TOPIC.subscription.POLICY with POLICY history, depth or reliability'
        )
    if match[3] == 'depth':
        if type(value) is int and value > 0:
            return ''
        return f'parameter {name} must be an int of 1 or more, got {value!r}'
    choices = HISTORIES if match[3] == 'history' else RELIABILITIES
    return '' if value in choices else f'parameter {name} must be one of {", ".join(choices)}, got {value!r}'


def warn_of_unused_overrides(node: Node) -> None:
    """Log a warning for each override whose topic the node does not have."""
    for name in node._parameter_overrides:
        if name.startswith(OVERRIDES) and not node.has_parameter(name):
            node.get_logger().warning(f'{name} has no effect so far: the node has no such topic')
