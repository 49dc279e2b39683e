# SPDX-License-Identifier: Apache-2.0
"""Write a model folder: graphs, or weights where there can be none, and the card that vouches for them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from diffkd_ros.export.graphs import export_ego, export_encoder
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import CARD, EGO, ENCODER, FILES, STUDENT, ModelCard, ModelError, sha256
from diffkd_ros.runtime.decoding import Decoding

MAX_AGENTS = 5
CONFIG = 'model'
"""Key of the sizes in the metadata of a student's weights."""


def holds_export(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether a folder is a whole model that was written with that account of its training."""
    try:
        return ModelCard.load(folder).training == origin
    except ModelError:
        return False


def write_model_folder(
    student: Student,
    folder: Path,
    description: str,
    decoding: Decoding,
    training: dict[str, Any],
    results: dict[str, Any],
) -> ModelCard:
    """Export a student into `folder`, whose name becomes the model's.

    One with a sparse encoder, which ONNX has no operators for, is kept as weights that torch runs.

    Args:
        student: trained, on the CPU.
        folder: created if need be; its files are overwritten.
        description: what it is and what it was trained on.
        decoding: what counts as a detection.
        training: recipe, seeds, time, machine, for the card.
        results: measured figures and the command that made them, for the card.

    Returns:
        The card as read back, files verified.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = student.config
    if config.encoder == 'sparse':
        runtime = 'torch'
        save_file(student.state_dict(), folder / STUDENT, {CONFIG: json.dumps(asdict(config))})
    else:
        runtime = 'onnx'
        export_encoder(student, folder / ENCODER)
        export_ego(student, folder / EGO, MAX_AGENTS)
    x_min, y_min, z_min, x_max, y_max, z_max = config.grid_range
    card = {
        'card_format': 1,
        'name': folder.name,
        'description': description,
        'runtime': runtime,
        'grid': {
            'x_min': x_min,
            'y_min': y_min,
            'z_min': z_min,
            'x_max': x_max,
            'y_max': y_max,
            'z_max': z_max,
            'height': config.height,
            'width': config.width,
        },
        'channels': config.channels,
        'max_agents': MAX_AGENTS,
        'class_names': ['vehicle'],
        **asdict(decoding),
        'files': {name: sha256(folder / name) for name in FILES[runtime]},
        'training': training,
        'results': results,
    }
    (folder / CARD).write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=100))
    return ModelCard.load(folder)
