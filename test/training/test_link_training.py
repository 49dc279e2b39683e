# SPDX-License-Identifier: Apache-2.0
"""The layered link in training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_recipe import LINK, first_batch, make_lively, small_recipe

from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.runtime.decoding import Decoding, decode_boxes, observed_cells
from diffkd_ros.runtime.link.boxes import draw_boxes
from diffkd_ros.runtime.link.tables import sending_order
from diffkd_ros.training.catalogue import STAGES
from diffkd_ros.training.data import Batch
from diffkd_ros.training.frozen import Frozen
from diffkd_ros.training.link import (
    MIN_BOX_SCORE,
    Arrival,
    Before,
    Sending,
    Sent,
    best_tiles,
    boxes_of,
    egos,
    random_arrival,
    ranks,
    receive,
    restored_maps,
)
from diffkd_ros.training.link_stages import coded_maps, receiver_loss, worth_of_tiles
from diffkd_ros.training.loop import train
from diffkd_ros.training.recipe import Recipe


def linked_recipe(*stages: str, **model: object) -> Recipe:
    return small_recipe(*stages, steps=1, model=LINK | model)


@pytest.fixture(scope='module')
def batch() -> Batch:
    recipe = linked_recipe('teacher')
    return first_batch(
        recipe.model_copy(update={'data': recipe.data.model_copy(update={'drop_neighbours': 0})})
    )


@pytest.fixture(scope='module')
def student() -> Student:
    torch.manual_seed(0)
    return Student(linked_recipe('teacher').model).eval()


@pytest.fixture(scope='module')
def sent(student: Student, batch: Batch) -> Sent:
    clouds = batch.agents
    with torch.no_grad():
        return Sending(student)(clouds.points, clouds.index, clouds.count)


def arrival(sent: Sent, fine: float, coarse: float) -> Arrival:
    order = sent.order
    levels = torch.full((len(order), 2, *order.shape[2:]), fine)
    return Arrival(levels, torch.full_like(order, coarse), torch.zeros(len(order), 1, 1, 1))


def test_ranks_order_the_tiles() -> None:
    order = torch.tensor([[[[0.1, 0.9], [0.5, 0.2]]]])
    assert ranks(order).flatten().tolist() == [0.75, 0.0, 0.25, 0.5]
    sent = best_tiles(order, 0.5, levels=2)
    assert sent.levels[0, 0].tolist() == [[0, 1], [1, 0]]
    assert torch.equal(sent.levels[:, 0], sent.levels[:, 1])


def test_a_complete_map_arrives_as_its_codes_say(student: Student, batch: Batch, sent: Sent) -> None:
    received = receive(sent, arrival(sent, 1, 1), batch, student)
    scale, chosen = student.restoration, batch.neighbours
    decoded = sent.coded.fine.sum(dim=1) * scale.deviation + scale.mean
    decoded = decoded * (sent.coded.codes.fine[:, :1] > 0)
    torch.testing.assert_close(received.features[chosen], decoded[chosen])
    own = egos(batch, sent.features)[:, 0, 0, 0] > 0
    assert torch.equal(received.features[own], sent.features[own])
    assert torch.equal(received.density[own], sent.density[own])
    assert not received.context.missing.any()
    assert torch.equal(received.density[chosen] > 0, sent.coded.codes.fine[chosen, :1] > 0)


def test_what_did_not_arrive_is_unknown_and_not_empty(student: Student, batch: Batch, sent: Sent) -> None:
    received = receive(sent, arrival(sent, 0, 0), batch, student)
    chosen = batch.neighbours
    assert not received.features[chosen].any()
    assert (received.context.missing[chosen] == 1).all()
    assert (received.density[chosen] == 1).all()
    assert not received.context.missing[egos(batch, sent.features)[:, 0, 0, 0] > 0].any()


def test_an_empty_tile_is_known_from_its_own_code(student: Student, batch: Batch, sent: Sent) -> None:
    received = receive(sent, arrival(sent, 0, 1), batch, student)
    chosen = batch.neighbours
    empty = (sent.coded.codes.coarse == 0)[chosen].repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert empty.any()
    assert torch.equal(received.density[chosen, 0] == 0, empty)
    assert torch.equal(received.context.missing[chosen, 0] == 0, empty)
    assert torch.equal(received.context.level[chosen, 0], torch.where(empty, 1.0, 0.5))


def test_a_second_level_without_the_first_is_not_used(student: Student, batch: Batch, sent: Sent) -> None:
    only_second = arrival(sent, 1, 0)
    only_second.levels[:, 0] = 0
    received = receive(sent, only_second, batch, student)
    assert not received.features[batch.neighbours].any()


def test_what_is_drawn_covers_all_of_the_link() -> None:
    torch.manual_seed(0)
    drawn = random_arrival(torch.rand(400, 1, 4, 8), levels=2)
    shares = drawn.levels[:, 0].mean(dim=(1, 2))
    assert (shares == 0).float().mean() > 0.08
    assert (shares == 1).float().mean() > 0.03
    assert ((shares > 0) & (shares < 0.3)).float().mean() > 0.3
    assert (drawn.levels[:, 1] <= drawn.levels[:, 0]).all()
    # A quarter lose the first chunk, which alone has the coarse codes.
    assert 0.6 < drawn.coarse[:, 0, 0, 0].mean() < 0.75
    assert 0.65 < (drawn.least_score == 0).float().mean() < 0.8


def test_all_chunks_but_the_first_have_the_likely_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for what in ('COARSE_LOST', 'BOXES_LOST'):
        monkeypatch.setattr(f'diffkd_ros.training.link.{what}', 0.0)
    drawn = random_arrival(torch.rand(4000, 1, 8, 25), levels=1)
    tiles = drawn.levels.flatten(1).any(dim=1)
    least, first = drawn.least_score.flatten(), drawn.coarse[:, 0, 0, 0] > 0
    assert (least[first] == 0).all()
    torch.testing.assert_close(least[~first & tiles], torch.full_like(least[~first & tiles], 0.3))
    assert (~first & tiles).any()
    # A lost chunk without tiles is all that was sent.
    assert (least[~first & ~tiles] > 0.1).all()


def test_boxes_below_the_least_score_do_not_arrive(student: Student, batch: Batch, sent: Sent) -> None:
    scores = sent.boxes[batch.neighbours, 0]
    some = scores[scores > 0].median()
    part = replace(arrival(sent, 1, 1), least_score=some.expand(len(sent.order), 1, 1, 1))
    shown = receive(sent, part, batch, student).context.boxes[batch.neighbours, 0]
    assert torch.equal(shown, torch.where(scores >= some, scores, 0.0))
    assert 0 < (shown > 0).sum() < (scores > 0).sum()


def test_tiles_that_are_sent_together_are_lost_together() -> None:
    torch.manual_seed(0)
    rows, columns = 8, 25
    drawn = random_arrival(torch.rand(400, 1, rows, columns), levels=1).levels.flatten(1)
    in_order = drawn[:, torch.from_numpy(sending_order(rows, columns))]
    # Where all are sent, chunks of 25 arrive or do not, as a whole.
    chunks = in_order.unflatten(1, (-1, 25)).mean(dim=2)
    whole = ((chunks == 0) | (chunks == 1)).all(dim=1) & (chunks > 0).any(dim=1)
    assert (whole & (chunks == 0).any(dim=1)).float().mean() > 0.02
    assert (whole & (chunks == 1).all(dim=1)).float().mean() > 0.02


@pytest.fixture(scope='module')
def remembering() -> Student:
    torch.manual_seed(0)
    student = Student(memory_recipe('teacher').model).eval()
    make_lively(student)
    return student


def memory_recipe(*stages: str) -> Recipe:
    return small_recipe(
        *stages,
        steps=1,
        model=LINK | {'context': ('mask', 'last')},
        data={'earlier': True, 'drop_neighbours': 0},
    )


@pytest.fixture(scope='module')
def sequence() -> Batch:
    return first_batch(memory_recipe('teacher'))


def memory(student: Student, batch: Batch, kept: float) -> tuple[Sent, Before]:
    assert batch.earlier is not None
    now, then = batch.agents, batch.earlier.agents
    with torch.no_grad():
        sending = Sending(student)
        sent = sending(now.points, now.index, now.count)
        before = sending(then.points, then.index, then.count)
    return sent, Before(before, arrival(before, 1, 1), torch.full((len(batch.frame), 1, 1, 1), kept))


def test_a_forgotten_sweep_has_no_effect(remembering: Student, sequence: Batch) -> None:
    sent, before = memory(remembering, sequence, 0.0)
    received = receive(sent, arrival(sent, 0, 1), sequence, remembering, before)
    without = receive(sent, arrival(sent, 0, 1), sequence, remembering)
    assert received.context.last is not None
    assert not received.context.last.any()
    assert torch.equal(received.density, without.density)


def test_a_lost_message_is_restored_from_the_one_before(remembering: Student, sequence: Batch) -> None:
    """Nothing arrives now: what the last message said to be occupied is known, and may be filled."""
    sent, before = memory(remembering, sequence, 1.0)
    received = receive(sent, arrival(sent, 0, 0), sequence, remembering, before)
    remembered, last = received.context.remembered, received.context.last
    assert remembered is not None
    assert last is not None
    for agent in range(len(sequence.frame)):
        was = covered_cells(before.sent.density[agent : agent + 1]).mean()
        # What left the grid since, and the edges, are a few per cent.
        assert remembered[agent].mean() == pytest.approx(float(was), abs=0.1)
    assert torch.equal(last[:, -1] > 0, last[:, -2] > 0)  # an age where something is covered
    forgotten = before._replace(kept=torch.zeros_like(before.kept))
    other = receive(sent, arrival(sent, 0, 0), sequence, remembering, forgotten)
    with torch.no_grad():
        one, two = (restored_maps(each, sequence, remembering) for each in (received, other))
    # The egos' maps are restored, too.
    assert all(not torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_recipe_with_a_memory_trains_to_its_end(tmp_path: Path) -> None:
    assert train(memory_recipe('teacher', 'student', 'link'), tmp_path) is not None


@pytest.mark.parametrize('stage', ['link', 'rank'])
def test_a_memory_trains(stage: str, sequence: Batch) -> None:
    torch.manual_seed(1)
    config = memory_recipe('teacher').model
    student = Student(config)
    losses = STAGES[stage](Teacher(config), student, 'global', Frozen).train()(sequence)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    context = student.restoration.context
    assert isinstance(context, torch.nn.Module)
    touched = any(p.grad is not None for p in context.last.parameters())  # type: ignore[union-attr]
    assert touched == (stage == 'link')


def test_a_ranking_that_is_continued_trains_on_the_same_tiles(sequence: Batch) -> None:
    torch.manual_seed(1)
    config = memory_recipe('teacher').model
    teacher, student = Teacher(config), Student(config)
    make_lively(student)
    begun = STAGES['rank'](teacher, student, 'global', Frozen).train()
    assert student.sender is not None
    for parameter in student.sender.ranking.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    continued = STAGES['rank'](teacher, student, 'global', Frozen).train()
    for seed in range(3):
        losses = []
        for stage in (begun, continued):
            torch.manual_seed(seed)
            losses.append(stage(sequence)['rank'])
        assert torch.equal(*losses)


def test_boxes_are_drawn_as_a_receiver_draws_them() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = BevGrid(-25.6, -12.8, -3, 25.6, 12.8, 1, 32, 64)
    heatmap, density = torch.full((1, 1, 32, 64), -9.0), torch.ones(1, 1, 32, 64)
    regression = torch.rand(1, 8, 32, 64, generator=generator)
    heatmap[0, 0, 4, 4], heatmap[0, 0, 4, 5] = 2.0, 1.0  # two peaks of one vehicle
    heatmap[0, 0, 20, 1] = -4.0  # a low score
    heatmap[0, 0, 10, 40] = 3.0  # no return near it
    density[0, 0, 5:16, 35:46] = 0
    heatmap[0, 0, 20, 20] = 1.5  # the centre lies in another cell
    regression[0, :2, 20, 20] = torch.tensor([1.3, -0.2])
    heatmap[0, 0, 28, 63] = 1.5  # and outside the grid
    regression[0, 0, 28, 63] = 1.1
    heatmap[0, 0, 25, 40] = 0.5
    maps = boxes_of(heatmap, regression, density)
    observed = observed_cells(density[0].numpy(), np.eye(2, 3, dtype=np.float32)[None], grid)
    decoding = Decoding(MIN_BOX_SCORE, 0.15, 100)
    boxes = decode_boxes(heatmap[0, 0].numpy(), regression[0].numpy(), observed, grid, decoding)
    expected = draw_boxes(boxes, grid)
    assert np.argwhere(expected[0]).tolist() == [[4, 4], [19, 21], [25, 40]]
    np.testing.assert_allclose(maps[0], expected, atol=1e-4)


def test_the_egos_map_is_not_restored(student: Student, batch: Batch, sent: Sent) -> None:
    received = receive(sent, best_tiles(sent.order, 0.2, 2), batch, student)
    with torch.no_grad():
        restored = restored_maps(received, batch, student)
    own = egos(batch, sent.features)[:, 0, 0, 0] > 0
    assert torch.equal(restored[own], sent.features[own])
    assert not torch.equal(restored[~own], received.features[~own])


def test_a_map_that_arrived_completely_stays_as_it_is(student: Student, batch: Batch, sent: Sent) -> None:
    arrival = best_tiles(sent.order, 1.0, 2)
    arrival = Arrival(arrival.levels.clone(), arrival.coarse, arrival.least_score)
    first, *others = batch.neighbours.tolist()
    arrival.levels[first, :, :2] = 0
    arrival.coarse[first] = 0
    received = receive(sent, arrival, batch, student)
    with torch.no_grad():
        restored = restored_maps(received, batch, student)
    assert torch.equal(restored[others], received.features[others])
    assert not torch.equal(restored[first], received.features[first])


@pytest.mark.parametrize('restoration', ['none', 'plain', 'two_step', 'diffusion'])
def test_all_arms_train_and_leave_encoder_and_sender(restoration: str, batch: Batch) -> None:
    torch.manual_seed(1)
    config = linked_recipe('teacher', restoration=restoration).model
    teacher, student = Teacher(config), Student(config)
    stage = STAGES['link'](teacher, student, 'global', Frozen).train()
    losses = stage(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert ('restoration' in losses) == (restoration != 'none')
    sum(losses.values()).backward()
    touched = {name.split('.')[0] for name, p in student.named_parameters() if p.grad is not None}
    assert touched == {'fusion', 'head'} | ({'restoration'} if restoration != 'none' else set())


def test_the_worth_of_all_tiles_is_what_their_codes_save_of_the_loss(
    student: Student, batch: Batch, sent: Sent
) -> None:
    none = arrival(sent, 0, 0)
    worth = worth_of_tiles(student, sent, none, batch)
    with torch.no_grad():
        received = receive(sent, none, batch, student)
        own = egos(batch, sent.features) > 0
        coded = torch.where(own, sent.features, coded_maps(sent, student))
        restored = restored_maps(received, batch, student)
        before, after = (receiver_loss(student, received, maps, batch) for maps in (restored, coded))
    assert abs(before - after) > 1e-3
    torch.testing.assert_close(worth.sum(), before - after, rtol=0.05, atol=0)
    assert not worth[own[:, 0, 0, 0]].any()


def test_tiles_that_arrived_are_worth_nothing_more(student: Student, batch: Batch, sent: Sent) -> None:
    plain = Student(linked_recipe('teacher', restoration='none').model).eval()
    plain.load_state_dict(student.state_dict(), strict=False)
    assert not worth_of_tiles(plain, sent, arrival(sent, 1, 1), batch).any()


def test_the_ranking_learns_what_tiles_are_worth(batch: Batch) -> None:
    torch.manual_seed(2)
    config = linked_recipe('teacher').model
    student = Student(config)
    stage = STAGES['rank'](Teacher(config), student, 'global', Frozen).train()
    optimiser = torch.optim.Adam([p for p in stage.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(100):
        torch.manual_seed(3)  # the same tiles arrive in each step
        loss = stage(batch)['rank']
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]


def test_a_recipe_with_a_link_trains_to_its_end(tmp_path: Path) -> None:
    trained = train(linked_recipe('teacher', 'student', 'link', 'rank'), tmp_path)
    assert trained is not None
    assert trained.student.sender is not None
    # The sender detects as the student did before it learnt to receive.
    assert not torch.equal(trained.student.sender.head.heatmap.weight, trained.student.head.heatmap.weight)


@pytest.mark.parametrize(
    ('model', 'stages', 'message'),
    [
        ({'link': False, 'context': ()}, ('teacher', 'student', 'link'), 'needs model.link'),
        ({'fusion': 'attention'}, ('teacher', 'student', 'link'), 'and model.fusion adaptive'),
        ({'link': False}, ('teacher',), 'model.context: needs model.link'),
        ({'context': ('last',)}, ('teacher',), 'last needs data.earlier'),
    ],
)
def test_recipes_that_cannot_be_trained_are_refused(
    model: dict[str, object], stages: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        linked_recipe(*stages, **model)
