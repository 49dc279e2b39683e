# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of several packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffkd_ros.share import share_directory


@pytest.fixture(scope='session')
def model() -> Path:
    """Folder of the shipped model."""
    return share_directory() / 'models' / 'sim_edge'
