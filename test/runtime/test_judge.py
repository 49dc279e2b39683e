# SPDX-License-Identifier: Apache-2.0
"""Which neighbours are believed, and for how long not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations

import pytest
from own_views import at, cars, said_by, view_of

from diffkd_ros.runtime.plausibility.evidence import Said
from diffkd_ros.runtime.plausibility.judge import Judge

EGO = view_of((10.0, 0.0), (-12.0, 4.0), (20.0, 6.0), (-30.0, 6.0))
S = 1_000_000_000
SHARED = (-10.0, -6.0), (-32.0, -2.0)
HONEST = said_by('cav_2', at(20.0, 6.0), cars(*SHARED), view_of(*SHARED))
GHOSTS = (25.0, 10.0), (15.0, -12.0)
LYING = said_by('liar', at(-30.0, 6.0), cars(*GHOSTS), view_of(*GHOSTS, (18.0, -2.0)))


def reasons(judge, said, stamp, ego=EGO):
    return ['' if doubt is None else doubt.reason for doubt in judge.judge(ego, said, stamp)]


def run(judge, said, sweeps, start=0):
    """Judge ten sweeps a second; returns the reasons for doubt about each of them."""
    return [reasons(judge, said, start + k * S // 10) for k in range(sweeps)]


def test_an_implausible_sweep_is_left_out_at_once_and_an_honest_one_never():
    doubts = run(Judge(), [HONEST, LYING], 30)
    assert [honest for honest, _ in doubts] == [''] * 30
    assert all(lying for _, lying in doubts)
    assert 'boxes where the ego sees none' in doubts[0][1]
    assert 'quarantine' not in doubts[0][1]
    assert 'in quarantine' in doubts[-1][1]


def test_the_order_of_the_neighbours_makes_no_difference():
    third = said_by('cav_3', at(0.0, 15.0), cars((10.0, -15.0)))
    found = [
        dict(zip((each.name for each in said), run(Judge(), said, 3)[-1], strict=True))
        for said in permutations([HONEST, LYING, third])
    ]
    assert all(each == found[0] for each in found)


def test_a_quarantine_ends_by_itself():
    judge = Judge()
    run(judge, [LYING], 10)
    assert judge.quarantines('liar', S)
    honest = said_by('liar', HONEST.pose, HONEST.boxes, HONEST.view)
    doubts = [doubt for (doubt,) in run(judge, [honest], 200, S)]
    ends = doubts.index('')
    # That of ten sweeps, 7.5, halves every second: it is below 1 after 2.9 s.
    assert 25 < ends < 35
    assert doubts[ends:] == [''] * (200 - ends)


def test_after_a_quarantine_a_map_must_be_plausible_twice():
    judge = Judge()
    run(judge, [LYING], 10)
    boxes_only = said_by('liar', HONEST.pose, HONEST.boxes)
    honest = said_by('liar', HONEST.pose, HONEST.boxes, HONEST.view)
    run(judge, [boxes_only], 60, S)
    assert not judge.quarantines('liar', 7 * S)
    assert judge.to_view(['liar'], 7 * S) == {'liar'}
    found = [
        reasons(judge, [each], 7 * S + k) for k, each in enumerate([boxes_only, honest, boxes_only, honest])
    ]
    assert [bool(doubt) for (doubt,) in found] == [True, True, True, False]


def test_one_implausible_sweep_is_no_quarantine():
    judge = Judge()
    run(judge, [HONEST], 5)
    assert reasons(judge, [said_by('cav_2', LYING.pose, LYING.boxes, LYING.view)], S) != ['']
    assert not judge.quarantines('cav_2', S)
    # Its boxes were, which are compared in each sweep.
    assert [bool(doubt) for (doubt,) in run(judge, [HONEST], 5, S + 1)] == [False] * 5


def test_a_map_that_was_implausible_stays_out_until_it_was_plausible_twice():
    """Between two examinations its boxes alone are compared, which may be honest."""
    judge = Judge()
    map_only = said_by('liar', HONEST.pose, HONEST.boxes, view_of((25.0, 3.0), (5.0, -10.0), (-28.0, 5.0)))
    unseen = said_by('liar', HONEST.pose, HONEST.boxes)
    honest = said_by('liar', HONEST.pose, HONEST.boxes, HONEST.view)
    sweeps = [map_only, unseen, honest, unseen, honest, unseen]
    found = [reasons(judge, [each], k * S // 10) for k, each in enumerate(sweeps)]
    assert [bool(doubt) for (doubt,) in found] == [True, True, True, True, False, False]


def test_implausible_boxes_hide_no_map():
    """What is examined while they are implausible neither clears a map nor is it the last word on it."""
    judge = Judge(most_views=1)
    map_only = said_by('liar', HONEST.pose, HONEST.boxes, view_of((25.0, 3.0), (5.0, -10.0), (-28.0, 5.0)))
    honest = said_by('liar', HONEST.pose, HONEST.boxes, HONEST.view)
    both = said_by('liar', LYING.pose, LYING.boxes, LYING.view)
    found = [reasons(judge, [each], k * S // 10) for k, each in enumerate([map_only, both, both, honest])]
    assert [bool(doubt) for (doubt,) in found] == [True] * 4
    reasons(judge, [both], S // 2)
    assert judge.to_view(['liar'], 6 * S // 10) == {'liar'}


def test_implausible_boxes_are_no_examination_of_the_map():
    """The map of the first sweep was not judged; strangers keep it from being examined again."""
    judge = Judge(most_views=1)
    map_lie = view_of((25.0, 3.0), (5.0, -10.0), (-28.0, 5.0))
    for k in range(20):
        stranger = said_by(f'stranger {k}', HONEST.pose, HONEST.boxes, HONEST.view)
        viewed = judge.to_view(['liar', stranger.name], k * S // 10)
        honest_boxes = said_by('liar', HONEST.pose, HONEST.boxes, map_lie if 'liar' in viewed else None)
        liar = honest_boxes if k else LYING
        if stranger.name not in viewed:
            stranger = replace(stranger, view=None)
        assert judge.judge(EGO, [liar, stranger], k * S // 10)[0] is not None


def test_a_sensor_that_finds_vehicles_again_is_believed_at_once():
    judge = Judge()
    blind = said_by('cav_2', HONEST.pose, cars(), replace(HONEST.view, boxes=cars()))
    again = Said('cav_2', HONEST.pose, HONEST.boxes, HONEST.view.returns)
    found = [reasons(judge, [each], k * S // 10) for k, each in enumerate([HONEST, blind, blind, again])]
    assert [bool(doubt) for (doubt,) in found] == [False, False, True, False]


def test_silence_in_the_map_of_a_sender_without_boxes_lasts():
    """No vehicle is found there, though its map does not say that the places are empty."""
    judge = Judge()
    mute = replace(HONEST.view, boxes=cars())
    silent = said_by('liar', HONEST.pose, None, mute)
    unseen = replace(silent, view=None)
    found = [reasons(judge, [each], k * S // 10) for k, each in enumerate([silent, silent, unseen])]
    assert [bool(doubt) for (doubt,) in found] == [False, True, True]


def test_a_plausible_sweep_is_an_examination_whatever_its_boxes_say_alone():
    """Of eight vehicles its map shows all and its boxes seven, beside two that the ego contradicts."""
    places = [(x, y) for x in (-30.0, -15.0, 15.0, 30.0) for y in (-12.0, 12.0)]
    ego, judge = view_of(*places), Judge()
    map_only = said_by('cav_2', at(0.0, 0.0), cars(*places), view_of((25.0, 3.0), (5.0, -10.0), (-28.0, 5.0)))
    ghosts = (-22.0, 0.0), (22.0, 0.0)
    shown = replace(view_of(*places, *ghosts), boxes=cars(*places, *ghosts, score=0.4))
    seven = said_by('cav_2', at(0.0, 0.0), cars(*places[:7], *ghosts, score=0.4), shown)
    found = [reasons(judge, [each], k * S // 10, ego) for k, each in enumerate([map_only, seven, seven])]
    assert [bool(doubt) for (doubt,) in found] == [True, True, False]


def test_a_sensor_may_find_nothing_in_one_sweep_but_not_in_two():
    """As with interference. Sweeps of which it cannot be said do not count."""
    returns = HONEST.view.returns
    blind = Said('cav_2', HONEST.pose, cars(), returns)
    honest = Said('cav_2', HONEST.pose, HONEST.boxes, returns)
    far = Said('cav_2', at(200.0, 6.0), cars(), returns)
    judge = Judge()
    sweeps = [HONEST, blind, honest, blind, far, blind, honest]
    found = [reasons(judge, [each], k * S // 10) for k, each in enumerate(sweeps)]
    assert [bool(doubt) for (doubt,) in found] == [False, False, False, False, False, True, False]
    assert 'sent none of the vehicles that both see well' in found[5][0]


@pytest.mark.parametrize(
    ('after', 'age', 'left_out'),
    [
        (0.1, 0.0, True),
        (0.1, 0.1, False),  # the same sweep again, as the next one was lost
        (20.0, 0.0, False),  # no sweep in a row
    ],
)
def test_the_second_sweep_without_a_vehicle_is_another_one_soon_after(after, age, left_out):
    returns, judge = HONEST.view.returns, Judge()
    start = round((20.0 - after) * S)
    reasons(judge, [Said('cav_2', HONEST.pose, cars(), returns)], start)
    (doubt,) = judge.judge(EGO, [Said('cav_2', HONEST.pose, cars(), returns, age)], start + round(after * S))
    assert ('sent none' in doubt.reason) == left_out


def test_a_map_that_was_never_examined_waits_and_is_not_suspected():
    judge = Judge(2)
    (doubt,) = judge.judge(EGO, [said_by('cav_2', HONEST.pose, HONEST.boxes)], 0)
    assert doubt.waiting
    assert judge._records['cav_2'].suspicion == 0
    (doubt,) = judge.judge(EGO, [LYING], 0)
    assert not doubt.waiting


# The ego sees neither of the places that are claimed.
HIDDEN = view_of((10.0, 0.0), (20.0, 6.0), (-30.0, 6.0), hidden=[(0.0, -12.0), (8.0, -12.0)])
CLAIMED = (30.0, -18.0), (38.0, -18.0)
CLAIMS = said_by('liar', at(-30.0, 6.0), cars(*CLAIMED), view_of(*CLAIMED, hidden=[(-40.0, -6.0)]))
# In their frames (10, 0) of the ego, where it sees a car.
WITNESS = said_by('cav_2', at(20.0, 6.0), cars((-10.0, -6.0)), view_of((-10.0, -6.0)))
SECOND = said_by('cav_3', at(20.0, 6.0), cars((-10.0, -6.0)), view_of((-10.0, -6.0)))


def test_two_neighbours_that_the_ego_confirms_are_believed_about_a_third():
    assert reasons(Judge(), [CLAIMS], 0, HIDDEN) == ['']
    *others, doubt = reasons(Judge(), [WITNESS, SECOND, CLAIMS], 0, HIDDEN)
    assert others == ['', '']
    assert 'two other neighbours' in doubt


def test_one_neighbour_cannot_accuse_another():
    """Whichever of the two lies."""
    judge = Judge()
    for k in range(20):
        assert reasons(judge, [WITNESS, CLAIMS], k * S // 10, HIDDEN) == ['', '']


def test_repeating_what_is_true_buys_nothing():
    copies = [SHARED[0]] * 14
    lie = said_by('liar', at(20.0, 6.0), cars(*copies, *[(-25.0, y) for y in (-22, -18, -14, 4)]))
    judge = Judge()
    (doubt,) = judge.judge(EGO, [lie], 0)
    assert 'boxes where the ego sees none; 1 confirmed' in doubt.reason


@pytest.mark.parametrize('most', [1, 2])
def test_new_maps_are_examined_first_and_known_ones_again(most):
    judge, names = Judge(most), ['a', 'b', 'c']
    looked: list[set[str]] = []
    for k in range(60):
        viewed = judge.to_view(names, k * S // 10)
        said = [said_by(n, HONEST.pose, HONEST.boxes, HONEST.view if n in viewed else None) for n in names]
        judge.judge(EGO, said, k * S // 10)
        looked.append(viewed)
    first = {1: [{'a'}, {'b'}, {'c'}], 2: [{'a', 'b'}, {'c'}]}[most]
    assert looked[: len(first)] == first
    assert max(map(len, looked[len(first) :])) == 1
    pauses = set()
    for name in names:
        sweeps = [k for k, viewed in enumerate(looked) if name in viewed]
        pauses |= {after - before for before, after in pairwise(sweeps)}
    # Nobody can tell when: two that are due for the same sweep follow each other.
    assert min(pauses) >= 3
    assert max(pauses) <= 9
    assert len(pauses) >= 4


def test_new_names_keep_nobody_known_from_being_examined():
    judge, waiting = Judge(2), 0
    for k in range(100):
        names = [f'new_{k}_{number}' for number in range(2)] + (['h1', 'h2'] if k % 2 else ['h2', 'h1'])
        viewed = judge.to_view(names, k * S // 10)
        assert len(viewed) <= 2
        said = [said_by(n, HONEST.pose, HONEST.boxes, HONEST.view if n in viewed else None) for n in names]
        if k < 2:
            said = [each for each in said if each.name.startswith('h')]
            said = [said_by(each.name, HONEST.pose, HONEST.boxes, HONEST.view) for each in said]
        doubts = dict(zip((each.name for each in said), judge.judge(EGO, said, k * S // 10), strict=True))
        waiting += sum(doubts[name] is not None for name in ('h1', 'h2'))
    assert waiting == 0


def test_an_ego_that_answers_once_a_second_uses_all_neighbours():
    judge, names, left_out = Judge(2), ['a', 'b', 'c', 'd'], 0
    for k in range(40):
        viewed = judge.to_view(names, k * S)
        said = [said_by(n, HONEST.pose, HONEST.boxes, HONEST.view if n in viewed else None) for n in names]
        left_out += sum(doubt is not None for doubt in judge.judge(EGO, said, k * S)) * (k >= 4)
    assert left_out == 0


def test_without_a_limit_all_maps_are_examined():
    assert Judge().to_view(['a', 'b', 'c'], 0) == {'a', 'b', 'c'}


def test_invented_names_take_no_memory_and_the_latest_are_kept():
    judge = Judge()
    for k in range(1000):
        # As after time has jumped back.
        said = [HONEST, said_by(f'name_{k}', HONEST.pose, HONEST.boxes, HONEST.view)]
        judge.judge(EGO, said, 10 * S if k < 500 else k)
    assert len(judge._records) == 64
    assert {'cav_2', 'name_999', 'name_998'} <= set(judge._records)


def test_what_is_forgotten_is_no_quarantine():
    judge = Judge()
    run(judge, [LYING], 10)
    judge.clear()
    assert not judge.quarantines('liar', S)


def test_time_that_jumps_back_begins_again_and_repeats_itself():
    judge, looked = Judge(2), []
    for _ in range(2):
        for k in range(20):
            judge.advance(100 * S + k * S // 10)
            viewed = judge.to_view(['a', 'b'], 100 * S + k * S // 10)
            looked.append(viewed)
            said = [said_by(n, LYING.pose, LYING.boxes, HONEST.view if n in viewed else None) for n in 'ab']
            judge.judge(EGO, said, 100 * S + k * S // 10)
        assert judge.quarantines('a', 100 * S + 2 * S)
    assert looked[:20] == looked[20:]
    judge.advance(90 * S)
    assert not judge.quarantines('a', 90 * S)
