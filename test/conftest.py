# SPDX-License-Identifier: Apache-2.0
"""What several rooms' tests need."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffkd_ros.share import share_directory


@pytest.fixture(scope='session')
def model() -> Path:
    """The shipped model's folder."""
    return share_directory() / 'models' / 'sim_edge'
