# SPDX-License-Identifier: Apache-2.0
"""`diffkd demo`: vehicles as processes that cooperate over DDS; writes figures and pictures."""

from diffkd_ros.demo.run import DemoOptions, run_demo
from diffkd_ros.demo.set_up import DemoError

__all__ = ['DemoError', 'DemoOptions', 'run_demo']
