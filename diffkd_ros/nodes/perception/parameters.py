# SPDX-License-Identifier: Apache-2.0
"""Parameters of every node that runs the encoder."""

from __future__ import annotations

from dataclasses import dataclass

from diffkd_ros.messages.clouds import INTENSITY_SCALES
from diffkd_ros.nodes.base.link_node import LinkParameters
from diffkd_ros.nodes.base.parameters import parameter
from diffkd_ros.nodes.base.subscription import RELIABILITIES
from diffkd_ros.nodes.input.pose_parameters import PoseParameters


@dataclass(frozen=True)
class EncodingParameters(LinkParameters, PoseParameters):
    """Parameters that `vehicle_node` and `ego_node` share."""

    model: str = parameter('sim_edge', 'Model folder, or the name of a shipped model.')
    device: str = parameter('cpu', 'Device that runs the inference.', choices=('cpu', 'cuda', 'tensorrt'))
    threads: int = parameter(1, 'CPU threads of the inference; the encoder uses one.', minimum=1, maximum=64)
    agent_id: str = parameter('', 'Name of this agent on the V2X link; empty: the namespace.')
    autostart: bool = parameter(
        True, 'Configure and activate at start; false: wait for the lifecycle transitions.'
    )
    intensity_scale: str = parameter(
        'auto',
        'Range of the intensities in the clouds; auto: 0..255 for integer fields, by the values for float '
        'fields; ignore: all are set to 0.',
        choices=INTENSITY_SCALES,
    )
    v2x_reliability: str = parameter(
        'auto',
        'Reliability of the V2X link, equal for all agents; auto: whole maps reliable, chunks best effort.',
        choices=RELIABILITIES,
    )
    v2x_depth: int = parameter(
        10, 'Queue depth of the V2X link, in sweeps of all senders together.', minimum=1, maximum=100
    )
    v2x_lifespan: float = parameter(
        0.0,
        'Messages not delivered within this time are dropped, s; 0: never. Needs synchronised clocks.',
        minimum=0.0,
        maximum=10.0,
    )
    max_latency: float = parameter(
        0.2,
        'Latency budget from the publication of the cloud to the result, s; an overrun is a warning in '
        'diagnostics.',
        minimum=0.001,
        maximum=10.0,
    )
    max_overrun: float = parameter(
        1.0,
        'Results that stay over the budget continuously for longer than this are an error in diagnostics, s.',
        minimum=0.0,
        maximum=60.0,
    )
