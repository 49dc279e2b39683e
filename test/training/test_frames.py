# SPDX-License-Identifier: Apache-2.0
import logging
from pathlib import Path

import numpy as np
import pytest
from small_recipe import DATA, SIMULATOR

from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.opv2v import Opv2vDataset, write_opv2v
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.training.frames import Mixture, expand, held_out_frames
from diffkd_ros.training.recipe import Data, RecipeError


@pytest.fixture
def opv2v(tmp_path: Path) -> Path:
    """Two drives of two frames."""
    simulator = Simulator(SimulatorConfig.model_validate(SIMULATOR), 5)
    frames = [simulator.scenario(number).frame(i) for number in (0, 1) for i in (0, 50)]
    write_opv2v(frames, tmp_path / 'set')
    return tmp_path / 'set'


def data(**changes: object) -> Data:
    return Data.model_validate(DATA | changes)


def test_sources_are_drawn_as_often_as_their_shares_say(opv2v: Path) -> None:
    sources = [{'kind': 'sim', 'share': 1}, {'kind': 'opv2v', 'folder': str(opv2v), 'share': 3}]
    mixture = Mixture(data(sources=sources))
    rng = np.random.default_rng(0)
    recorded = {name for name, _ in Opv2vDataset(opv2v).scenarios()}
    drawn = [mixture.draw(rng)[0].scenario in recorded for _ in range(120)]
    # Four standard deviations are 0.16.
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.16)


def test_the_same_generator_draws_the_same_frames(opv2v: Path) -> None:
    mixture = Mixture(data(sources=[{}, {'kind': 'opv2v', 'folder': str(opv2v)}]))
    one, again = ([mixture.draw(np.random.default_rng(i))[0] for i in range(4)] for _ in range(2))
    assert [(f.scenario, f.index) for f in one] == [(f.scenario, f.index) for f in again]
    assert len({(f.scenario, f.index) for f in one}) > 1


@pytest.mark.parametrize(('rate', 'remembered'), [(10, 4), (5, 2)])
def test_an_earlier_frame_is_one_that_an_ego_would_remember(
    rate: int, remembered: int, tmp_path: Path
) -> None:
    """Of recorded and of simulated frames: at most 0.45 s older, whatever their rate."""
    simulator = SIMULATOR | {'rate': rate}
    drive = Simulator(SimulatorConfig.model_validate(simulator), 5).scenario(0)
    write_opv2v([drive.frame(i) for i in range(6)], tmp_path / 'set')
    sources = [{'simulator': simulator}, {'kind': 'opv2v', 'folder': str(tmp_path / 'set')}]
    for source in sources:
        mixture, ages = Mixture(data(sources=[source])), set()
        for seed in range(48):
            frame, earlier = mixture.draw(np.random.default_rng(seed), before=1 + seed % 5)
            if earlier is not None:
                ages.add(round((frame.stamp - earlier.stamp) * 1e-9 * rate))
        assert ages == set(range(1, remembered + 1))


def test_a_simulated_source_may_have_a_world_of_its_own() -> None:
    sources = [{}, {'simulator': {'world': 'varied'}}]
    mixture = Mixture(data(sources=sources))
    rng = np.random.default_rng(0)
    assert {mixture.draw(rng)[0].scenario.split('_')[0] for _ in range(12)} == {'simulated', 'varied'}
    with pytest.raises(ValueError, match='opv2v is recorded: simulator does not apply'):
        data(sources=[{'kind': 'opv2v', 'folder': 'set', 'simulator': {}}])


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv('NO_SUCH_SET', raising=False)
    source = {'kind': 'opv2v', 'folder': '$NO_SUCH_SET/train'}
    with pytest.raises(RecipeError, match='environment variable NO_SUCH_SET is not set'):
        Mixture(data(sources=[source]))
    with pytest.raises(RecipeError, match='NO_SUCH_SET'):
        held_out_frames(data(validation=source))
    monkeypatch.setenv('NO_SUCH_SET', str(tmp_path))
    assert expand('${NO_SUCH_SET}/train') == tmp_path / 'train'


def test_a_data_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='nowhere'):
        Mixture(data(sources=[{'kind': 'opv2v', 'folder': str(tmp_path / 'nowhere')}]))


def test_broken_frames_are_passed_over_with_a_line_in_the_log(
    opv2v: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = min(opv2v.rglob('*.pcd'))
    cloud.write_bytes(b'no cloud')
    mixture = Mixture(data(sources=[{'kind': 'opv2v', 'folder': str(opv2v)}]))
    with caplog.at_level(logging.WARNING):
        drawn = [mixture.draw(np.random.default_rng(i))[0] for i in range(12)]
    assert len({(f.scenario, f.index) for f in drawn}) == 3
    assert caplog.records
    assert all('left out' in r.message and cloud.name in r.message for r in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        frames = held_out_frames(
            data(
                validation={'kind': 'opv2v', 'folder': str(opv2v)},
                validation_scenarios=2,
                validation_frames=2,
            )
        )
    assert len(frames) == 3
    assert len(caplog.records) == 1


def test_a_data_set_of_broken_frames_is_given_up(opv2v: Path) -> None:
    for cloud in opv2v.rglob('*.pcd'):
        cloud.write_bytes(b'no cloud')
    source = {'kind': 'opv2v', 'folder': str(opv2v)}
    with pytest.raises(DatasetError, match='consecutive broken frames'):
        Mixture(data(sources=[source])).draw(np.random.default_rng(0))
    with pytest.raises(DatasetError, match='no readable frame'):
        held_out_frames(data(validation=source))


def test_held_out_frames_are_evenly_spaced_and_of_other_scenarios_than_those_trained_on() -> None:
    frames = held_out_frames(data(validation_scenarios=2, validation_frames=3))
    length = len(Simulator(SimulatorConfig.model_validate(SIMULATOR), 2).scenario(0))
    assert [f.index for f in frames] == [0, round((length - 1) / 2), length - 1] * 2
    assert len({f.scenario for f in frames}) == 2
    mixture = Mixture(data())
    trained = {mixture.draw(np.random.default_rng(i))[0].scenario for i in range(5)}
    assert not trained & {f.scenario for f in frames}
