# SPDX-License-Identifier: Apache-2.0
"""Which parameters each stage trains, which it does not change, and that it learns."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_recipe import WHOLE_MAPS, first_batch, small_recipe
from torch import Tensor, nn

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.catalogue import STAGES
from diffkd_ros.training.recipe import Recipe
from diffkd_ros.training.stages import (
    DISTANCE_MOMENTUM,
    StudentStage,
    copy_teacher,
    measure_teacher,
    run_teacher,
    teacher_as_student,
    warp_to_agents,
)


def networks(recipe: Recipe) -> tuple[Teacher, Student]:
    torch.manual_seed(0)
    teacher, student = Teacher(recipe.model), Student(recipe.model)
    copy_teacher(teacher, student)
    measure_teacher(teacher, student, [first_batch(recipe)])
    return teacher, student


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def moved(part: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters())


def state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize('name', list(STAGES))
def test_each_stage_trains_what_it_should_and_nothing_else(name: str) -> None:
    linked = name in ('link', 'rank')
    recipe = small_recipe(*(['teacher', name] if linked else []), model={'link': linked})
    teacher, student = networks(recipe)
    before = state(teacher), state(student.encoder)
    module = STAGES[name](teacher, student, 'global').train()
    losses = module(first_batch(recipe))
    assert all(torch.isfinite(loss) for loss in losses.values())
    total(losses).backward()

    assert moved(teacher) == (name == 'teacher')
    assert moved(student.encoder) == (name == 'student')
    assert moved(student.restoration) == (name in ('diffuser', 'joint', 'link'))
    assert moved(student.restoration.gate) == (name in ('joint', 'link'))  # type: ignore[arg-type]
    assert moved(student.fusion) == (name in ('student', 'joint', 'link'))
    assert moved(student.head) == (name in ('student', 'joint', 'link'))
    if student.sender is not None:
        assert moved(student.sender.ranking) == (name == 'rank')
        assert not moved(student.sender.head)
    trained = {key for key, value in state(teacher).items() if not torch.equal(value, before[0][key])}
    assert bool(trained) == (name == 'teacher')
    # The encoder does not change, including the statistics of its norms.
    if name not in ('teacher', 'student'):
        assert all(torch.equal(value, before[1][key]) for key, value in state(student.encoder).items())
    # The optimiser gets only parameters with a gradient.
    handed = {id(p) for p in module.parameters() if p.requires_grad}
    used = {id(p) for p in [*teacher.parameters(), *student.parameters()] if p.grad is not None}
    assert used <= handed


@pytest.mark.parametrize('fusion', ['attention', 'maximum'])
@pytest.mark.parametrize('restoration', ['plain', 'none'])
def test_baselines_train_in_the_same_stages(fusion: str, restoration: str) -> None:
    recipe = small_recipe(
        *(name for name in WHOLE_MAPS if (name, restoration) != ('diffuser', 'none')),
        model={'fusion': fusion, 'restoration': restoration},
    )
    teacher, student = networks(recipe)
    for stage in recipe.stages:
        losses = STAGES[stage.name](teacher, student, 'global').train()(first_batch(recipe))
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert 'reliability' not in losses
        assert ('restoration' in losses) == (restoration == 'plain' and stage.name in ('diffuser', 'joint'))
        total(losses).backward()


@pytest.mark.parametrize(('name', 'left'), [('teacher', 0.5), ('joint', 0.75)])
def test_a_repeated_frame_is_learnt(name: str, left: float) -> None:
    recipe = small_recipe()
    teacher, student = networks(recipe)
    module = STAGES[name](teacher, student, 'global').train()
    batch = first_batch(recipe)
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=5e-3)
    # The output of an untrained teacher is not a useful target, so its losses are excluded.
    goals = ('heatmap', 'regression', 'restoration', 'autoencoder', 'projection')
    history = []
    for _ in range(20):
        loss = total({key: value for key, value in module(batch).items() if key in goals})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < left * history[0]


def test_targets_on_a_rotated_grid_are_limited_to_the_teachers_map() -> None:
    recipe = small_recipe(model={'vectors': 2})
    teacher, student = networks(recipe)
    stage = STAGES['teacher'](teacher, student, 'global').eval()
    batch = first_batch(recipe)
    union = batch.unions
    with torch.no_grad():
        straight = teacher(union.points, union.index, union.count)
        cells = torch.tensor([[[1.0, 0, 2 * 3 / batch.counted.shape[-1]], [0, 1, 0]]]).expand(2, 2, 3)
        shifted = teacher(union.points, union.index, union.count, cells)
        # The map's first column is the fourth that the union's grid has.
        torch.testing.assert_close(shifted[1][..., :-3], straight[1][..., 3:])
        # Disjoint maps share no cell that could be a target.
        apart = torch.tensor([[[1.0, 0, 2.5], [0, 1, 0]]]).expand(2, 2, 3)
        losses = stage(replace(batch, views=apart))
    assert stage(batch)['regression'] > 0
    assert losses == {'heatmap': 0, 'regression': 0}


def test_the_teachers_scale_is_that_of_its_covered_cells() -> None:
    recipe = small_recipe()
    teacher, student = networks(recipe)
    batch = first_batch(recipe)
    feature, density, _, _ = run_teacher(teacher.eval(), batch.unions)
    covered = feature.movedim(1, -1)[covered_cells(density)[:, 0] > 0].detach()
    torch.testing.assert_close(student.restoration.mean.flatten(), covered.mean(dim=0), atol=1e-5, rtol=1e-4)
    deviation = covered.std(dim=0, correction=0).clamp(min=1e-3)
    torch.testing.assert_close(student.restoration.deviation.flatten(), deviation, atol=1e-5, rtol=1e-3)


def test_a_student_copied_from_a_teacher_computes_the_same_alone() -> None:
    recipe = small_recipe()
    torch.manual_seed(0)
    teacher = Teacher(recipe.model).eval()
    nn.init.normal_(teacher.modulation.scale)
    student = teacher_as_student(teacher, recipe.model).eval()
    union = first_batch(recipe).unions
    with torch.no_grad():
        _, _, heatmap, regression = run_teacher(teacher, union)
        feature, density = student.encoder(union.points, union.index, union.count)
        for i in range(union.count):
            found = student(feature[i : i + 1], density[i : i + 1], torch.eye(2, 3)[None])
            torch.testing.assert_close(found[0][0], heatmap[i], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found[1][0], regression[i], atol=1e-5, rtol=1e-4)


def test_the_teachers_map_is_warped_to_every_agent() -> None:
    """A blob in the ego's grid must return to its place when warped to the agent and back."""
    batch = first_batch(small_recipe(data={'drop_neighbours': 0.0}))
    maps = torch.zeros(len(batch.sizes), 1, 32, 64)
    maps[:, :, 14:19, 29:36] = 1.0
    seen = warp_to_agents(maps, batch)
    first = [sum(batch.sizes[:i]) for i in range(len(batch.sizes))]
    torch.testing.assert_close(seen[first], maps, atol=1e-4, rtol=0)
    others = [i for i in range(sum(batch.sizes)) if i not in first]
    assert others
    assert any(not torch.allclose(seen[i], maps[0], atol=0.1) for i in others)


