# SPDX-License-Identifier: Apache-2.0
"""`diffkd demo`: vehicles as processes that cooperate over DDS; writes figures and pictures."""

from diffkd_ros.demo.run import DemoOptions, run_demo

__all__ = ['DemoOptions', 'run_demo']
