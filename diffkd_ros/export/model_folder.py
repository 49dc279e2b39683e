# SPDX-License-Identifier: Apache-2.0
"""Write a model folder: both graphs and the card that vouches for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from diffkd_ros.export.graphs import export_graphs
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import CARD, EGO, ENCODER, ModelCard, sha256

MAX_AGENTS = 5


def write_model_folder(
    student: Student,
    folder: Path,
    description: str,
    min_score: float,
    training: dict[str, Any],
    results: dict[str, Any],
) -> ModelCard:
    """Export a student into `folder`, whose name becomes the model's.

    Args:
        student: trained, on the CPU.
        folder: created if need be; its files are overwritten.
        description: what it is and what it was trained on.
        min_score: detections below it are dropped.
        training: recipe, seeds, time, machine, for the card.
        results: measured figures and the command that made them, for the card.

    Returns:
        The card as read back, files verified.
    """
    folder.mkdir(parents=True, exist_ok=True)
    export_graphs(student, folder / ENCODER, folder / EGO, MAX_AGENTS)
    config = student.config
    x_min, y_min, z_min, x_max, y_max, z_max = config.grid_range
    card = {
        'card_format': 1,
        'name': folder.name,
        'description': description,
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
        'min_score': min_score,
        'nms_iou': 0.15,
        'max_boxes': 100,
        'files': {name: sha256(folder / name) for name in (ENCODER, EGO)},
        'training': training,
        'results': results,
    }
    (folder / CARD).write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=100))
    return ModelCard.load(folder)
