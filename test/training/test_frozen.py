# SPDX-License-Identifier: Apache-2.0
import torch
from small_recipe import first_batch, small_recipe

from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.frozen import Frozen, FrozenNetworks


def trained_teacher() -> Teacher:
    """Batch norms with statistics of their own."""
    torch.manual_seed(0)
    teacher = Teacher(small_recipe().model).train()
    unions = first_batch(small_recipe()).unions
    teacher(unions.points, unions.index, unions.count)
    return teacher.eval()


def test_a_frozen_network_computes_the_same_and_keeps_its_weights() -> None:
    teacher, unions = trained_teacher(), first_batch(small_recipe()).unions
    with torch.no_grad():
        expected = teacher(unions.points, unions.index, unions.count)
        frozen = Frozen(teacher)
        next(teacher.parameters()).add_(1.0)
        found = frozen(unions)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        assert not one.requires_grad
    assert frozen(unions) is found
    assert frozen(first_batch(small_recipe()).unions) is not found


def test_equal_weights_share_a_frozen_network_and_others_do_not() -> None:
    networks, teacher = FrozenNetworks(), trained_teacher()
    copy = trained_teacher()
    assert networks(teacher) is networks(copy)
    with torch.no_grad():
        next(copy.parameters())[0] += 1.0
    assert networks(teacher) is not networks(copy)
