# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of several packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from diffkd_ros.runtime.card import CARD, EGO, ENCODER
from diffkd_ros.share import share_directory


@pytest.fixture(scope='session')
def shipped_model() -> Path:
    """Folder of the shipped model."""
    return share_directory() / 'models' / 'sim_edge'


@pytest.fixture(scope='session')
def model(shipped_model: Path) -> Path:
    """Folder of the model that a test uses: the shipped one, except in packages with another."""
    return shipped_model


@pytest.fixture(scope='session')
def whole_map_model(shipped_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the shipped model without its layered message: it shares whole maps."""
    folder = tmp_path_factory.mktemp('models') / shipped_model.name
    folder.mkdir()
    card = yaml.safe_load((shipped_model / CARD).read_text())
    card.pop('link')
    card['files'] = {name: card['files'][name] for name in (ENCODER, EGO)}
    for name in card['files']:
        shutil.copy(shipped_model / name, folder)
    (folder / CARD).write_text(yaml.safe_dump(card))
    return folder


@pytest.fixture(scope='session')
def linked_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model of `linked_student`."""
    return _exported('linked_student', tmp_path_factory)


@pytest.fixture(scope='session')
def remembering_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model of `remembering_student`."""
    return _exported('remembering_student', tmp_path_factory)


def _exported(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Most tests need no torch, and the export takes long: once for all processes of pytest-xdist.
    pytest.importorskip('torch', reason='the model is exported by the test')
    import linked_student
    from filelock import FileLock

    from diffkd_ros.export.model_folder import write_model_folder
    from diffkd_ros.runtime.decoding import Decoding

    shared = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        shared = shared.parent
    folder = shared / name / 'linked'
    with FileLock(shared / f'{name}.lock'):
        # The card is written last.
        if not (folder / CARD).exists():
            student = getattr(linked_student, name)()
            write_model_folder(student, folder, 'Untrained, for a test.', Decoding(0.1, 0.15, 100), {}, {})
    return folder
