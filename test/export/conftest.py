# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from linked_student import linked_student
from small_recipe import LINK, ONE_FRAME, first_batch, small_recipe
from torch_threads import one_thread  # noqa: F401 - a fixture that every test here takes

from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.training.data import Batch
from diffkd_ros.training.link import Sending, Sent


@pytest.fixture(scope='module')
def batch() -> Batch:
    """One frame of three agents."""
    return first_batch(small_recipe('teacher', model=LINK, data=ONE_FRAME))


@pytest.fixture(scope='module')
def student() -> Student:
    return linked_student()


@pytest.fixture(scope='module')
def card(linked_model: Path) -> ModelCard:
    return ModelCard.load(linked_model)


@pytest.fixture(scope='module')
def sent(student: Student, batch: Batch) -> Sent:
    clouds = batch.agents
    with torch.no_grad():
        return Sending(student)(clouds.points, clouds.index, clouds.count)
