# SPDX-License-Identifier: Apache-2.0
import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffkd_ros.corruptions import CORRUPTIONS, CorruptionError, corrupt_frame, lookup, names, open_link
from diffkd_ros.corruptions.randomness import generator
from diffkd_ros.frame import AgentSweep, CoopFrame

ON_FRAMES = [
    (name, profile, severity)
    for name in names()
    if lookup(name).family != 'link'
    for profile in lookup(name).profiles
    for severity in lookup(name).severities(profile)
]
MOVING = {'motion_blur', 'crosstalk', 'fog', 'snow'}


def arrays(frame: CoopFrame) -> list[np.ndarray]:
    return [
        array
        for sweep in frame.agents.values()
        for array in (sweep.points, sweep.pose, sweep.ring, sweep.time)
    ]


def same(a: CoopFrame, b: CoopFrame) -> bool:
    return all(
        x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(arrays(a), arrays(b), strict=True)
    )


def test_the_papers_seven_and_the_held_out_types_are_there():
    assert set(names(role='paper')) == {
        'beam_missing',
        'motion_blur',
        'fog',
        'crosstalk',
        'electromagnetic_interference',
        'wet_ground',
        'incomplete_echo',
    }
    assert names(role='held_out') == ('snow', 'cross_sensor')
    assert names('lidar', profile='lab') == names(role='paper')


@pytest.mark.parametrize('name', names())
def test_severities_count_from_one(name):
    corruption = lookup(name)
    assert corruption.severities('graded')[:3] == (1, 2, 3)
    assert corruption.severities('lab') == ((1,) if corruption.role == 'paper' else ())


@pytest.mark.parametrize(('name', 'profile', 'severity'), ON_FRAMES)
def test_a_seed_gives_one_realisation(frame, name, profile, severity):
    runs = [corrupt_frame(frame, name, severity, seed, 'all', profile) for seed in (0, 1, 2)]
    again = corrupt_frame(frame, name, severity, 0, 'all', profile)
    assert same(runs[0], again)
    assert not any(same(runs[i], runs[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert not any(same(run, frame) for run in runs)


@pytest.mark.parametrize('name', names('lidar'))
def test_ring_and_time_stay_with_their_points(frame, name):
    before = replace(frame.agents[1], time=np.arange(len(frame.agents[1].points)))
    after = corrupt_frame(replace(frame, agents={1: before}), name, 2, 0).agents[1]
    origin = after.time.astype(int)
    assert len(np.unique(origin)) == len(origin)
    np.testing.assert_array_equal(after.ring, before.ring[origin])
    moved = np.linalg.norm(after.points[:, :3] - before.points[origin, :3], axis=1)
    if name in MOVING:
        assert (moved > 1e-3).any()
    else:
        assert moved.max() == 0
    assert np.isfinite(after.points).all()
    assert after.points[:, 3].min() >= 0
    assert after.points[:, 3].max() <= 1


@pytest.mark.parametrize(('name', 'profile', 'severity'), ON_FRAMES)
@pytest.mark.parametrize('with_ring', [True, False])
def test_an_empty_sweep_stays_empty(frame, name, profile, severity, with_ring):
    nothing = AgentSweep(
        np.zeros((0, 4)), np.eye(4), ring=np.zeros(0) if with_ring else None, time=np.zeros(0)
    )
    result = corrupt_frame(replace(frame, agents={1: nothing}), name, severity, 0, 'all', profile)
    assert result.agents[1].points.shape == (0, 4)


@pytest.mark.parametrize('name', ['fog', 'pose_gaussian', 'pose_constant_offset'])
@pytest.mark.parametrize(('who', 'hit'), [('ego', {1}), ('neighbours', {2, 3}), ('all', {1, 2, 3})])
def test_only_the_chosen_agents_are_corrupted(frame, name, who, hit):
    after = corrupt_frame(frame, name, 1, 0, who)
    assert {agent for agent in after.agents if after.agents[agent] is not frame.agents[agent]} == hit
    assert after.ground_truth is frame.ground_truth


def test_by_default_sensors_fail_everywhere_and_poses_at_the_neighbours(frame):
    assert corrupt_frame(frame, 'crosstalk', 1, 0).agents[1] is not frame.agents[1]
    assert corrupt_frame(frame, 'pose_laplace', 1, 0).agents[1] is frame.agents[1]


def test_draws_depend_on_agent_frame_and_scenario_but_not_on_other_agents(frame):
    base = replace(frame, agents={1: frame.agents[1], 2: frame.agents[1]})
    lost = corrupt_frame(base, 'beam_missing', 2, 0)
    assert set(lost.agents[1].ring) != set(lost.agents[2].ring)
    for other in (replace(base, index=7), replace(base, scenario='another')):
        assert set(corrupt_frame(other, 'beam_missing', 2, 0).agents[1].ring) != set(lost.agents[1].ring)
    alone = corrupt_frame(replace(base, agents={1: frame.agents[1]}), 'beam_missing', 2, 0)
    assert set(alone.agents[1].ring) == set(lost.agents[1].ring)


def test_the_generator_is_the_same_on_every_machine():
    # SHA-256 and PCG64 are fixed by their definitions, and NumPy promises the stream of a bit generator.
    for key in ((3, 'fog', 'drive', 5, -1), (np.uint8(3), 'fog', 'drive', np.int64(5), np.int32(-1))):
        assert generator(*key).bit_generator.random_raw() == 12897832710732527843


def test_options_replace_a_levels_parameters(frame):
    none_lost = corrupt_frame(frame, 'beam_missing', 3, 0, share=0.0)
    assert len(none_lost.agents[1].points) == len(frame.agents[1].points)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda f: corrupt_frame(f, 'beam_mising', 1, 0), "'beam_mising'; the nearest is 'beam_missing'"),
        (lambda f: corrupt_frame(f, 'fog', 4, 0), r'\[1, 2, 3\].*got 4; the nearest is 3'),
        (lambda f: corrupt_frame(f, 'fog', 0, 0), 'got 0; the nearest is 1'),
        (lambda f: corrupt_frame(f, 'fog', '2', 0), "got '2'"),
        (lambda f: corrupt_frame(f, 'fog', 1, 0, profile='graed'), "'graed'; the nearest is 'graded'"),
        (lambda f: corrupt_frame(f, 'snow', 1, 0, profile='lab'), "unknown profile of snow 'lab'"),
        (lambda f: corrupt_frame(f, 'fog', 1, 0, who='neighbors'), "the nearest is 'neighbours'"),
        (lambda f: corrupt_frame(f, 'fog', 1, 0, alfa=1.0), "'alfa'; the nearest is 'alpha'"),
        (lambda f: corrupt_frame(f, 'crosstalk', 1, 0, share=1.5), r'share .* in \[0, 1\], got 1.5'),
        (lambda f: corrupt_frame(f, 'crosstalk', 1, 0, share=float('nan')), 'got nan'),
        (lambda f: corrupt_frame(f, 'crosstalk', 1, 0, share='much'), "got 'much'"),
        (lambda f: corrupt_frame(f, 'delay', 1, 0), 'use open_link'),
        (lambda f: open_link('fog', 1, 0, '', 2), 'use corrupt_frame'),
        (lambda f: open_link('delays', 1, 0, '', 2), "the nearest is 'delay'"),
    ],
)  # fmt: skip
def test_unknown_names_are_refused_with_the_nearest(frame, call, message):
    with pytest.raises(CorruptionError, match=message):
        call(frame)


