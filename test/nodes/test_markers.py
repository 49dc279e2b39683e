# SPDX-License-Identifier: Apache-2.0
"""The observed area, compared with the returns of all agents."""

from __future__ import annotations

import numpy as np

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.messages.building import header_message
from diffkd_ros.messages.poses import pose_of
from diffkd_ros.nodes.link.arrived import Extent
from diffkd_ros.nodes.link.neighbours import Verdict
from diffkd_ros.nodes.output.markers import marker_array, observed_blocks
from diffkd_ros.runtime.detector import Detection
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import TileState


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


def test_tiles_of_a_layered_message_are_drawn_where_they_lie(card):
    """Except for empty ones, with a colour for each state."""
    grid = card.grid
    rows, columns = grid.height // 4, grid.width // 4
    tiles = np.full((rows, columns), TileState.EMPTY, np.uint8)
    tiles[0, 0], tiles[rows - 1, 2], tiles[1, 1] = TileState.FINE, TileState.COARSE, TileState.MISSING
    pose = pose_from_euler((20.0, 5.0, 0.0), yaw=0.5)
    feature = BevFeature.empty(card.channels, grid.height, grid.width)
    verdict = Verdict('cav_2', '', 0.1, Extent(900, 3, 4), 3, pose, feature, tiles, 0.25)
    detection = Detection(
        Boxes3D.empty(),
        np.ones(2),
        0.5,
        np.ones((2, grid.height, grid.width)),
        np.zeros(()),
        np.zeros(()),
        {},
    )
    observed = np.zeros((grid.height, grid.width), bool)
    array = marker_array(
        header_message(1, 'cav_1/lidar'), detection, [verdict], observed, [np.eye(4), pose], grid
    )
    (received,) = [marker for marker in array.markers if marker.ns == 'received']
    np.testing.assert_allclose(pose_of(received.pose), pose, atol=1e-9)
    edge = 4 * grid.cell
    expected = {
        (grid.x_min + edge / 2, grid.y_min + edge / 2),
        (grid.x_min + 2.5 * edge, grid.y_max - edge / 2),
        (grid.x_min + 1.5 * edge, grid.y_min + 1.5 * edge),
    }
    found = [(point.x, point.y) for point in received.points]
    np.testing.assert_allclose(sorted(found), sorted(expected))
    assert len({(color.r, color.g, color.b) for color in received.colors}) == 3
    (text,) = [marker.text for marker in array.markers if marker.ns == 'neighbour_names']
    assert text == 'cav_2: weight 1.00, 100 ms old, 3 of 4 chunks, 25% restored'
