# SPDX-License-Identifier: Apache-2.0
"""What the ego remembers of maps, for how long, and that nothing makes it grow."""

from __future__ import annotations

import numpy as np
import pytest

from diffkd_ros.runtime.card import MOST_REMEMBERED
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.memory import MapMemory, Moment, occupied_cells

SWEEP = 100_000_000  # nanoseconds
EGO, OTHER = 'ego', 'other'


def fuse(
    memory: MapMemory, ego: int, empty: tuple[str, ...] = (), **others: int
) -> list[tuple[float, float] | None]:
    """One fusion at these sweeps; a map's value is its sweep. Returns value and age of what is remembered."""
    agents, sweeps = [EGO, *others], [ego, *others.values()]
    moment = Moment(memory, agents, [SWEEP * sweep for sweep in sweeps])
    before = moment.before()
    maps = [np.full((1, 2, 2), sweep, np.float32) for sweep in sweeps]
    moment.keep(maps, [np.full((2, 2), agent not in empty) for agent in agents], [np.eye(4)] * len(maps))
    return [None if each is None else (each.known.feature[0, 0, 0], each.age) for each in before]


def known(sweep: int, age: float) -> tuple[float, float]:
    return pytest.approx((sweep, age))


def test_the_sweep_before_is_remembered() -> None:
    memory = MapMemory()
    assert fuse(memory, 10, other=10) == [None, None]
    assert fuse(memory, 11, other=11) == [known(10, 0.1), known(10, 0.1)]


def test_a_neighbour_that_was_lost_for_a_while_is_remembered_until_it_is_too_old() -> None:
    for sweeps, remembered in ((4, True), (5, False)):
        memory = MapMemory()
        fuse(memory, 10, other=10)
        for sweep in range(11, 10 + sweeps):
            fuse(memory, sweep)
        _, other = fuse(memory, 10 + sweeps, other=10 + sweeps)
        assert other == (known(10, 0.1 * sweeps) if remembered else None)


def test_a_map_in_which_nothing_is_known_leaves_the_one_before_it_the_last() -> None:
    memory = MapMemory()
    fuse(memory, 10, other=10)
    fuse(memory, 11, other=11, empty=(EGO, OTHER))
    assert fuse(memory, 12, other=12) == [known(10, 0.2), known(10, 0.2)]
    fuse(memory, 13, unseen=13, empty=('unseen',))
    assert len(memory) == 2


def test_one_agent_can_be_forgotten() -> None:
    """As the ego, whose last map is wrong if the present one is."""
    memory = MapMemory()
    fuse(memory, 10, other=10)
    memory.forget(EGO)
    memory.forget('unknown')
    assert fuse(memory, 11, other=11) == [None, known(10, 0.1)]


def test_a_sweep_that_is_used_again_is_not_what_is_remembered_of_it() -> None:
    memory = MapMemory()
    fuse(memory, 10, other=8)
    fuse(memory, 11, other=9)
    for sweep in (12, 13):
        assert fuse(memory, sweep, other=9)[1] == known(8, 0.1)
    assert fuse(memory, 14, other=12)[1] == known(9, 0.3)


def test_a_late_sweep_remembers_what_was_before_it() -> None:
    memory = MapMemory()
    fuse(memory, 10, other=8)
    fuse(memory, 11, other=11)
    assert fuse(memory, 12, other=10)[1] == known(8, 0.2)
    assert fuse(memory, 13, other=11)[1] == known(10, 0.1)


def test_more_of_a_sweep_replaces_what_was_known_of_it() -> None:
    memory = MapMemory()
    stamps = [SWEEP, SWEEP]
    for value in (1.0, 2.0):
        moment = Moment(memory, [EGO, OTHER], stamps)
        moment.keep([np.full((1, 2, 2), value, np.float32)] * 2, [np.ones((2, 2), bool)] * 2, [np.eye(4)] * 2)
    assert fuse(memory, 2, other=2)[1] == known(2, 0.1)


def test_everything_is_forgotten_when_time_jumps_back() -> None:
    memory = MapMemory()
    fuse(memory, 10, other=10)
    fuse(memory, 11, other=11)
    assert fuse(memory, 10, other=11) == [None, None]
    assert fuse(memory, 11, other=12) == [known(10, 0.1), known(11, 0.1)]


def test_a_neighbour_whose_time_jumps_back_is_remembered_from_then_on() -> None:
    memory = MapMemory()
    fuse(memory, 1000, other=1000)
    fuse(memory, 1001, other=1001)
    assert fuse(memory, 1002, other=5)[1] is None
    assert fuse(memory, 1003, other=6)[1] == known(5, 0.1)


def test_silent_neighbours_take_no_memory() -> None:
    memory = MapMemory()
    fuse(memory, 10, other=10)
    assert len(memory) == 2
    fuse(memory, 14)
    assert len(memory) == 2
    fuse(memory, 15)
    assert len(memory) == 1


def test_invented_names_take_no_more_than_the_most_agents() -> None:
    memory = MapMemory()
    for k in range(1000):
        fuse(memory, 10, **{f'neighbour{3 * k + j}': 10 for j in range(3)})
    assert len(memory) == MOST_REMEMBERED
    assert fuse(memory, 11, neighbour2999=11) == [known(10, 0.1), known(10, 0.1)]
    memory.clear()
    assert fuse(memory, 12) == [None]


def test_a_whole_map_is_occupied_near_the_observed_cells() -> None:
    density = np.zeros((12, 20), np.float32)
    density[2, 3], density[8, 19] = 1.5, 0.1
    expected = np.zeros((12, 20), bool)
    expected[:6, :7] = True
    expected[5:12, 16:] = True
    bev = BevFeature(np.zeros((4, 12, 20), np.float32), density)
    np.testing.assert_array_equal(occupied_cells(bev), expected)
