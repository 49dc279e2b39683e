# SPDX-License-Identifier: Apache-2.0
"""Diff-KD for ROS 2: cooperative perception that keeps working when sensors and links fail.

``diffkd_ros.msg`` is generated from ``msg/`` when the package is built.
"""

from pkgutil import extend_path

# Lets the generated ``diffkd_ros.msg`` be found beside a source checkout that shadows the installed package.
__path__ = extend_path(__path__, __name__)

__version__ = '0.1.0'
