# SPDX-License-Identifier: Apache-2.0
"""Tables of scored frames: their content, AP computed from them, saving and loading."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_frames import OTHER, cars, coop_frame, found, random_results, results, returns

from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.metrics.average_precision import (
    ANY_OVERLAP,
    AveragePrecision,
    DetectionOrder,
    EvaluationError,
)
from diffkd_ros.metrics.frame_results import DROPPED, FALSE_ALARM, FrameResults, join
from diffkd_ros.metrics.protocol import protocol_named
from diffkd_ros.metrics.scoring import score_frame

SIM = protocol_named('sim')
NOTHING = Boxes3D(np.zeros((0, 7)))


def same(a: FrameResults, b: FrameResults) -> bool:
    def columns(part: FrameResults) -> list:
        tables = [
            [getattr(t, f) for f in t.__slots__] for t in (part.detections, part.truths, part.inference)
        ]
        return [part.scenario, part.index, *tables[0], *tables[1], *tables[2]]

    return (a.protocol, a.thresholds) == (b.protocol, b.thresholds) and all(
        left.dtype == right.dtype and np.array_equal(left, right)
        for left, right in zip(columns(a), columns(b), strict=True)
    )


def test_what_each_detection_found_at_each_threshold() -> None:
    truth = Boxes3D(cars(0, 10, 30), track_ids=[5, 6, 7], num_points=[50, 50, 1])
    # IoU 0.6 and 1/3 with the first two, a second on the first, one on an ignored truth, one on nothing.
    detections = found((1, 0.5), (12, 0.9), (1.5, 0.4), (30, 0.8), (-20, 0.7))
    part = score_frame(coop_frame(truth), detections, SIM)
    assert part.thresholds == (ANY_OVERLAP, 0.3, 0.5, 0.7)
    assert part.detections.score.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.5, 0.4])
    alarm, drop = FALSE_ALARM, DROPPED
    assert part.found(ANY_OVERLAP).tolist() == [1, drop, alarm, 0, alarm]
    assert part.found(0.3).tolist() == [1, drop, alarm, 0, alarm]
    assert part.found(0.5).tolist() == [alarm, drop, alarm, 0, alarm]
    assert part.found(0.7).tolist() == [alarm, drop, alarm, alarm, alarm]
    np.testing.assert_allclose(part.detections.iou[1], [1 / 3, 0, 0, 0.6, 0], atol=1e-6)
    np.testing.assert_allclose(part.detections.iou[3], 0)
    assert part.detections.distance.tolist() == [12, 30, 20, 1, 1.5]
    assert part.truths.counted.tolist() == [True, True, False]
    assert [part.hits_by_frame(iou).tolist() for iou in (0.3, 0.5, 0.7)] == [[2], [1], [0]]
    empty = score_frame(coop_frame(NOTHING), NOTHING, SIM)
    assert join([part, empty, part]).hits_by_frame(0.3).tolist() == [2, 0, 2]


def test_returns_are_counted_by_agent() -> None:
    truth = Boxes3D(cars(10), track_ids=[9], num_points=[9])
    ego, other = returns((10, 0, -1, 3)), returns((10, 0.5, -1, 2), (-20, 0, 5, 1), (-32.3, 0, 0, 1))
    # Above a box, 0.3 m from one, and 0.5 m from one.
    detections = found((10, 0.9), (-20, 0.8), (-30, 0.7), (40, 0.6))
    part = score_frame(coop_frame(truth, ego, other), detections, SIM)
    assert (part.truths.returns_ego.tolist(), part.truths.returns_others.tolist()) == ([3], [2])
    assert part.detections.returns_ego.tolist() == [3, 0, 0, 0]
    assert part.detections.returns_others.tolist() == [2, 0, 0, 0]
    assert part.detections.returns_near.tolist() == [5, 1, 1, 0]
    further = coop_frame(truth, ego, returns((-32.5, 0, 0, 1)))
    assert score_frame(further, found((-30, 0.7)), SIM).detections.returns_near.tolist() == [0]


def test_returns_are_counted_in_the_observed_sweeps() -> None:
    truth = Boxes3D(cars(10), track_ids=[9], num_points=[9])
    clean = coop_frame(truth, returns((10, 0, -1, 3)), returns((10, 0, -1, 2)))
    # The ego's cloud is lost but for one return; the other agent is where it is, not at its estimated pose.
    corrupted = coop_frame(None, returns((10, 0, -1, 1)), returns((10, 0, -1, 2)))
    astray = replace(corrupted.agents[OTHER], pose=np.eye(4))
    observed = CoopFrame({**corrupted.agents, OTHER: astray}, corrupted.ego, 0)
    part = score_frame(clean, found((10, 0.9)), SIM, observed)
    assert (part.truths.returns_ego.tolist(), part.truths.returns_others.tolist()) == ([1], [2])
    alone = CoopFrame({1: corrupted.agents[1]}, 1, 0)
    assert score_frame(clean, found((10, 0.9)), SIM, alone).truths.returns_others.tolist() == [0]
    stranger = CoopFrame({**clean.agents, 77: clean.agents[1]}, 1, 0)
    with pytest.raises(EvaluationError, match=r'lacks agents \[77\]'):
        score_frame(clean, found((10, 0.9)), SIM, stranger)


@given(st.integers(0, 2**32 - 1))
def test_ap_is_that_of_the_accumulator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts, metrics = [], {order: AveragePrecision(order=order) for order in DetectionOrder}
    for index in range(3):
        truth = Boxes3D(cars(*rng.uniform(0, 50, 6)), num_points=rng.integers(0, 12, 6))
        detections = found(*zip(rng.uniform(0, 50, 8), rng.integers(1, 6, 8) / 6, strict=True))
        parts.append(score_frame(coop_frame(truth, index=index), detections, SIM))
        for metric in metrics.values():
            metric.add(detections, truth)
    for order, metric in metrics.items():
        for iou, expected in metric.compute().items():
            assert join(parts).average_precision(iou, order) == pytest.approx(
                expected, abs=1e-12, nan_ok=True
            )


def test_frames_without_boxes() -> None:
    empty = score_frame(coop_frame(NOTHING), NOTHING, SIM)
    assert np.isnan(empty.average_precision(0.5))
    assert empty.counted_truths == 0
    missed = score_frame(coop_frame(Boxes3D(cars(0, 9))), Boxes3D.empty(), SIM)
    assert missed.average_precision(0.5) == 0.0
    alarm = score_frame(coop_frame(NOTHING), found((0, 0.9)), SIM)
    assert np.isnan(alarm.average_precision(0.5))
    hit = score_frame(coop_frame(Boxes3D(cars(0))), found((0, 0.5)), SIM)
    # The false alarm of higher score halves the hit's precision; one of three truths is found.
    assert join([empty, missed, alarm, hit]).average_precision(0.5) == pytest.approx(1 / 6, abs=1e-9)


def test_duplicates_are_false_alarms() -> None:
    part = score_frame(coop_frame(Boxes3D(cars(0))), found((0, 0.9), (0, 0.9), (0.1, 0.95)), SIM)
    assert part.found(0.5).tolist() == [0, FALSE_ALARM, FALSE_ALARM]
    assert part.average_precision(0.5) == 1.0


def test_joined_frames_keep_their_rows_and_truths() -> None:
    rng = np.random.default_rng(3)
    parts = [random_results(rng, ['a'], frames=1) for _ in range(5)]
    whole = join(parts)
    assert len(whole) == 5
    for name in ('detections', 'truths'):
        counts = [len(getattr(part, name).frame) for part in parts]
        assert np.bincount(getattr(whole, name).frame, minlength=5).tolist() == counts
    # A detection found a truth of its own frame.
    found = whole.found(0.3)
    assert (whole.truths.frame[found[found >= 0]] == whole.detections.frame[found >= 0]).all()
    assert whole.hits_by_frame(0.3).tolist() == [int(part.hits_by_frame(0.3)[0]) for part in parts]
    assert same(join([join(parts[:2]), join(parts[2:])]), whole)


def test_a_file_holds_all(tmp_path: Path) -> None:
    part = random_results(np.random.default_rng(4), ['a', 'Überfahrt'])
    part.save(tmp_path / 'fog.npz')
    assert same(FrameResults.load(tmp_path / 'fog.npz'), part)
    assert [path.name for path in tmp_path.iterdir()] == ['fog.npz']
    empty = results([], [], 0)
    empty.save(tmp_path / 'none.npz')
    assert same(FrameResults.load(tmp_path / 'none.npz'), empty)


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / 'fog.npz'
    random_results(np.random.default_rng(4), ['a']).save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b'', b'no archive', whole[:300] + b'\0' * 40 + whole[340:]):
        path.write_bytes(content)
        with pytest.raises(EvaluationError, match=r'fog\.npz'):
            FrameResults.load(path)
    np.savez(path, format=np.array(99))
    with pytest.raises(EvaluationError, match=r'format 99, expected 2'):
        FrameResults.load(path)
    np.savez(path, format=np.array(2), protocol=np.array('sim'))
    with pytest.raises(EvaluationError, match='damaged'):
        FrameResults.load(path)
    with pytest.raises(EvaluationError, match=r'gone\.npz'):
        FrameResults.load(tmp_path / 'gone.npz')


def test_columns_that_do_not_fit_are_refused() -> None:
    part = results([0.9, 0.8], [0.6, 0], 2)
    with pytest.raises(EvaluationError, match=r'detections.score must be \(2,\), got \(1,\)'):
        replace(part, detections=replace(part.detections, score=part.detections.score[:1]))
    with pytest.raises(EvaluationError, match='beyond the 2 truths'):
        replace(part, detections=replace(part.detections, found=np.full((4, 2), 2, np.int32)))
    with pytest.raises(EvaluationError, match='order of the 1 frames'):
        replace(part, truths=replace(part.truths, frame=np.array([0, 1], np.int32)))


def test_results_of_different_protocols_do_not_mix() -> None:
    with pytest.raises(EvaluationError, match=r"'test'.*cannot be joined with 'other'"):
        join([results([], [], 1), replace(results([], [], 1), protocol='other')])
    with pytest.raises(EvaluationError, match='no results'):
        join([])
    with pytest.raises(EvaluationError, match=r'not at 0\.55'):
        results([], [], 1).average_precision(0.55)


def test_bad_detections_are_refused() -> None:
    frame = coop_frame(Boxes3D(cars(0)))
    with pytest.raises(EvaluationError, match='without scores'):
        score_frame(frame, Boxes3D(cars(0)), SIM)
    with pytest.raises(EvaluationError, match='NaN'):
        score_frame(frame, found((0, float('nan'))), SIM)
