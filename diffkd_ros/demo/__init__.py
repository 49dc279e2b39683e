# SPDX-License-Identifier: Apache-2.0
"""`diffkd demo`: vehicles as processes that perceive together over real DDS; then figures and pictures."""

from diffkd_ros.demo.run import DemoError, DemoOptions, run_demo

__all__ = ['DemoError', 'DemoOptions', 'run_demo']
