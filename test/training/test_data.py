# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from small_recipe import small_recipe

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.model.student import Student, StudentConfig
from diffkd_ros.training.data import Earlier, Samples, collate, make_sample
from diffkd_ros.training.frames import Mixture
from diffkd_ros.training.recipe import Data

GRID = BevGrid(-51.2, -25.6, -3.0, 51.2, 25.6, 1.0, height=64, width=128)
DATA = small_recipe().data


def test_a_sample_counts_only_the_returns_of_agents_that_take_part() -> None:
    """A vehicle that only the neighbour sees is a target with the neighbour and ignored without it."""
    draw = np.random.default_rng(0)
    on_vehicle = np.array([[20.0, 5.0, 1.0]]) + draw.uniform(-0.5, 0.5, (40, 3))
    ground = draw.uniform([-30, -20, 0], [30, 20, 0.1], (200, 3))
    ego_pose = pose_from_euler([0, 0, 1.9])
    neighbour_pose = pose_from_euler([25.0, 10.0, 1.9], yaw=2.0)

    def sweep(map_points: np.ndarray, pose: np.ndarray) -> AgentSweep:
        local = (map_points - pose[:3, 3]) @ pose[:3, :3]
        return AgentSweep(np.c_[local, np.full(len(local), 0.5)].astype(np.float32), pose)

    frame = CoopFrame(
        agents={1: sweep(ground, ego_pose), 2: sweep(np.r_[ground, on_vehicle], neighbour_pose)},
        ego=1,
        stamp=0,
        ground_truth=Boxes3D(
            np.array([[20.0, 5.0, 1.0, 4.5, 1.9, 1.6, 0.0]]),
            track_ids=np.array([7]),
            num_points=np.array([40]),
        ),
    )
    together = make_sample(frame, frame, [1, 2], GRID, 5)
    alone = make_sample(frame, frame, [1], GRID, 5)
    assert (together.target.heatmap == 1).sum() == 1
    assert (alone.target.heatmap == 1).sum() == 0
    assert not alone.target.counted.all()
    assert len(together.union) == 440
    moved = together.union[-40:, :3]
    np.testing.assert_allclose(moved, on_vehicle - [0, 0, 1.9], atol=1e-4)


def test_the_student_gets_corrupted_clouds_and_the_teacher_clean_ones() -> None:
    """Corruption changes the clouds of a sample and nothing else."""
    frame = Mixture(DATA).draw(np.random.default_rng(0))[0]
    agents = sorted(frame.agents)
    cleared = {agent: AgentSweep(sweep.points[:7], sweep.pose) for agent, sweep in frame.agents.items()}
    sample = make_sample(frame, replace(frame, agents=cleared), agents, GRID, 5)
    plain = make_sample(frame, frame, agents, GRID, 5)
    assert [len(cloud) for cloud in sample.clouds] == [7] * len(agents)
    assert np.array_equal(sample.union, plain.union)
    assert all(np.array_equal(*pair) for pair in zip(sample.clean, plain.clouds, strict=True))
    for name in ('heatmap', 'regression', 'regressed', 'counted', 'foreground'):
        assert np.array_equal(getattr(sample.target, name), getattr(plain.target, name))


def test_the_same_index_gives_the_same_bytes_and_another_gives_others() -> None:
    samples = Samples(DATA, GRID, 0, range(5))
    first, again, other = samples[3], Samples(DATA, GRID, 0, range(5))[3], samples[4]
    assert np.array_equal(first.union, again.union)
    assert np.array_equal(first.target.heatmap, again.target.heatmap)
    assert not np.array_equal(first.union[:100], other.union[:100])
    assert not np.array_equal(first.union[:100], Samples(DATA, GRID, 1, range(5))[3].union[:100])
    batch = collate([first, other])
    assert batch.agents.count == sum(batch.sizes) == len(batch.warps) == len(batch.arriving)
    assert len(batch.agents.points) == sum(len(c) for s in (first, other) for c in s.clouds)


def test_the_teachers_cloud_can_be_in_a_rotated_grid_and_nothing_else_changes() -> None:
    straight = Samples(DATA, GRID, 0, range(3))
    turned = Samples(DATA.model_copy(update={'turned': 1.0}), GRID, 0, range(3))
    angles = []
    for i in range(6):
        sample, plain = turned[i], straight[i]
        assert plain.view is None
        assert all(np.array_equal(*pair) for pair in zip(sample.clouds, plain.clouds, strict=True))
        assert np.array_equal(sample.warps, plain.warps)
        assert np.array_equal(sample.target.regression, plain.target.regression)
        # `view` leads from where a point lies in the ego's grid to where it lies in the union's.
        half = np.array([51.2, 25.6])
        there = plain.union[:, :2] / half @ sample.view[:, :2].T + sample.view[:, 2]
        np.testing.assert_allclose(there * half, sample.union[:, :2], atol=1e-3)
        np.testing.assert_allclose(sample.union[:, 2:], plain.union[:, 2:], atol=1e-5)
        angles.append(np.arctan2(sample.view[1, 0] / 2, sample.view[0, 0]))
        assert np.linalg.norm(np.linalg.inv(sample.view[:, :2]) @ sample.view[:, 2] * half) < 2 * GRID.cell
    assert np.ptp(angles) > 1.0
    mixed = Samples(DATA.model_copy(update={'turned': 0.5}), GRID, 0, range(10))
    assert 0 < sum(np.array_equal(mixed[i].view, np.eye(2, 3)) for i in range(20)) < 20


