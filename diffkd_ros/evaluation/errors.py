# SPDX-License-Identifier: Apache-2.0
"""The error of an evaluation."""

from __future__ import annotations

from diffkd_ros.errors import DiffkdError


class ExperimentError(DiffkdError):
    """The evaluation cannot be run as requested, or the folder holds results of another one."""
