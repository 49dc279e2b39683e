# SPDX-License-Identifier: Apache-2.0
"""The order in which tiles are sent."""

import torch

from diffkd_ros.model.ranking import TileRanking


def test_untrained_a_tile_ranks_by_the_highest_score_in_and_around_it() -> None:
    logits = torch.full((1, 1, 8, 16), -5.0)
    logits[0, 0, 3, 9] = 2.0  # the last row of the first row of tiles: next to a tile below
    worth = TileRanking(6)(torch.randn(1, 6, 8, 16), torch.ones(1, 1, 8, 16), logits)[0, 0]
    assert worth.shape == (2, 4)
    assert (worth >= 0).all()
    highest = worth == worth.max()
    assert highest[0, 2]
    assert highest[1, 2]
    assert highest.sum() == 2
