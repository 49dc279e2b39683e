# SPDX-License-Identifier: Apache-2.0
"""Cooperative detections for OpenCDA's planner, from the ROS 2 nodes of diffkd_ros.

This folder runs in OpenCDA's own interpreter and needs Python 3.7 or newer, numpy and OpenCDA's `carla`, but
no ROS and nothing else of diffkd_ros. Put the folder that contains it on PYTHONPATH and start OpenCDA through
it:

    python -m diffkd_opencda opencda.py -t my_scenario -v 0.9.12

or call `install()` in your own script before the scenario starts. OpenCDA's code is not changed: its
perception manager is subclassed in memory.

There is one exchange per step, made when the first vehicle asks for its objects: the sweeps of all vehicles
go to the gateway in one message, and the ego's detections come back in one. Without an answer the ego gets
its last detections for a short time, and then, like all other vehicles, what OpenCDA itself provides.
"""

from .hub import Hub
from .installing import install
from .protocol import (
    DEFAULT_GATEWAY,
    POINT_BYTES,
    PROTOCOL,
    GatewayError,
    address_of,
    receive_message,
    send_message,
)

__all__ = [
    'DEFAULT_GATEWAY',
    'POINT_BYTES',
    'PROTOCOL',
    'GatewayError',
    'Hub',
    'address_of',
    'install',
    'receive_message',
    'send_message',
]
