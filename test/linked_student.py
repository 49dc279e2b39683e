# SPDX-License-Identifier: Apache-2.0
"""Small untrained students with a layered message, the same at every call."""

from __future__ import annotations

from typing import Any

import torch
from small_recipe import LINK, make_lively, small_recipe

from diffkd_ros.model.student import Student

MEMORY: dict[str, Any] = {**LINK, 'context': (*LINK['context'], 'last')}


def linked_student() -> Student:
    """In evaluation mode, with weights that make every part of its graphs matter."""
    return _student(LINK)


def remembering_student() -> Student:
    """The same with a memory, whose boxes and ego's reliability depend on changes of the maps."""
    student = _student(MEMORY, earlier=True)
    change = student.config.channels + 2  # channel of the evidence, see `AdaptiveGatedFusion`
    torch.nn.init.normal_(student.fusion.reliability[0].weight[:, change], std=5)  # type: ignore
    for layer in (student.head.heatmap, student.head.regression):
        # Small at the start of training: what is remembered would change scores by less than 0.0001.
        layer.weight.data *= 20
    student.head.heatmap.bias.data += 1  # type: ignore
    return student


def _student(model: dict[str, Any], **data: bool) -> Student:
    torch.manual_seed(0)
    student = Student(small_recipe('teacher', model=model, data=data).model).eval()
    make_lively(student)
    return student
