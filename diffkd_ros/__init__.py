# SPDX-License-Identifier: Apache-2.0
"""Diff-KD for ROS 2: cooperative LiDAR perception that is robust to failing sensors and links.

``diffkd_ros.msg`` is generated from ``msg/`` when the package is built.
"""

from pkgutil import extend_path

# Makes the generated ``diffkd_ros.msg`` importable when a source checkout shadows the installed package.
__path__ = extend_path(__path__, __name__)

__version__ = '0.1.0'
