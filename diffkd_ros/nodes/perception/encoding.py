# SPDX-License-Identifier: Apache-2.0
"""What vehicle and ego have in common: the model, and a sweep encoded with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rclpy.node import Node

from diffkd_ros.messages.lidar_pose import LidarPose
from diffkd_ros.messages.point_cloud import INTENSITY_SCALES
from diffkd_ros.nodes.base.entry import SetupError
from diffkd_ros.nodes.base.parameters import parameter
from diffkd_ros.nodes.base.qos import RELIABILITIES as LINK_RELIABILITIES
from diffkd_ros.nodes.input.pose_parameters import PoseParameters
from diffkd_ros.nodes.input.stage_timer import StageTimer
from diffkd_ros.nodes.input.sweeps import Sweep, SweepInput
from diffkd_ros.runtime.card import ModelCard, ModelError
from diffkd_ros.runtime.encoder import CloudError, FeatureEncoder
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.share import ShareNotFoundError


@dataclass(frozen=True)
class EncodingParameters(PoseParameters):
    """Parameters of every node that runs the encoder."""

    model: str = parameter('sim_edge', 'Model folder, or the name of a shipped model.')
    device: str = parameter('cpu', 'Where the inference runs.', choices=('cpu', 'cuda', 'tensorrt'))
    threads: int = parameter(1, 'CPU threads of the inference.', minimum=1, maximum=64)
    agent_id: str = parameter('', 'Name of this vehicle on the V2X link; empty: the namespace.')
    autostart: bool = parameter(
        True, 'Configure and activate at start; false: wait for the lifecycle transitions.'
    )
    intensity_scale: str = parameter(
        'auto',
        "How the clouds' intensities count; auto: integer fields 0..255, float fields by what is in them.",
        choices=INTENSITY_SCALES,
    )
    v2x_reliability: str = parameter(
        'reliable', 'Reliability of the V2X link; the same on all vehicles.', choices=LINK_RELIABILITIES
    )
    v2x_depth: int = parameter(
        10, 'Messages kept on the V2X link, of all senders together.', minimum=1, maximum=100
    )
    v2x_lifespan: float = parameter(
        0.0,
        'Messages not delivered after so many s are dropped; 0: never. Needs synchronised clocks.',
        minimum=0.0,
        maximum=10.0,
    )
    max_latency: float = parameter(
        0.2,
        "Budget from the cloud's publication to the result, s: an overrun is a warning in diagnostics.",
        minimum=0.001,
        maximum=10.0,
    )
    max_overrun: float = parameter(
        1.0, 'Over budget for longer than this on end is an error, s.', minimum=0.0, maximum=60.0
    )


def agent_of(node: Node, parameters: EncodingParameters) -> str:
    """The vehicle's name on the V2X link.

    Raises:
        SetupError: if neither parameter nor namespace gives one.
    """
    name = parameters.agent_id or node.get_namespace().strip('/')
    if not name:
        raise SetupError('a vehicle needs a name: set the parameter agent_id or a namespace')
    return name


def load_card(name: str) -> ModelCard:
    """The card of a model given by folder or shipped name, its files checked.

    Raises:
        SetupError: if there is no such model or its folder does not match its card.
    """
    try:
        return ModelCard.load(model_folder(name))
    except (ShareNotFoundError, ModelError) as error:
        raise SetupError(str(error)) from error


def load_encoder(card: ModelCard, parameters: EncodingParameters) -> FeatureEncoder:
    """The encoder, ready to run.

    Raises:
        SetupError: if the device is not available.
    """
    try:
        encoder = FeatureEncoder(card, threads=parameters.threads, device=parameters.device)
    except ModelError as error:
        raise SetupError(str(error)) from error
    # A first run allocates; that must not be a real sweep. One point in the middle of the grid will do.
    grid = card.grid
    middle = np.add(grid.range[:3], grid.range[3:]) / 2
    encoder.encode(np.array([[*middle, 0.5]], np.float32))
    return encoder


def encode_sweep(
    sweep: Sweep, source: SweepInput, encoder: FeatureEncoder, timer: StageTimer
) -> tuple[BevFeature, LidarPose]:
    """A sweep's feature and the LiDAR's pose.

    Raises:
        RefusedSweepError: if cloud or pose cannot be used; already counted.
    """
    points = source.read(sweep).points
    timer.mark('cloud')
    try:
        feature = encoder.encode(points)
    except CloudError as error:
        raise source.refuse('cloud', error) from error
    timer.mark('encode')
    # Looked up only now: the pose may arrive a little after its cloud.
    pose = source.pose(sweep)
    timer.mark('pose')
    return feature, pose
