# SPDX-License-Identifier: Apache-2.0
"""The V2X link in a DDS domain of its own, apart from the vehicle's.

Anybody in a DDS domain can call the services of its nodes, set their parameters and publish on their topics.
In the link's domain a node has only its publishers and subscriptions of the link.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from diffkd_ros.errors import DiffkdError
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.base.parameters import parameter


@dataclass(frozen=True)
class LinkParameters:
    """Parameters of every node that uses the V2X link."""

    v2x_domain: int = parameter(
        -1,
        "DDS domain of the V2X link, equal for all agents and different from the node's own, best 1 to 100; "
        "-1: the node's own.",
        minimum=-1,
        maximum=232,
    )


class LinkNode(Node):
    """A node in another DDS domain that has topics only: no services, no logs, no time and no parameters.

    Names of topics are resolved, and qualities of service overridden, by the remappings and parameters of its
    owner.

    Args:
        owner: of the V2X topics, in the vehicle's domain.
        domain: of the link.

    Raises:
        DiffkdError: if the domain is the owner's, or cannot be joined.
    """

    def __init__(self, owner: Node, domain: int) -> None:
        if domain == owner.context.get_domain_id():
            raise DiffkdError(
                f"v2x_domain {domain} is the node's own domain: choose another one, or -1 to share it"
            )
        self._owner = owner
        context = Context()
        # Without time and type descriptions: a subscription of /clock would let anybody set the time.
        off = [Parameter(n, value=False) for n in ('use_sim_time', 'start_type_description_service')]
        try:
            # The command line has the enclave of SROS 2; the owner has renamed and remapped already.
            context.init(domain_id=domain, initialize_logging=False)
            super().__init__(
                owner.get_name(),
                namespace=owner.get_namespace(),
                context=context,
                use_global_arguments=False,
                enable_rosout=False,
                start_parameter_services=False,
                parameter_overrides=off,
            )
        except RuntimeError as error:
            raise DiffkdError(f'cannot join the DDS domain {domain} of the V2X link: {error}') from error
        # Of /parameter_events, which no option leaves out.
        for publisher in list(self.publishers):
            self.destroy_publisher(publisher)

    def create_publisher(
        self, msg_type: Any, topic: str, qos_profile: QoSProfile | int, **options: Any
    ) -> Publisher:
        """As of the owner, in this domain."""
        name, profile = qos.overridden(self._owner, Publisher, topic, qos_profile)
        return super().create_publisher(msg_type, name, profile, **options)

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[..., None],
        qos_profile: QoSProfile | int,
        **options: Any,
    ) -> Subscription:
        """As of the owner, in this domain."""
        name, profile = qos.overridden(self._owner, Subscription, topic, qos_profile)
        return super().create_subscription(msg_type, name, callback, profile, **options)

    def destroy_node(self) -> None:
        """Leave the domain."""
        super().destroy_node()
        self.context.try_shutdown()


class LinkFirstExecutor(SingleThreadedExecutor):
    """Runs a node and its `LinkNode`, in each turn the latter first.

    A wait set takes entities of several contexts, so one thread runs both nodes as it would run one. What
    neighbours sent is taken before the sweep that it is for; rclpy itself has no order of nodes.
    """

    def get_nodes(self) -> list[Node]:
        """The nodes, in the order of a turn."""
        return sorted(super().get_nodes(), key=lambda node: not isinstance(node, LinkNode))
