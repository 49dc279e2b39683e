# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest

from diffkd_ros.corruptions import CorruptionError, corrupt_frame
from diffkd_ros.corruptions.pose import constant_draw
from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.geometry.carla import pose_from_carla
from diffkd_ros.geometry.poses import pose_from_euler, yaw_of


@pytest.fixture
def drive() -> list[CoopFrame]:
    """Frames of one ego and two neighbours, one of them tilted."""
    sweep = AgentSweep(np.zeros((0, 4)), np.eye(4))
    poses = [pose_from_euler([5, 6, 2], yaw=1.0), pose_from_euler([50, -6, 2], 0.03, -0.02, 3.1)]
    agents = {1: sweep, 2: replace(sweep, pose=poses[0]), 3: replace(sweep, pose=poses[1])}
    return [CoopFrame(agents, 1, 0, scenario='drive', index=k) for k in range(600)]


def errors(drive: list[CoopFrame], name: str, severity: int) -> np.ndarray:
    """x, y, z in metres and the heading in degrees, frames and neighbours one after the other."""
    rows = []
    for frame in drive:
        after = corrupt_frame(frame, name, severity, 0)
        for agent in (2, 3):
            clean, noisy = frame.agents[agent].pose, after.agents[agent].pose
            turn = noisy[:3, :3] @ clean[:3, :3].T
            assert turn[2, 2] == pytest.approx(1.0, abs=1e-12)
            rows.append([*(noisy - clean)[:3, 3], np.degrees(yaw_of(turn))])
    return np.array(rows)


@pytest.mark.parametrize('name', ['pose_gaussian', 'pose_laplace'])
@pytest.mark.parametrize(('severity', 'sigma'), [(1, 0.2), (4, 0.8)])
def test_errors_have_their_spread_and_differ_for_every_frame_and_agent(drive, name, severity, sigma):
    drawn = errors(drive, name, severity)
    np.testing.assert_allclose(drawn[:, [0, 1, 3]].std(axis=0), sigma, rtol=0.1)
    np.testing.assert_allclose(drawn[:, [0, 1, 3]].mean(axis=0), 0.0, atol=4 * sigma / np.sqrt(len(drawn)))
    assert (drawn[:, 2] == 0).all()
    assert np.abs(np.corrcoef(drawn[0::2, 0], drawn[1::2, 0])[0, 1]) < 0.15
    assert np.abs(np.corrcoef(drawn[:-2, 0], drawn[2:, 0])[0, 1]) < 0.15
    kurtosis = (drawn[:, 0] ** 4).mean() / (drawn[:, 0] ** 2).mean() ** 2
    assert kurtosis < 3.6 if name == 'pose_gaussian' else kurtosis > 4.2


def test_pose_gaussian_radians_takes_the_numbers_as_radians(drive):
    degrees, radians = errors(drive, 'pose_gaussian', 1), errors(drive, 'pose_gaussian_radians', 1)
    np.testing.assert_allclose(radians[:, :2].std(), degrees[:, :2].std(), rtol=0.1)
    np.testing.assert_allclose(radians[:, 3].std(), np.degrees(0.2), rtol=0.1)


def test_the_constant_draw_is_that_of_the_published_code():
    np.testing.assert_allclose(constant_draw(20), [0.884, 0.196, 0.358, -1.085], atol=5e-4)


def test_the_constant_offset_displaces_an_opv2v_agent_as_the_published_code_does(drive):
    # In CARLA's left-handed world: add the offset to x, y, z and the yaw in degrees, then convert.
    cords = np.array([30.0, -12.0, 1.9, 0.0, 35.0, 0.0])
    x, y, z, roll, yaw, pitch = cords + 0.4 * np.array([0.884, 0.196, 0.358, 0, -1.085, 0])
    frame = drive[0]
    clean = replace(frame.agents[2], pose=pose_from_carla(30.0, -12.0, 1.9, 0.0, 35.0, 0.0))
    frame = replace(frame, agents={1: frame.agents[1], 2: clean})
    after = corrupt_frame(frame, 'pose_constant_offset', 2, 20).agents[2].pose
    np.testing.assert_allclose(after, pose_from_carla(x, y, z, roll, yaw, pitch), atol=1e-3)


def test_the_constant_offset_is_one_for_all_agents_frames_and_scenarios(drive):
    drawn = errors(drive[:3], 'pose_constant_offset', 3)
    np.testing.assert_allclose(drawn, np.broadcast_to(drawn[0], drawn.shape), atol=1e-12)
    elsewhere = errors([replace(drive[0], scenario='other', index=9)], 'pose_constant_offset', 3)
    np.testing.assert_allclose(elsewhere[0], drawn[0], atol=1e-12)


def test_points_are_unchanged(frame):
    after = corrupt_frame(frame, 'pose_gaussian', 4, 0)
    assert all(after.agents[agent].points is sweep.points for agent, sweep in frame.agents.items())


def test_an_unknown_distribution_is_refused(frame):
    with pytest.raises(CorruptionError, match="'gaussian' or 'laplace', got 'cauchy'"):
        corrupt_frame(frame, 'pose_gaussian', 1, 0, distribution='cauchy')
