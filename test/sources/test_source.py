# SPDX-License-Identifier: Apache-2.0
"""Sources by name."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_recipe import DATA
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.run import Plan, settle
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.formats import FORMATS, Format
from diffkd_ros.sources.opv2v import write_opv2v
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.source import Source

SMALL = {'agents': 2, 'rate': 5.0, 'frames_per_scenario': 2}


def test_the_simulator_continues_with_the_next_scenario():
    source = Source('sim', default_seed=3, simulator=SMALL)
    frames = list(itertools.islice(source.frames(), 5))
    assert [frame.index for frame in frames] == [0, 1, 0, 1, 0]
    assert len({frame.scenario for frame in frames}) == 3
    assert frames[1].stamp - frames[0].stamp == 200_000_000
    again = next(source.frames())
    np.testing.assert_array_equal(again.agents[2].points, frames[0].agents[2].points)


def test_the_seed_in_the_name_takes_precedence():
    named, default = (
        next(Source(spec, default_seed=5, simulator=SMALL).frames()) for spec in ('sim:3', 'sim')
    )
    assert named.scenario == 'simulated_3_0'
    assert default.scenario == 'simulated_5_0'


def test_options_in_the_name_choose_world_sensor_and_intensity_law():
    plain, forced, other = (
        Source(spec, scenarios=1, simulator=SMALL)
        for spec in ('sim:3', 'sim:3,sensor=vlp16,intensity=carla', 'sim:world=varied')
    )
    assert (forced.seed, other.seed) == (3, 3)
    assert plain.names() == forced.names() == ['simulated_3_0']
    assert other.names() == [other.scenario(0).name] == ['varied_3_0']
    # The same scene, seen by other sensors.
    scene, seen = (next(source.frames()) for source in (plain, forced))
    np.testing.assert_array_equal(seen.ground_truth.boxes, scene.ground_truth.boxes)
    assert seen.agents[1].ring.max() < 16
    expected = np.exp(-0.004 * np.linalg.norm(seen.agents[1].points[:, :3], axis=1))
    np.testing.assert_allclose(seen.agents[1].points[:, 3], expected, atol=6e-3)
    # Their frames are not independent of those without the options.
    assert plain.shares_scenarios(forced)
    assert not plain.shares_scenarios(other)


def test_only_the_first_scenarios_and_frames():
    source = Source('sim', scenarios=2, simulator=SMALL)
    assert [(frame.scenario, frame.index) for frame in source.frames(1)] == [
        ('simulated_3_0', 0), ('simulated_3_1', 0),
    ]  # fmt: skip
    assert (source.length(), source.length(1), replace(source, scenarios=None).length()) == (4, 2, None)


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('carla', 'known are sim, v2v4real, v2xreal, opv2v, dair, bag'),
        ('opv2v', 'needs a path that exists'),
        ('bag:/nowhere', 'needs a path that exists'),
        ('bag:/,/nowhere', "'bag:/,/nowhere' needs a path that exists"),
        ('sim:here', 'takes a seed'),
        ('sim:', 'takes a seed'),
        ('sim:-1', 'takes a seed'),
        ('sim:3,3', 'takes a seed'),
        ('sim:world=varied,3', 'takes a seed'),
        ('sim:3,weather=fog', 'then world, sensor, intensity'),
        ('sim:3,world=', 'then world, sensor, intensity'),
        ('sim:3,world=basic,world=basic', 'then world, sensor, intensity'),
        ('sim:3,world=moon', "world moon: Input should be 'basic' or 'varied'"),
        ('sim:3,sensor=hdl64', "no sensor 'hdl64'; known are .*did you mean hdl64e"),
        ('sim:3,intensity=carlo', "no intensity law 'carlo'.*did you mean carla"),
        ('sim:' + '9' * 5000, 'takes a seed'),
        ('bag:' + 'x' * 300, 'needs a path that exists'),
        ('bag:~no_such_user/bag', 'needs a path that exists'),
        ('bag:\0', 'needs a path that exists'),
    ],
)
def test_bad_names(spec, message):
    with pytest.raises(DatasetError, match=message):
        Source(spec)


def test_more_simulated_scenarios_than_can_be_listed_are_refused():
    assert len(Source('sim', scenarios=100_000).names()) == 100_000
    with pytest.raises(DatasetError, match='at most 100000 scenarios, got 9223372036854775808'):
        Source('sim', scenarios=2**63)


def test_options_that_a_format_does_not_take_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r'^source sim takes no split$'):
        Source('sim', split='test')
    with pytest.raises(DatasetError, match=r'takes no split file$'):
        Source(f'opv2v:{tmp_path}', split_file=tmp_path / 'split.json')


def test_a_rate_that_cannot_be_simulated_is_named():
    with pytest.raises(DatasetError, match=r'^source sim: rate 30\.0: .* less than or equal to 20$'):
        Source('sim', simulator={'rate': 30.0}).frames()


class TwinDataset:
    """A made-up format: a JSON file with the seed of two simulated frames."""

    def __init__(self, root: Path) -> None:
        self.root = root
        config = SimulatorConfig(agents=2, frames_per_scenario=2)
        self._scenario = Simulator(config, json.loads((root / 'twin.json').read_text())).scenario(0)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return replace(self._scenario.frame(range(2)[index]), scenario='twin')

    def scenarios(self):
        return [('twin', range(2))]

    def files(self, rows):
        return {self.root / 'twin.json'}

    def problems(self, index):
        return []

    def strays(self):
        return []


@pytest.fixture
def twin(tmp_path, monkeypatch):
    """A data set of a format that is registered by one line."""
    monkeypatch.setitem(sys.modules, 'twin_format', sys.modules[__name__])
    monkeypatch.setitem(
        FORMATS, 'twin', Format('Twin', 'twin_format:TwinDataset', 'sim', marks=('twin.json',))
    )
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set' / 'twin.json').write_text('21')
    return tmp_path / 'set'


def test_a_new_format_can_be_checked_and_converted(twin, tmp_path):
    done = CliRunner().invoke(app, ['data', 'check', str(twin)])
    assert done.output.startswith('Twin: 1 scenarios, 2 frames, 2 agents, 4 sweeps'), done.output
    done = CliRunner().invoke(app, ['bag', 'convert', f'twin:{twin}', str(tmp_path / 'bag')])
    assert '2 of 2 frames' in done.output, done.output
    drive = Simulator(SimulatorConfig(agents=2, frames_per_scenario=2), 21).scenario(0)
    for back, frame in zip(RosbagDataset(tmp_path / 'bag'), map(drive.frame, range(2)), strict=True):
        np.testing.assert_array_equal(back.agents[2].points, frame.agents[2].points)


def test_a_new_format_can_be_evaluated(twin, tmp_path):
    out = tmp_path / 'out'
    done = CliRunner().invoke(
        app,
        [
            'evaluate',
            '--source',
            f'twin:{twin}',
            '--out',
            str(out),
            '--corruptions',
            'none',
            '--workers',
            '1',
        ],
    )
    assert done.exit_code == 0, done.output
    assert json.loads((out / 'summary.json').read_text())['frames'] == 2


def test_a_new_format_can_be_trained_on(twin):
    pytest.importorskip('torch', reason='training needs the train extra')
    from diffkd_ros.training.frames import Mixture, held_out_frames
    from diffkd_ros.training.recipe import Data

    section = {'kind': 'twin', 'folder': str(twin)}
    data = Data.model_validate({**DATA, 'sources': [section], 'validation': section})
    assert Mixture(data).draw(np.random.default_rng(0))[0].scenario == 'twin'
    assert [frame.scenario for frame in held_out_frames(data)] == ['twin']


def test_a_new_format_can_be_played(twin):
    pytest.importorskip('rclpy', reason='the player needs ROS 2')
    from diffkd_ros.nodes.playing.feeder import open_played

    played = list(open_played(Source(f'twin:{twin}'), 1_000_000_000, 0))
    assert [frame.stamp for frame in played] == [1_000_000_000, 1_100_000_000]


@pytest.mark.parametrize('to', ['bag', 'opv2v'])
def test_converted_frames_are_those_that_are_evaluated(to, tmp_path):
    """By default, that is with the same number of vehicles and the same length of a scenario."""
    scenario = Source('sim:8', scenarios=1, frames_per_scenario=2).scenario(0)
    options = ['--to', to, '--scenarios', '1', '--frames-per-scenario', '2']
    done = CliRunner().invoke(app, ['bag', 'convert', 'sim:8', str(tmp_path / 'out'), *options])
    assert '2 of 2 frames' in done.output, done.output
    for position, back in enumerate(Source(f'{to}:{tmp_path / "out"}').frames()):
        for agent, sweep in scenario.frame(position).agents.items():
            np.testing.assert_array_equal(back.agents[agent].points, sweep.points)


def test_by_default_the_player_plays_the_same_scenarios():
    pytest.importorskip('rclpy', reason='the player needs ROS 2')
    from diffkd_ros.nodes.player_node import PlayerParameters

    player, simulator = PlayerParameters(), SimulatorConfig()
    assert (player.source, player.seed) == ('sim', Source('sim').seed)
    assert (player.vehicles, player.frames_per_scenario) == (simulator.agents, simulator.frames_per_scenario)


def test_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a', 'b', 'labels'):
        (tmp_path / name).mkdir()
    (tmp_path / 'split.json').touch()
    assert Source('bag:a,b', 2).absolute() == Source(f'bag:{tmp_path}/a,{tmp_path}/b', 2)
    own = {'split': 'val', 'split_file': Path('split.json'), 'labels': Path('labels')}
    there = {**own, 'split_file': tmp_path / 'split.json', 'labels': tmp_path / 'labels'}
    assert Source('dair:a', **own).absolute() == Source(f'dair:{tmp_path}/a', **there)
    original = Source('dair:a', labels=Path('original'))
    assert original.absolute().labels == Path('original')
    assert Source('sim:4', 2).absolute() == Source('sim:4', 2)


def test_shared_scenarios(tmp_path):
    frames = list(itertools.islice(Source('sim', simulator=SMALL).frames(), 2))
    write_opv2v(frames, tmp_path / 'test')
    whole, part = Source(f'opv2v:{tmp_path}'), Source(f'opv2v:{tmp_path}', split='test')
    assert whole.shares_scenarios(part)
    assert not part.shares_scenarios(Source('sim', scenarios=1))
    assert not Source('sim', scenarios=1).shares_scenarios(Source('sim:4', scenarios=1))


def test_an_evaluation_is_not_continued_with_another_pose(tmp_path, model):
    write_opv2v(itertools.islice(Source('sim', simulator=SMALL).frames(), 1), tmp_path / 'set')
    plan = Plan(tmp_path / 'out', Source(f'opv2v:{tmp_path / "set"}'), model, 'sim')
    settle(plan)
    with pytest.raises(DiffkdError, match="pose None, now 'predicted_ego_pos'"):
        settle(replace(plan, source=replace(plan.source, pose='predicted_ego_pos')))
