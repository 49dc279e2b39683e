# SPDX-License-Identifier: Apache-2.0
"""The stages of a training by their names in recipes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.link_stages import LinkStage, RankStage
from diffkd_ros.training.stages import DiffuserStage, Freeze, JointStage, StudentStage, Target, TeacherStage

STAGES: dict[str, Callable[[Teacher, Student, Target, Freeze], nn.Module]] = {
    'teacher': TeacherStage,
    'student': StudentStage,
    'diffuser': DiffuserStage,
    'joint': JointStage,
    'link': LinkStage,
    'rank': RankStage,
}
