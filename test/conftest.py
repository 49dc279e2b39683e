# SPDX-License-Identifier: Apache-2.0
"""What several rooms' tests need."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffkd_ros.share import share_directory


@pytest.fixture(scope='session')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder: the shipped one, or an untrained one where none ships yet."""
    shipped = share_directory() / 'models' / 'sim_edge'
    if (shipped / 'card.yaml').is_file():
        return shipped
    torch = pytest.importorskip('torch')
    from diffkd_ros.export.model_folder import write_model_folder
    from diffkd_ros.model.student import Student, StudentConfig

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('models') / 'untrained'
    write_model_folder(Student(StudentConfig()).eval(), folder, 'Untrained, for tests only.', 0.1, {}, {})
    return folder