def test_an_error_says_where_it_happened(frame):
    blind = replace(frame.agents[2], points=frame.agents[2].points[:10], ring=None, time=None)
    broken = replace(frame, agents={**frame.agents, 2: blind}, index=4, scenario='drive')
    with pytest.raises(CorruptionError, match=r"wet_ground, frame 4 of scenario 'drive', agent 2: no ground"):
        corrupt_frame(broken, 'wet_ground', 2, 0)


def test_the_documentation_names_every_corruption():
    text = (Path(__file__).parents[2] / 'docs' / 'corruptions.md').read_text()
    assert [name for name in CORRUPTIONS if f'`{name}`' not in text] == []


def strange(frame, kind):
    """The ego's sweep alone, without rings, changed as named."""
    sweep = replace(frame.agents[1], ring=None, time=None)
    points = sweep.points.copy()
    if kind == 'a row of NaN':
        points[7] = np.nan
    elif kind == 'an infinite coordinate':
        points[7, 2] = -np.inf
    elif kind == 'a far return':
        points[7, 0] = 3e38
    elif kind == 'stretched along x':
        points[:, 0] *= 1e3
    elif kind == 'on one line':
        points[:, 1:3] = 0, -2
        points[:, 0] = np.linspace(-45, 45, len(points))
    elif kind == 'one return':
        points = points[:1]
    elif kind == 'all at the origin':
        points[:, :3] = 0
    else:
        points[:, :3] *= 1e-6
    return replace(frame, agents={1: replace(sweep, points=points)})


UNUSABLE = ('a row of NaN', 'an infinite coordinate', 'a far return')
UNLIKELY = ('stretched along x', 'on one line', 'one return', 'all at the origin', 'shrunk')


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('name', names('lidar'))
@pytest.mark.parametrize('kind', UNUSABLE)
def test_returns_that_no_sensor_measures_are_an_error(frame, name, kind):
    with pytest.raises(CorruptionError, match=rf'{name}, .* agent 1: 1 of \d+ returns are not finite'):
        corrupt_frame(strange(frame, kind), name, 1, 0)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
    ('name', 'profile', 'severity'), [row for row in ON_FRAMES if row[0] in names('lidar')]
)
@pytest.mark.parametrize('kind', UNLIKELY)
def test_unlikely_sweeps_give_finite_returns_or_a_corruption_error(frame, name, profile, severity, kind):
    with contextlib.suppress(CorruptionError):
        after = corrupt_frame(strange(frame, kind), name, severity, 0, profile=profile)
        assert np.isfinite(after.agents[1].points).all()
