# SPDX-License-Identifier: Apache-2.0
"""The table of all corruptions and their parameters.

A profile is a list of severities, counted from 1. `lab` holds the single levels of CoopDiff (arXiv
2603.01688). `graded` holds three severities after Robo3D (Kong et al., ICCV 2023); those of the held-out
sensor, of poses and of links are defined here. Poses have a fourth, to cover the range of the paper's figure;
lost packets have five.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from diffkd_ros.corruptions import lidar
from diffkd_ros.corruptions.corruption import Corruption, Hit, Parameters, Profile
from diffkd_ros.corruptions.fog import fog
from diffkd_ros.corruptions.pose import constant_offset, pose_error
from diffkd_ros.corruptions.snow import snow
from diffkd_ros.corruptions.wet_ground import wet_ground
from diffkd_ros.frame import AgentSweep
from diffkd_ros.geometry.boxes import ground_truth_in


def _sensor(function: Callable[..., AgentSweep]) -> Callable[..., AgentSweep]:
    def apply(hit: Hit, **parameters: Any) -> AgentSweep:
        return function(hit.sweep, hit.rng, **parameters)

    return apply


def _incomplete_echo(hit: Hit, **parameters: Any) -> AgentSweep:
    known = hit.frame.ground_truth is not None
    boxes = ground_truth_in(hit.frame, hit.agent).boxes if known else None
    return lidar.incomplete_echo(hit.sweep, hit.rng, boxes, **parameters)


def _constant_offset(hit: Hit, **parameters: Any) -> AgentSweep:
    return constant_offset(hit.sweep, hit.seed, **parameters)


def _levels(name: str, values: Iterable[Any], **others: Any) -> tuple[Parameters, ...]:
    return tuple({name: value, **others} for value in values)


def _blur(shared: float, own: float) -> Parameters:
    return {'shared': shared, 'each_xy': own, 'each_z': own / 2, 'intensity': 0.0}


def _layout(beams: int, lowest: float, highest: float, azimuth_step: float, max_range: float) -> Parameters:
    angles = {'lowest': lowest, 'highest': highest, 'azimuth_step': azimuth_step}
    return {'beams': beams, **angles, 'max_range': max_range}


def _film(film: float, floor: float, least_lost: float) -> Parameters:
    return {'film': film, 'floor': floor, 'floor_noise': 0.1, 'least_lost': least_lost}


_POSE_LEVELS = (0.2, 0.4, 0.6, 0.8)


def _pose(unit: float, **others: Any) -> dict[Profile, tuple[Parameters, ...]]:
    """Levels with the same number for position, in metres, and heading, in multiples of `unit` radians."""
    return {'graded': tuple({'position': s, 'heading': s * unit, **others} for s in _POSE_LEVELS)}


_DEGREE = float(np.radians(1.0))

CATALOGUE = (
    Corruption(
        'beam_missing', 'lidar', 'paper', 'whole rings are lost at random',
        {'lab': _levels('share', [0.5]), 'graded': _levels('share', [0.25, 0.5, 0.75])},
        _sensor(lidar.beam_missing),
    ),
    Corruption(
        'motion_blur', 'lidar', 'paper', 'returns are displaced by Gaussian noise',
        {
            'lab': ({'shared': 0.0, 'each_xy': 0.2, 'each_z': 0.2, 'intensity': 0.2},),
            'graded': (_blur(0.2, 0.02), _blur(0.25, 0.025), _blur(0.3, 0.03)),
        },
        _sensor(lidar.motion_blur),
    ),
    Corruption(
        'fog', 'lidar', 'paper', 'returns are attenuated; beyond a range the fog itself is measured',
        {
            'lab': ({'alpha': 0.02, 'beta': 0.008},),
            'graded': _levels('beta', [0.008, 0.05, 0.2], alpha=0.02),
        },
        _sensor(fog),
    ),
    Corruption(
        'crosstalk', 'lidar', 'paper', 'a few returns are scattered over metres',
        {
            'lab': _levels('share', [0.01], spread=3.0),
            'graded': _levels('share', [0.006, 0.008, 0.01], spread=3.0),
        },
        _sensor(lidar.crosstalk),
    ),
    Corruption(
        'electromagnetic_interference', 'lidar', 'paper',
        'evenly spaced rings are lost, and every second return of the others',
        {'lab': _levels('share', [0.5]), 'graded': _levels('share', [0.25, 0.5, 0.75])},
        _sensor(lidar.electromagnetic_interference),
    ),
    Corruption(
        'wet_ground', 'lidar', 'paper', "the road's returns are dimmed by a film of water, far ones lost",
        {
            'lab': (_film(0.0015, 0.25, 0.01),),
            # The thinnest film only attenuates: on a smooth road no return is lost.
            'graded': (_film(0.0002, 0.3, 0.0), _film(0.001, 0.3, 0.01), _film(0.0012, 0.7, 0.01)),
        },
        _sensor(wet_ground),
    ),
    Corruption(
        'incomplete_echo', 'lidar', 'paper', 'returns above the sensor, or on objects, are lost',
        {
            'lab': _levels('share', [0.9], reading='above_sensor', margin=0.1),
            'graded': _levels('share', [0.75, 0.85, 0.95], reading='inside_objects', margin=0.1),
        },
        _incomplete_echo,
    ),
    Corruption(
        'snow', 'lidar', 'held_out', 'flakes near the sensor are measured instead of the targets behind them',
        {'graded': ({'rate': 0.5, 'speed': 2.0}, {'rate': 1.0, 'speed': 1.6}, {'rate': 2.5, 'speed': 1.6})},
        _sensor(snow),
    ),
    Corruption(
        'cross_sensor', 'lidar', 'held_out',
        'a sensor with fewer beams, another field of view and a shorter range',
        {
            'graded': (
                _layout(32, -16.0, 15.0, 0.4, 80.0),
                _layout(16, -15.0, 15.0, 0.4, 60.0),
                _layout(8, -17.0, 3.0, 0.6, 50.0),
            )
        },
        _sensor(lidar.cross_sensor),
    ),
    Corruption(
        'pose_gaussian', 'pose', 'extra', 'Gaussian error of position (m) and heading (degrees)',
        _pose(_DEGREE, distribution='gaussian'), _sensor(pose_error), 'neighbours',
    ),
    Corruption(
        'pose_laplace', 'pose', 'extra', 'Laplace error of position (m) and heading (degrees)',
        _pose(_DEGREE, distribution='laplace'), _sensor(pose_error), 'neighbours',
    ),
    Corruption(
        'pose_gaussian_radians', 'pose', 'extra', 'the same numbers with the heading in radians',
        _pose(1.0, distribution='gaussian'), _sensor(pose_error), 'neighbours',
    ),
    Corruption(
        'pose_constant_offset', 'pose', 'extra', 'one offset for all agents, frames and scenarios',
        _pose(_DEGREE), _constant_offset, 'neighbours',
    ),
    Corruption(
        'tile_loss', 'link', 'extra', 'tiles of the feature map are lost',
        {'graded': _levels('tile_loss', [0.1, 0.3, 0.5], tile=8)}, None, 'neighbours',
    ),
    Corruption(
        'chunk_loss', 'link', 'extra', 'packets of layered messages are lost independently',
        {'graded': _levels('chunk_loss', [0.1, 0.3, 0.5, 0.7, 0.9])}, None, 'neighbours',
    ),
    Corruption(
        'chunk_burst', 'link', 'extra', 'packets of layered messages are lost in bursts',
        # Shorter bursts cannot make up nine tenths.
        {'graded': _levels('chunk_burst', [0.1, 0.3, 0.5, 0.7, 0.9], burst_length=10.0)}, None, 'neighbours',
    ),
    Corruption(
        'message_loss', 'link', 'extra', 'messages are lost independently',
        {'graded': _levels('message_loss', [0.1, 0.3, 0.5])}, None, 'neighbours',
    ),
    Corruption(
        'burst_loss', 'link', 'extra', 'messages are lost in bursts',
        {'graded': _levels('burst_loss', [0.1, 0.3, 0.5], burst_length=5.0)}, None, 'neighbours',
    ),
    Corruption(
        'delay', 'link', 'extra', 'messages arrive late, some out of order',
        {
            'graded': (
                {'delay': 0.1, 'jitter': 0.02},
                {'delay': 0.2, 'jitter': 0.04},
                {'delay': 0.4, 'jitter': 0.08},
            )
        },
        None, 'neighbours',
    ),
    Corruption(
        'quantisation', 'link', 'extra', 'features are quantised to few bits',
        {'graded': _levels('bits', [8, 6, 4])}, None, 'neighbours',
    ),
    Corruption(
        'bandwidth', 'link', 'extra', 'only the strongest cells that fit the bandwidth are sent',
        {'graded': _levels('bandwidth', [10.0, 5.0, 2.0], period=0.1)}, None, 'neighbours',
    ),
)  # fmt: skip
