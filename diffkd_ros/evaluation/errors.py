# SPDX-License-Identifier: Apache-2.0
"""The one exception of this room."""

from __future__ import annotations

from diffkd_ros.errors import DiffkdError


class ExperimentError(DiffkdError):
    """An evaluation that cannot be run as asked, or a folder that holds another one's results."""
