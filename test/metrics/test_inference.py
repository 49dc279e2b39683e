# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import pytest
from scored_frames import results

from diffkd_ros.metrics.frame_results import Inference, join
from diffkd_ros.metrics.inference import inference_figures


def test_figures_over_frames():
    # Two messages of 1000 bytes, one of 4000, and a frame without neighbours.
    rows = [
        Inference.of_frame(0.8, 0.9, 0.3, 2, 2000, 30.0, 90.0),
        Inference.of_frame(0.4, 0.5, 0.1, 1, 4000, 32.0, 100.0),
        Inference.of_frame(reliability=0.6, gate_ego=1.0, encode_ms=60.0, fuse_ms=50.0),
    ]
    figures = inference_figures(join([replace(results([], [], 1), inference=row) for row in rows]))
    # 2000 bytes a message, ten a second.
    assert figures.link_mbit_s == pytest.approx(0.16)
    assert figures.ego_reliability == pytest.approx(0.6)
    assert figures.gate_ego == pytest.approx(0.8)
    assert figures.gate_neighbours == pytest.approx(0.2)
    assert (figures.encode_ms, figures.fuse_ms) == (32.0, 90.0)


def test_what_no_frame_has_is_not_a_number():
    figures = inference_figures(replace(results([], [], 1), inference=Inference.of_frame()))
    assert figures.link_mbit_s == 0.0
    assert all(
        value != value for value in (figures.ego_reliability, figures.gate_neighbours, figures.encode_ms)
    )
