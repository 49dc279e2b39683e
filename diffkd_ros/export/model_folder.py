# SPDX-License-Identifier: Apache-2.0
"""Write a model folder: graphs (or weights, for a model that does not export) and the model card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from diffkd_ros.export.graphs import export_ego, export_encoder, export_restore, export_sender
from diffkd_ros.files import results_folder, whole_file, write_text
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.model.restoration import Restoration
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import (
    CARD,
    EGO,
    ENCODER,
    FILES,
    LINK,
    LINK_FILES,
    RESTORE,
    SENDER,
    STUDENT,
    ModelCard,
    ModelError,
    sha256,
)
from diffkd_ros.runtime.decoding import Decoding

MAX_AGENTS = 5
# By which maps may exceed the largest value measured.
_MARGIN = 2
CONFIG = 'model'
"""Key of the student's configuration in the metadata of its weights."""


def holds_export(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether a folder is a complete model whose card has this training record."""
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
    """Export a student to `folder`, whose name becomes the model's.

    A student with a sparse encoder, for which ONNX has no operators, is written as weights for torch.

    Args:
        student: trained, on the CPU.
        folder: created if missing; its files are overwritten.
        description: of the model and its training data.
        decoding: thresholds of a detection.
        training: recipe, seeds, time and machine, for the card.
        results: measured figures and the command that produced them, for the card. From `largest_feature`,
            of the maps that were measured, follows the range within which nodes take others' maps.

    Returns:
        The card as read back, with files verified.

    Raises:
        DiffkdError: if the folder cannot be written.
    """
    results_folder(folder)
    config = student.config
    if config.encoder == 'sparse':
        runtime = 'torch'
        save_file(student.state_dict(), folder / STUDENT, {CONFIG: json.dumps(asdict(config))})
    else:
        runtime = 'onnx'
        export_encoder(student, folder / ENCODER)
        export_ego(student, folder / EGO, MAX_AGENTS)
    files = FILES[runtime]
    if config.link:
        files += LINK_FILES
        export_sender(student, folder / SENDER)
        if isinstance(student.restoration, Restoration):
            files += (RESTORE,)
            export_restore(student, folder / RESTORE, MAX_AGENTS)
        with whole_file(folder / LINK) as unfinished, unfinished.open('wb') as file:
            np.savez(file, allow_pickle=False, **_tables(student))
    card = {
        'card_format': 1,
        'name': folder.name,
        'description': description,
        'runtime': runtime,
        'grid': asdict(BevGrid(*config.grid_range, config.height, config.width)),
        'channels': config.channels,
        'max_agents': MAX_AGENTS,
        'class_names': ['vehicle'],
        **asdict(decoding),
        **({'link': True} if config.link else {}),
        **({'memory': True} if RESTORE in files and config.memory else {}),
        **({'feature_range': _MARGIN * largest} if (largest := results.get('largest_feature')) else {}),
        'files': {name: sha256(folder / name) for name in files},
        'training': training,
        'results': results,
    }
    write_text(folder / CARD, yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=100))
    return ModelCard.load(folder)


def _tables(student: Student) -> dict[str, NDArray[np.float32]]:
    """The arrays of `runtime.link.tables.LinkTables`."""
    assert student.sender is not None, 'a student with a layered message has a sender'
    codec, scale = student.sender.codec, student.restoration
    mean, deviation = scale.mean.flatten(), scale.deviation.flatten()
    vectors = {
        'coarse_vectors': codec.coarse_vectors * deviation + mean,
        'fine_vectors': codec.fine_vectors * deviation,
        'code_vectors': codec.fine_vectors,
        'code_cost': codec.costs(),
    }
    vectors['fine_vectors'][0] += mean
    # Code 0 stands for an empty tile or cell.
    vectors['coarse_vectors'][0] = 0
    vectors['fine_vectors'][0, 0] = 0
    frequencies = {'coarse_probability': codec.coarse_frequency, 'fine_probability': codec.fine_frequency}
    return {name: tensor.numpy().astype(np.float32) for name, tensor in {**vectors, **frequencies}.items()}
