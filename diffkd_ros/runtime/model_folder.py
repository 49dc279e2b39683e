# SPDX-License-Identifier: Apache-2.0
"""Lookup of a model by folder or by name."""

from __future__ import annotations

import os
from pathlib import Path

from diffkd_ros.documents import user_path
from diffkd_ros.runtime.card import ModelError
from diffkd_ros.share import share_directory


def portable_name(folder: Path) -> str:
    """The name by which `model_folder` finds a folder in other processes, also of other installations."""
    shipped = folder.parent == share_directory() / 'models'
    return folder.name if shipped else str(folder.absolute())


def model_folder(name: str) -> Path:
    """A model's folder: `name` itself if it is a folder, else the shipped model of that name.

    Raises:
        ModelError: if it is neither; the message lists the shipped models.
    """
    path = user_path(name)
    # Unlike `Path.is_dir`, this does not raise for names that are too long.
    if name and os.path.isdir(path):
        return path.resolve()
    models = share_directory() / 'models'
    if name and os.path.isdir(models / name):
        return models / name
    shipped = sorted(card.parent.name for card in models.glob('*/card.yaml'))
    raise ModelError(
        f'model {name!r} is neither a folder nor one of the models shipped with the package: '
        f'{", ".join(shipped) or "none"}'
    )
