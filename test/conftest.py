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


@pytest.fixture(scope='session')
def linked_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model of `linked_student`."""
    # Most tests need no torch, and the export takes long.
    pytest.importorskip('torch', reason='the model is exported by the test')
    from linked_student import linked_student

    from diffkd_ros.export.model_folder import write_model_folder
    from diffkd_ros.runtime.decoding import Decoding

    folder = tmp_path_factory.mktemp('models') / 'linked'
    write_model_folder(linked_student(), folder, 'Untrained, for a test.', Decoding(0.1, 0.15, 100), {}, {})
    return folder