def test_processes_share_a_stream_without_overlap_and_can_resume_in_it() -> None:
    whole = [Samples(DATA, GRID, 0, range(4))[i].union for i in range(8)]
    # Two processes take whole batches (of two) in turn, two steps each.
    first, second = (Samples(DATA, GRID, 0, range(2), rank, 2) for rank in (0, 1))
    taken = [first[0], first[1], second[0], second[1], first[2], first[3], second[2], second[3]]
    assert len(first) == 4
    assert all(np.array_equal(sample.union, union) for sample, union in zip(taken, whole, strict=True))
    resumed = Samples(DATA, GRID, 0, range(3, 4))
    assert len(resumed) == 2
    assert np.array_equal(resumed[0].union, whole[6])


def test_consecutive_samples_can_be_of_one_drive() -> None:
    def drives(data: Data) -> list[str]:
        samples = Samples(data, GRID, 0, range(3))
        frames = [samples._frames]  # opened here, so that what it draws can be seen
        seen: list[str] = []
        draw = frames[0].draw

        def watched(*arguments: Any) -> tuple[CoopFrame, CoopFrame | None]:
            drawn = draw(*arguments)
            seen.append(drawn[0].scenario)
            return drawn

        frames[0].draw = watched  # type: ignore[method-assign, assignment]
        unions = [samples[i].union.tobytes() for i in range(6)]
        assert len(set(unions)) == 6
        return seen

    assert len(set(drives(DATA))) == 6
    one, _, _, other, _, _ = drives(DATA.model_copy(update={'frames_per_drive': 3}))
    assert drives(DATA.model_copy(update={'frames_per_drive': 3})) == [one] * 3 + [other] * 3
    assert one != other


def test_an_earlier_sweep_is_of_the_same_agents_and_lies_where_they_were() -> None:
    samples = Samples(DATA.model_copy(update={'earlier': True}), GRID, 0, range(4))
    drawn = [samples[i] for i in range(8)]
    for sample in drawn:
        earlier = sample.earlier
        assert earlier is not None
        assert len(earlier.clouds) == len(sample.clouds)
        assert earlier.warps.shape == sample.warps.shape
        for cloud, age, warp in zip(earlier.clouds, earlier.age[:, 0], earlier.warps, strict=True):
            assert 0 <= age < 0.5
            # Less than 30 m/s, in units of half the grid's length.
            assert np.abs(warp - np.eye(2, 3)).max() < 0.2
            assert len(cloud) or age == 0
    assert len({float(sample.earlier.age[0, 0]) for sample in drawn if sample.earlier is not None}) > 2


def test_an_agent_without_an_earlier_sweep_remembers_nothing() -> None:
    frame = Mixture(DATA).draw(np.random.default_rng(0))[0]
    first, second = sorted(frame.agents)[:2]
    then = replace(frame, agents={first: frame.agents[first]}, ego=first, stamp=frame.stamp - 200_000_000)
    earlier = Earlier.of(frame, then, [first, second], GRID)
    assert earlier.clouds[0] is frame.agents[first].points
    assert len(earlier.clouds[1]) == 0
    np.testing.assert_allclose(earlier.warps, np.eye(2, 3)[None].repeat(2, 0), atol=1e-6)
    np.testing.assert_allclose(earlier.age, 0.2)


def test_neighbours_are_dropped_with_the_given_probability() -> None:
    never = DATA.model_copy(update={'drop_neighbours': 0.0})
    always = DATA.model_copy(update={'drop_neighbours': 1.0})
    assert {len(Samples(never, GRID, 0, range(6))[i].clouds) for i in range(12)} == {2}
    assert {len(Samples(always, GRID, 0, range(6))[i].clouds) for i in range(12)} == {1, 2}
    alone = DATA.model_copy(update={'max_agents': 1})
    assert {len(Samples(alone, GRID, 0, range(2))[i].clouds) for i in range(4)} == {1}


def test_points_outside_the_grid_are_not_sent_and_change_nothing() -> None:
    """A batch with them and one without give the same features."""
    samples = [Samples(DATA, GRID, 0, range(2))[i] for i in range(2)]
    whole, sent = collate(samples), collate(samples, GRID, clean=False)
    assert sent.clean is None
    assert 0 < len(sent.agents.points) < len(whole.agents.points)
    assert len(sent.unions.points) < len(whole.unions.points)
    torch.manual_seed(0)
    encoder = Student(StudentConfig()).encoder.eval()
    with torch.no_grad():
        for name in ('agents', 'unions'):
            one, other = getattr(whole, name), getattr(sent, name)
            expected = encoder(one.points, one.index, one.count)
            found = encoder(other.points, other.index, other.count)
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_batch_is_copied_with_all_its_parts() -> None:
    batch = collate([Samples(DATA.model_copy(update={'turned': 1.0}), GRID, 0, range(1))[0]])
    moved = batch.to(torch.device('meta'))
    assert moved.sizes == batch.sizes
    for part in (moved.agents.points, moved.clean.sizes, moved.unions.points, moved.views, moved.slots):  # type: ignore[union-attr]
        assert part.device.type == 'meta'  # type: ignore[union-attr]
