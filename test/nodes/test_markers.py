# SPDX-License-Identifier: Apache-2.0
"""The observed area, compared with the returns of all agents."""

from __future__ import annotations

import numpy as np

from diffkd_ros.nodes.output.markers import observed_blocks


def test_the_observed_blocks_are_those_with_returns(scene, encoder, card):
    """Every return lies in an observed block, and every observed block has a return, up to a cell."""
    grid = card.grid
    agents = [scene.agents[number] for number in (1, 2, 3)]
    blocks = observed_blocks(
        [encoder.encode(agent.points).density > 0 for agent in agents], [agent.pose for agent in agents], grid
    )
    assert blocks.shape == (grid.height // 4, grid.width // 4)

    edge, slack = 4 * grid.cell, grid.cell / np.sqrt(2) + 1e-3
    rows, columns = np.nonzero(blocks)
    centres = np.stack([grid.x_min + edge * (columns + 0.5), grid.y_min + edge * (rows + 0.5)], axis=1)
    low, high = np.array([grid.x_min, grid.y_min]), np.array([grid.x_max, grid.y_max])
    seen = []
    for agent in agents:
        points = agent.points[:, :3].astype(np.float64)
        inside = ((points[:, :2] >= low) & (points[:, :2] < high)).all(axis=1)
        inside &= (points[:, 2] >= grid.z_min) & (points[:, 2] < grid.z_max)
        homogeneous = np.column_stack([points[inside], np.ones(inside.sum())])
        in_ego = (homogeneous @ (np.linalg.inv(agents[0].pose) @ agent.pose).T)[:, :2]
        seen.append(in_ego[((in_ego >= low + slack) & (in_ego < high - slack)).all(axis=1)])
        assert len(seen[-1]) > 100
    returns = np.concatenate(seen)
    distance = np.concatenate(
        [np.abs(part[:, None] - centres).max(axis=2) for part in np.array_split(returns, 50)]
    )
    assert distance.min(axis=1).max() <= edge / 2 + slack
    # Blocks at the edge may hold only returns that were left out above.
    inner = ((centres - edge > low) & (centres + edge < high)).all(axis=1)
    assert distance.min(axis=0)[inner].max() <= edge / 2 + slack
