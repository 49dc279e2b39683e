# SPDX-License-Identifier: Apache-2.0
"""What vehicle and ego have in common: the model, and a sweep encoded with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.node import Node

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.nodes.entry import SetupError
from diffkd_ros.nodes.model_folder import model_folder
from diffkd_ros.nodes.parameters import parameter
from diffkd_ros.nodes.stage_timer import StageTimer
from diffkd_ros.nodes.sweep_input import Sweep, SweepInput
from diffkd_ros.runtime.card import ModelCard, ModelError
from diffkd_ros.runtime.encoder import CloudError, FeatureEncoder
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.share import ShareNotFoundError


@dataclass(frozen=True)
class EncodingParameters:
    """Parameters of every node that runs the encoder."""

    model: str = parameter('sim_edge', 'Model folder, or the name of a shipped model.')
    agent_id: str = parameter('', 'Name of this vehicle on the V2X link; empty: the namespace.')
    pose_tolerance: float = parameter(
        0.02, 'Largest difference between the stamps of cloud and odometry, s.', minimum=0.0, maximum=1.0
    )
    threads: int = parameter(1, 'CPU threads of the inference.', minimum=1, maximum=64)
    device: str = parameter('cpu', 'Where the inference runs.', choices=('cpu', 'cuda', 'tensorrt'))


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
) -> tuple[BevFeature, Matrix, Odometry]:
    """A sweep's feature, its pose map <- LiDAR and the odometry that gave it.

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
    # Looked up only now: the odometry may arrive a little after its cloud.
    return feature, *source.pose(sweep)
