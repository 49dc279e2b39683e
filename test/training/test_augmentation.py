# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_recipe import small_recipe

from diffkd_ros.corruptions import corrupt_frame, names
from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.training import augmentation
from diffkd_ros.training.augmentation import arriving_cells, corrupt_clouds, draw_corruptions
from diffkd_ros.training.data import Samples
from diffkd_ros.training.frames import Mixture
from diffkd_ros.training.recipe import Augmentation
from diffkd_ros.training.validation import grid_of

PAPER = names('lidar', 'paper')


@pytest.fixture(scope='module')
def frame() -> CoopFrame:
    return Mixture(small_recipe().data).draw(np.random.default_rng(0))[0]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """Records the corruptions that are applied."""
    counter: Counter[tuple[str, int]] = Counter()

    def counted(frame: CoopFrame, name: str, severity: int, *rest: object) -> CoopFrame:
        counter[name, severity] += 1
        return corrupt_frame(frame, name, severity, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(augmentation, 'corrupt_frame', counted)
    return counter


def corrupted(frame: CoopFrame, augmentation: Augmentation, rng: np.random.Generator) -> CoopFrame:
    return corrupt_clouds(frame, draw_corruptions(frame.agents, augmentation, rng))


def thinned(frame: CoopFrame) -> CoopFrame:
    agents = {i: AgentSweep(s.points[::100].copy(), s.pose) for i, s in frame.agents.items()}
    return replace(frame, agents=agents)


def test_clouds_are_corrupted_with_the_given_probability_and_independently(frame: CoopFrame) -> None:
    settings_ = Augmentation(probability=0.3, corruptions=['fog', 'motion_blur'])
    rng, hit = np.random.default_rng(1), []
    for _ in range(300):
        sensed = corrupted(thinned(frame), settings_, rng)
        hit += [
            sensed.agents[i].points.tobytes() != s.points.tobytes() for i, s in thinned(frame).agents.items()
        ]
    # 600 draws: four standard deviations are 0.075.
    assert np.mean(hit) == pytest.approx(0.3, abs=0.075)
    both = np.array(hit).reshape(-1, 2).all(axis=1)
    assert np.mean(both) == pytest.approx(0.09, abs=0.07)


def test_only_named_types_and_severities_are_drawn(frame: CoopFrame, drawn: Counter[tuple[str, int]]) -> None:
    held_out = ['fog', 'wet_ground']
    wanted = [name for name in PAPER if name not in held_out]
    settings_ = Augmentation(probability=1.0, corruptions=wanted, severities=[1, 2], held_out=held_out)
    rng = np.random.default_rng(2)
    for _ in range(100):
        corrupted(thinned(frame), settings_, rng)
    assert {name for name, _ in drawn} == {*wanted}
    assert {severity for _, severity in drawn} == {1, 2}
    assert min(drawn.values()) > 5


def test_a_shared_corruption_applies_to_all_agents(frame: CoopFrame, drawn: Counter[tuple[str, int]]) -> None:
    settings_ = Augmentation(shared=0.5, probability=0.0, corruptions=PAPER, severities=[1, 2, 3])
    rng, frames = np.random.default_rng(3), 0
    for _ in range(200):
        drawn.clear()
        corrupted(thinned(frame), settings_, rng)
        frames += bool(drawn)
        assert not drawn or [*drawn.values()] == [len(frame.agents)]
    # 200 draws: four standard deviations are 28.
    assert frames == pytest.approx(100, abs=28)


@pytest.mark.parametrize('probability', [0.0, 1.0])
def test_probabilities_of_zero_and_one(
    frame: CoopFrame, drawn: Counter[tuple[str, int]], probability: float
) -> None:
    settings_ = Augmentation(probability=probability, corruptions=['beam_missing'])
    sensed = corrupted(frame, settings_, np.random.default_rng(0))
    assert sum(drawn.values()) == probability * len(frame.agents)
    for agent, sweep in frame.agents.items():
        assert np.array_equal(sensed.agents[agent].pose, sweep.pose)
        assert (len(sensed.agents[agent].points) < len(sweep.points)) == bool(probability)


def test_sweeps_of_a_failing_sensor_fail_alike_but_not_at_the_same_places(frame: CoopFrame) -> None:
    settings_ = Augmentation(probability=1.0, corruptions=['crosstalk'], severities=[2])
    drawn = draw_corruptions(frame.agents, settings_, np.random.default_rng(0))
    first, again, second = (corrupt_clouds(frame, drawn, sweep) for sweep in (0, 0, 3))
    for agent, sweep in frame.agents.items():
        points = [sensed.agents[agent].points for sensed in (first, again, second)]
        assert np.array_equal(points[0], points[1])
        assert not np.array_equal(points[0], points[2])
        changed = [(p != sweep.points).any(axis=1).mean() for p in (points[0], points[2])]
        assert changed[0] == pytest.approx(changed[1], rel=0.2)


def test_a_corruption_that_does_not_apply_leaves_the_cloud_unchanged(frame: CoopFrame) -> None:
    """Wet ground needs ground."""
    in_the_air = {
        i: AgentSweep(s.points[:50] + np.float32([0, 0, 30, 0]), s.pose) for i, s in frame.agents.items()
    }
    floating = replace(frame, agents=in_the_air, ground_truth=None)
    settings_ = Augmentation(probability=1.0, corruptions=['wet_ground'])
    sensed = corrupted(floating, settings_, np.random.default_rng(0))
    assert all(np.array_equal(sensed.agents[i].points, s.points) for i, s in floating.agents.items())


@settings(max_examples=30, deadline=None)
@given(agents=st.integers(1, 5), loss=st.floats(0, 1), seed=st.integers(0, 1 << 31))
def test_the_egos_map_never_loses_tiles(agents: int, loss: float, seed: int) -> None:
    settings_ = Augmentation(corruptions=['fog'], tile_loss=loss)
    cells = arriving_cells(agents, 32, 48, settings_, np.random.default_rng(seed))
    assert cells.shape == (agents, 1, 32, 48)
    assert (cells[0] == 1).all()
    assert set(np.unique(cells)) <= {0.0, 1.0}


def test_neighbours_lose_tiles_with_the_given_probability() -> None:
    settings_ = Augmentation(corruptions=['fog'], tile_loss=0.5)
    rng = np.random.default_rng(0)
    maps = np.concatenate([arriving_cells(3, 32, 48, settings_, rng)[1:] for _ in range(200)])
    lost = 1 - maps.mean(axis=(1, 2, 3))
    # 400 draws: four standard deviations are 0.1. A tile loss of 10 % may hit no tile.
    assert 0.35 < np.mean(lost > 0) <= 0.6
    assert lost[lost > 0].mean() == pytest.approx(0.2, abs=0.06)


def test_a_sample_is_corrupted_for_the_student_and_clean_for_the_teacher() -> None:
    plain = small_recipe()
    hit = small_recipe(
        data={'augmentation': {'probability': 1.0, 'corruptions': ['beam_missing'], 'tile_loss': 1.0}}
    )
    for index in range(4):
        clean, sample = (Samples(r.data, grid_of(r), 0, range(2))[index] for r in (plain, hit))
        assert np.array_equal(sample.union, clean.union)
        assert np.array_equal(sample.target.heatmap, clean.target.heatmap)
        for own, before, after in zip(clean.clouds, sample.clean, sample.clouds, strict=True):
            assert np.array_equal(own, before)
            assert len(after) < len(before)
        assert (clean.arriving == 1).all()
        assert (sample.arriving[0] == 1).all()
