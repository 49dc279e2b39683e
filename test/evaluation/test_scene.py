# SPDX-License-Identifier: Apache-2.0
"""Pictures: objects are drawn in place, in the colour of their outcome."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.pipeline import Perception
from diffkd_ros.evaluation.report.animation import save_animation
from diffkd_ros.evaluation.report.panels import fusion_view
from diffkd_ros.evaluation.report.scene import draw, save_png
from diffkd_ros.evaluation.report.view import AgentView, FusionView
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.frame_results import Inference
from diffkd_ros.metrics.protocol import protocol_named
from diffkd_ros.runtime.detector import Detection

EXTENT = (-51.2, -25.6, 51.2, 25.6)
GRID = BevGrid(-51.2, -25.6, -3.0, 51.2, 25.6, 1.0, 8, 16)
MAIN, ENERGY, GATE, RELIABILITY = range(4)


def cars(*places: tuple[float, float]) -> np.ndarray:
    return np.array([[x, y, -1.0, 6.0, 4.0, 1.5, 0.0] for x, y in places]).reshape(-1, 7)


def found(*places: tuple[float, float]) -> Boxes3D:
    return Boxes3D(cars(*places), scores=np.full(len(places), 0.9))


def make_view() -> FusionView:
    """Vehicles in three quarters of the picture; maps with one strong cell at x = 32.4, y = -19.6."""
    wall = np.zeros((400, 4), np.float32)
    wall[:, 0] = -30.0
    wall[:, 1] = np.repeat(np.linspace(10, 20, 100), 4)
    wall[:, 2] = np.tile([-2.0, -1.0, 0.0, 1.0], 100)
    energy = np.zeros((2, 64, 128), np.float32)
    energy[1, 7, 104] = 1.0
    gate = np.stack([1.0 - energy[1], energy[1]])
    return FusionView(
        extent=EXTENT,
        ego=1,
        agents={
            1: AgentView(np.zeros((0, 4), np.float32), (0.0, 0.0)),
            2: AgentView(wall, (-40.0, -20.0)),
        },
        fused=(1, 2),
        detections=found((20, 10), (-20, -10), (30, 20), (70, 0)),
        ego_only=found((20, 10)),
        truth=Boxes3D(cars((20, 10), (-20, -10), (0, 15), (40, -5)), num_points=[9, 9, 9, 1]),
        energy=energy,
        gate=gate,
        reliability=energy[1],
        title='crossing  frame 3',
        note='AP@0.5 0.9',
    )


def reader(figure: Figure) -> Callable[[int, float, float], np.ndarray]:
    """Reads the colour, 0 to 255, at a place in metres of one of the figure's panels."""
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)

    def at(panel: int, x: float, y: float) -> np.ndarray:
        column, row = figure.axes[panel].transData.transform((x, y))
        return image[image.shape[0] - 1 - int(row), int(column)]

    return at


@pytest.fixture(scope='module')
def figure() -> Figure:
    return draw(make_view())


def test_boxes_have_the_colour_of_their_outcome(figure: Figure) -> None:
    at = reader(figure)
    red, green, blue = at(MAIN, 18, 11)  # found, by the ego alone as well
    assert green > 1.4 * max(red, blue)
    red, green, blue = at(MAIN, -22, -9)  # found only together: yellow
    assert min(red, green) > 1.8 * blue
    red, green, blue = at(MAIN, 28, 21)  # false alarm
    assert red > 1.8 * max(green, blue)
    for empty in ((0, 15), (40, -5), (20, -10)):  # missed, not scored, and the mirror image of a detection
        assert at(MAIN, *empty).max() < 40


def test_the_sentence_counts_what_the_score_counts(figure: Figure) -> None:
    texts = [text.get_text() for text in figure.texts]
    # The detection at x = 70 lies outside the picture, the truth with one return is not scored.
    sentence = (
        '3 vehicles:  2 found together, 1 by the ego alone   (1 gained, 0 lost)     false alarms:  1 together'
    )
    assert any(text.startswith(sentence) for text in texts)
    assert 'crossing  frame 3' in texts
    assert 'AP@0.5 0.9' in texts


def test_points_are_drawn_in_place_in_the_colour_of_their_agent(figure: Figure) -> None:
    at = reader(figure)
    step = 102.4 / figure.axes[MAIN].get_window_extent().width
    strip = np.array([at(MAIN, -30.0 + k * step, 15.0) for k in range(-2, 3)])
    red, _, blue = strip[strip.sum(axis=1).argmax()]
    assert red > 180
    assert red > 2 * blue
    assert at(MAIN, -30.0, -15.0).max() < 40
    assert at(MAIN, 30.0, 15.0).max() < 40


@pytest.mark.parametrize('panel', [ENERGY, GATE, RELIABILITY])
def test_maps_have_row_0_at_y_min_and_column_0_at_x_min(figure: Figure, panel: int) -> None:
    at = reader(figure)
    elsewhere = at(panel, 32.4, 19.6)
    assert np.array_equal(at(panel, -32.4, -19.6), elsewhere)
    assert np.abs(at(panel, 32.4, -19.6) - elsewhere).max() > 100
    if panel == GATE:
        # The neighbour supplied this cell alone: the first neighbour's orange.
        red, _, blue = at(panel, 32.4, -19.6)
        assert red > 3 * blue