def test_a_restoration_target_can_be_the_agents_own_clean_cloud() -> None:
    recipe = small_recipe(data={'augmentation': {'probability': 1.0, 'corruptions': ['beam_missing']}})
    batch = first_batch(recipe)
    targets = {}
    for target in ('global', 'local'):
        teacher, student = networks(recipe)
        stage = STAGES['diffuser'](teacher, student, target).train()  # type: ignore[arg-type]
        targets[target], weight = stage.targets(batch, stage.teacher_output(batch)[0])  # type: ignore[operator]
        assert weight.max() == 5.0
    with torch.no_grad():
        own = run_teacher(networks(recipe)[0].eval(), batch.clean)[0]
    torch.testing.assert_close(targets['local'], own)
    assert not torch.allclose(targets['global'], own)


def test_the_unit_of_reliability_moves_slowly_and_only_in_training() -> None:
    recipe = small_recipe()
    stage = StudentStage(*networks(recipe), 'global').train()
    fusion: Any = stage.student.fusion

    def after(distance: float) -> float:
        return stage._unit(fusion, torch.full((1, 1, 4, 4), distance)).item()

    assert after(2.0) == pytest.approx(2.0)  # the first is taken as it is
    assert after(102.0) == pytest.approx(2.0 + 100 * DISTANCE_MOMENTUM)
    stage.eval()
    assert after(500.0) == pytest.approx(2.0 + 100 * DISTANCE_MOMENTUM)
    assert 'fusion.distance' in stage.student.state_dict()


def test_lost_tiles_of_a_neighbour_are_unknown_to_the_ego() -> None:
    recipe = small_recipe('student', data={'drop_neighbours': 0.0})
    batch = first_batch(recipe)
    batch.arriving[1, :, :, :20] = 0
    stage: Any = StudentStage(*networks(recipe), 'global').eval()
    features, density = stage.encode(batch)
    assert (features[1, :, :, :20] == 0).all()
    assert (density[1, :, :, :20] == 0).all()
    assert (density[1, :, :, 20:] > 0).any()
    assert (density[0, :, :, :20] > 0).any()
