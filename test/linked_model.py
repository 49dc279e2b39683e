# SPDX-License-Identifier: Apache-2.0
"""A small, untrained model with a layered message, whose scores differ from place to place."""

from __future__ import annotations

from pathlib import Path

import torch
from small_recipe import LINK, small_recipe

from diffkd_ros.export.model_folder import write_model_folder
from diffkd_ros.model.head import CentreHead
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.decoding import Decoding


def write_linked_model(folder: Path) -> ModelCard:
    """Export it into a folder that does not exist yet."""
    torch.manual_seed(0)
    student = Student(small_recipe('teacher', model=LINK).model).eval()
    first = next(module for module in student.modules() if isinstance(module, CentreHead))
    with torch.no_grad():
        first.heatmap.weight *= 20
        for head in student.modules():
            if isinstance(head, CentreHead):
                head.load_state_dict(first.state_dict())
    return write_model_folder(student, folder, 'Untrained, for a test.', Decoding(0.1, 0.15, 100), {}, {})
