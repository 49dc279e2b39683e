# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from small_recipe import small_recipe

from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.model.student import Student
from diffkd_ros.training import validation
from diffkd_ros.training.frames import held_out_frames


def test_the_nearest_neighbours_are_fused_as_by_the_ego_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of three agents, of neighbours at 30, 10 and 20 m the one at 30 m is left out."""
    recipe = small_recipe(data={'max_agents': 3})
    drawn = held_out_frames(recipe.data)[0]
    points = drawn.agents[drawn.ego].points
    # Points outside the grid do not reach the encoder.
    points = points[(np.abs(points[:, :3]) < (20.0, 20.0, 1.0)).all(axis=1)]
    at = {0: 0.0, 1: 30.0, 2: 10.0, 3: 20.0}
    agents = {
        agent: AgentSweep(points[: 100 + agent], pose_from_euler([x, 0.0, 2.0])) for agent, x in at.items()
    }
    frame = CoopFrame(agents, ego=0, stamp=0, ground_truth=drawn.ground_truth)
    monkeypatch.setattr(validation, 'held_out_frames', lambda data: [frame])
    student, encoded = Student(recipe.model), []
    student.encoder.register_forward_pre_hook(
        lambda _, inputs: encoded.append(torch.bincount(inputs[1]).tolist())
    )
    validation.Validation(recipe, torch.device('cpu')).student(student, restore=False)
    assert encoded == [[100, 102, 103]]
