# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from script import build_tool

from diffkd_ros.corruptions import names
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig


def test_the_picture_shows_every_corruption(tmp_path: Path) -> None:
    frame = Simulator(SimulatorConfig(frames_per_scenario=1), seed=1).scenario(0).frame(0)
    figure = build_tool('document_corruptions').draw_corruption_grid(frame)
    titles = {axis.get_title(loc='left') for axis in figure.axes}
    assert titles == {'clean', *names()}
    figure.savefig(tmp_path / 'corruptions.png', dpi=30)
    assert (tmp_path / 'corruptions.png').read_bytes().startswith(b'\x89PNG')