def test_an_agent_that_was_not_fused_is_grey_and_named_so() -> None:
    view = make_view()
    figure = draw(replace(view, fused=(1,), energy=view.energy[:1], gate=view.gate[:1]))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ['ego 1', 'agent 2 (not fused)']
    at = reader(figure)
    column = max((at(MAIN, -30.0 + 0.067 * k, 15.0) for k in range(-2, 3)), key=lambda colour: colour.sum())
    assert column.max() - column.min() < 50


def test_an_empty_scene_can_be_drawn() -> None:
    view = make_view()
    nothing = Boxes3D.empty()
    alone = {1: AgentView(np.full((3, 4), np.nan, np.float32), (0.0, 0.0))}
    empty = np.zeros((1, 64, 128), np.float32)
    view = replace(
        view, agents=alone, fused=(1,), detections=nothing, ego_only=nothing, truth=nothing,
        energy=empty, gate=empty, reliability=empty[0],
    )  # fmt: skip
    assert any(text.get_text().startswith('0 vehicles') for text in draw(view).texts)


def test_png_has_the_width_asked_for(tmp_path: Path) -> None:
    save_png(make_view(), tmp_path / 'picture.png', width=800)
    with Image.open(tmp_path / 'picture.png') as image:
        assert image.width == 800


def test_animation_shows_the_same_pictures(tmp_path: Path) -> None:
    first = make_view()
    second = replace(first, detections=found((0, -20)), title='crossing  frame 4')
    # The third shows other agents, so what was kept from the first two must go.
    third = replace(first, fused=(1,), energy=first.energy[:1], gate=first.gate[:1])
    path = tmp_path / 'drive.gif'
    save_animation(iter([first, second, third]), path, fps=4.0, width=640)
    with Image.open(path) as animation:
        assert (animation.n_frames, animation.width, animation.info['loop']) == (3, 640, 0)
        assert animation.info['duration'] == 250
        for k, view in enumerate((first, second, third)):
            animation.seek(k)
            shown = np.asarray(animation.convert('RGB')).astype(int)
            figure = draw(view, 640)
            figure.canvas.draw()
            drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
            # The palette is coarse, and frames of axes may differ by a pixel.
            assert (np.abs(shown - drawn).max(axis=2) > 60).mean() < 0.002


def test_animation_keeps_to_the_size_asked_for(tmp_path: Path) -> None:
    view = make_view()
    rng = np.random.default_rng(0)
    noise = [replace(view, reliability=rng.random((64, 128)).astype(np.float32)) for _ in range(4)]
    save_animation(noise, tmp_path / 'large.gif', width=480)
    save_animation(noise, tmp_path / 'small.gif', width=480, max_bytes=40_000)
    assert (tmp_path / 'large.gif').stat().st_size > 40_000
    assert (tmp_path / 'small.gif').stat().st_size <= 40_000


def test_a_view_of_a_frame_is_in_the_lidar_frame_of_the_ego() -> None:
    point = np.array([[5.0, 0.0, 0.0, 0.5]], np.float32)
    frame = CoopFrame(
        agents={
            4: AgentSweep(point, pose_from_euler((100.0, 50.0, 2.0), yaw=np.pi / 2)),
            2: AgentSweep(point, pose_from_euler((100.0, 70.0, 2.0), yaw=np.pi)),
        },
        ego=4,
        stamp=0,
        ground_truth=Boxes3D(
            np.array([[100.0, 50.0, 1, 4, 2, 1.5, np.pi / 2], [100.0, 70.0, 1, 4, 2, 1.5, np.pi]]),
            track_ids=[4, 2],
        ),
        scenario='crossing',
        index=8,
    )
    maps = np.zeros((2, 8, 16), np.float32)
    drawn, weak = found((20.0, 0.0)), Boxes3D(cars((10, 0)), scores=[0.2])
    detection = Detection(drawn, np.ones(2, np.float32), 0.5, maps, maps[0], maps, {})
    seen = Perception(detection, (4, 2), frame, Inference.of_frame())
    settings = (weak, protocol_named('sim'), GRID, 'crossing 8')
    view = fusion_view(frame, seen, *settings)
    assert view.title == 'crossing 8'
    assert view.extent == EXTENT
    np.testing.assert_allclose(view.agents[4].points, point)
    # The neighbour is 20 m ahead and faces left: five metres before it is five metres to the left.
    assert view.agents[2].position == pytest.approx((20.0, 0.0))
    np.testing.assert_allclose(view.agents[2].points, [[20.0, 5.0, 0.0, 0.5]], atol=1e-5)
    np.testing.assert_allclose(view.truth.boxes[:, :2], [[20.0, 0.0]], atol=1e-9)
    assert (len(view.detections), len(view.ego_only)) == (1, 0)
    with pytest.raises(EvaluationError, match='no ground truth'):
        fusion_view(replace(frame, ground_truth=None), seen, *settings)


def test_an_animation_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiffkdError, match='at least one view'):
        save_animation([], tmp_path / 'nothing.gif')


def test_scoring_does_not_load_the_drawing_libraries() -> None:
    program = (
        'import sys, diffkd_ros.metrics.average_precision, diffkd_ros.evaluation.report.scene;'
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'PIL')))"
    )
    assert subprocess.run([sys.executable, '-c', program], check=False).returncode == 0
