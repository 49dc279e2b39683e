# SPDX-License-Identifier: Apache-2.0
"""Runs in fixed buffers, here in the memory of the CPU, where nothing is captured."""

import logging
from pathlib import Path

import numpy as np
import onnxruntime

from diffkd_ros.runtime.captured import CapturedSession
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import OUTPUTS, CooperativeDetector
from diffkd_ros.runtime.session import PROVIDERS, open_session, with_cuda_graphs

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
    captured = CapturedSession(session, session, 'cpu')
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


def test_a_session_that_agrees_with_the_plain_one_is_used():
    plain = open_session(PATH, 1, 'cpu')
    session = with_cuda_graphs(PATH, plain, CooperativeDetector.shapes(CARD), 'cpu')
    assert isinstance(session, CapturedSession)
    given = inputs(3, 0)
    for one, other in zip(session.run(OUTPUTS, given), plain.run(OUTPUTS, given), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_gpu_the_plain_session_is_used(caplog, monkeypatch):
    plain = open_session(PATH, 1, 'cpu')
    monkeypatch.setitem(PROVIDERS, 'cuda', ['NoSuchProvider'])
    with caplog.at_level(logging.WARNING):
        assert with_cuda_graphs(PATH, plain, CooperativeDetector.shapes(CARD)) is plain
    assert 'ego.onnx runs without CUDA graphs' in caplog.text


def test_results_that_differ_and_runs_that_fail_end_the_capture(caplog):
    plain = open_session(PATH, 1, 'cpu')
    given = inputs(2, 0)
    expected = plain.run(OUTPUTS, given)
    # Of another graph: its outputs have other values, and its inputs other names.
    other = open_session(CARD.graph_path('sender.onnx'), 1, 'cpu')
    failing = CapturedSession(other, plain, 'cpu')
    for one, two in zip(failing.run(OUTPUTS, given), expected, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not failing.captures
    assert caplog.text.count('no more CUDA graphs') == 1
    failing.run(OUTPUTS, given)
    assert caplog.text.count('no more CUDA graphs') == 1
    shares = [OUTPUTS[2]]
    differing = CapturedSession(_Turned(plain), plain, 'cpu')
    differing.check(shares, given)
    assert not differing.captures


class _Turned:
    """A session whose runs in buffers see the agents in reverse."""

    def __init__(self, session):
        self._session = session

    def io_binding(self):
        return self._session.io_binding()

    def run_with_iobinding(self, binding, options):
        self._session.run_with_iobinding(binding, options)
        for output in binding.get_outputs():
            output.update_inplace(np.ascontiguousarray(output.numpy()[::-1]))
