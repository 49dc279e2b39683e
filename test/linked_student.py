# SPDX-License-Identifier: Apache-2.0
"""A small untrained student with a layered message, the same at every call."""

from __future__ import annotations

import torch
from small_recipe import LINK, make_lively, small_recipe

from diffkd_ros.model.student import Student


def linked_student() -> Student:
    """In evaluation mode, with weights that make every part of its graphs matter."""
    torch.manual_seed(0)
    student = Student(small_recipe('teacher', model=LINK).model).eval()
    make_lively(student)
    return student
