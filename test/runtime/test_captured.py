# SPDX-License-Identifier: Apache-2.0
"""Runs in fixed buffers, here in the memory of the CPU, where nothing is captured."""

import logging
from pathlib import Path

import numpy as np
import onnxruntime

from diffkd_ros.runtime.captured import CapturedSession
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import OUTPUTS, CooperativeDetector
from diffkd_ros.runtime.session import open_session, session_on_gpu

CARD = ModelCard.load(Path(__file__).parents[2] / 'models' / 'sim_edge')
PATH = CARD.graph_path('ego.onnx')


def inputs(agents: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    size = CARD.grid.height, CARD.grid.width
    return {
        # Not contiguous, as slices of larger maps are.
        'features': rng.normal(size=(agents, *size, CARD.channels)).astype(np.float32).transpose(0, 3, 1, 2),
        'density': rng.random((agents, 1, *size), np.float32),
        'ego_to_agent': np.eye(2, 3, dtype=np.float32)[None].repeat(agents, axis=0),
    }


def test_runs_give_what_the_session_gives_however_the_shapes_change():
    session = onnxruntime.InferenceSession(str(PATH), providers=['CPUExecutionProvider'])
    captured = CapturedSession(session, 'cpu')
    results = []
    for seed, agents in enumerate((2, 1, 3, 2, 1)):
        given = inputs(agents, seed)
        expected = session.run(OUTPUTS, given)
        results.append((captured.run(OUTPUTS, given), expected))
    # At the end: later runs have not written into earlier results.
    for found, expected in results:
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    some = captured.run(OUTPUTS[1::-1], inputs(2, 0))
    np.testing.assert_array_equal(some[1], results[0][1][0])


def test_without_cuda_graphs_the_plain_session_is_used(caplog):
    plain = open_session(PATH, 1, 'cpu')
    with caplog.at_level(logging.WARNING):
        assert session_on_gpu(PATH, plain, CooperativeDetector.shapes(CARD)) is plain
    assert 'ego.onnx runs without CUDA graphs' in caplog.text
