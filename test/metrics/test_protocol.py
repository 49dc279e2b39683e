# SPDX-License-Identifier: Apache-2.0
"""Published protocols, with boxes at their limits."""

import math

import numpy as np
import pytest
from scored_frames import EGO, cars, coop_frame

from diffkd_ros.frame import Boxes3D, FrameError
from diffkd_ros.metrics.average_precision import DetectionOrder, EvaluationError
from diffkd_ros.metrics.protocol import PROTOCOLS, Containment, Protocol, protocol_named


def box(x: float = 0, y: float = 0, z: float = -1, length: float = 4, yaw: float = 0) -> list[float]:
    return [x, y, z, length, 2, 1.5, yaw]


def kept(protocol: str, *boxes: list[float]) -> list[bool]:
    """Which detections are scored."""
    rows = Boxes3D(boxes, scores=np.full(len(boxes), 0.5), track_ids=np.arange(len(boxes)))
    ids = protocol_named(protocol).detections(rows).track_ids
    return [k in ids for k in range(len(boxes))]


@pytest.mark.parametrize(
    ('protocol', 'x', 'y'),
    [
        ('opencood', 140, 40),
        ('heal', 102.4, 102.4),
        ('heal_dair', 102.4, 51.2),
        ('coalign_dair', 100.8, 40),
        ('v2v4real', 100, 40),
    ],
)
def test_published_ranges_hold_the_whole_box(protocol: str, x: float, y: float) -> None:
    assert kept(
        protocol,
        box(x=x - 2.0),
        box(x=x - 1.99),
        box(x=2.0 - x),
        box(x=1.99 - x),
        box(y=y - 1.0),
        box(y=y - 0.99),
        box(y=0.99 - y),
    ) == [True, False, True, False, True, False, False]
    truth = Boxes3D([box(x=x - 2.0), box(x=x - 1.99), box(y=y - 0.99)], track_ids=[5, 6, 7])
    assert protocol_named(protocol).truth(coop_frame(truth)).track_ids.tolist() == [5]


def test_the_simulators_range_holds_the_centre() -> None:
    assert kept('sim', box(x=51.1), box(x=51.2), box(x=-51.2), box(y=25.5), box(y=25.7), box(z=40)) == [
        True, False, True, True, False, True,
    ]  # fmt: skip
    assert kept('sim', box(length=12)) == [True]


def test_detections_that_span_over_six_metres_are_dropped_and_truths_are_not() -> None:
    # A 6.2 x 2 m box turned by 45 degrees spans (6.2 + 2) / sqrt(2) = 5.8 m.
    rows = (
        box(length=6),
        box(length=6.01),
        box(length=6.2, yaw=math.pi / 4),
        box(length=6.01, yaw=math.pi / 2),
        box(length=9),
    )
    assert kept('opencood', *rows) == [True, False, True, False, False]
    truth = Boxes3D(rows, track_ids=[5, 6, 7, 8, 9])
    assert protocol_named('opencood').truth(coop_frame(truth)).track_ids.tolist() == [5, 6, 7, 8, 9]


def test_heights() -> None:
    # Boxes of 1.5 m: from z - 0.75 to z + 0.75.
    rows = box(z=-2.25), box(z=-2.26), box(z=0.25), box(z=0.26)
    assert kept('opencood', *rows) == [True, False, True, False]
    # HEAL's range for DAIR-V2X reaches from -3.5 to 1.5 m, but detections still face the limits of OPV2V.
    assert kept('heal_dair', *rows) == [True, False, True, False]
    truth = Boxes3D([*rows, box(z=0.76)], track_ids=[5, 6, 7, 8, 9])
    assert protocol_named('heal_dair').truth(coop_frame(truth)).track_ids.tolist() == [5, 6, 7, 8]


def test_the_egos_own_vehicle_counts_where_published() -> None:
    frame = coop_frame(Boxes3D(cars(0, 10), track_ids=[EGO, 9]))
    assert protocol_named('opencood').truth(frame).track_ids.tolist() == [EGO, 9]
    assert protocol_named('sim').truth(frame).track_ids.tolist() == [9]


def test_truth_is_in_the_egos_frame() -> None:
    frame = coop_frame(Boxes3D(cars(10), track_ids=[9]))
    turned = type(frame)(frame.agents, 2, 0, frame.ground_truth)
    for name in ('opencood', 'sim'):
        # The other agent stands at x = 20 and looks back.
        place = protocol_named(name).truth(turned).boxes[0]
        np.testing.assert_allclose(place[[0, 1]], [10, 0], atol=1e-9)
        assert abs(place[6]) == pytest.approx(math.pi)


def test_presets_differ_where_the_published_ones_do() -> None:
    assert PROTOCOLS['opencood'].order is DetectionOrder.PER_FRAME
    assert PROTOCOLS['v2v4real'].order is DetectionOrder.PER_FRAME
    others = {p.order for n, p in PROTOCOLS.items() if n not in ('opencood', 'v2v4real')}
    assert others == {DetectionOrder.GLOBAL}
    assert {n for n, p in PROTOCOLS.items() if p.min_points} == {'sim'}


def test_nothing_in_nothing_out() -> None:
    for protocol in PROTOCOLS.values():
        assert len(protocol.detections(Boxes3D.empty())) == 0
        assert len(protocol.truth(coop_frame(Boxes3D(np.zeros((0, 7)))))) == 0


def test_errors_say_what_came() -> None:
    with pytest.raises(EvaluationError, match="no protocol 'kitti'; known are sim, opencood"):
        protocol_named('kitti')
    with pytest.raises(EvaluationError, match="frame 3 of scenario 'drive' has no ground truth"):
        protocol_named('sim').truth(coop_frame(None, index=3))
    with pytest.raises(EvaluationError, match='min < max'):
        Protocol('odd', (0, 0, 0, 1, -1, 1))
    with pytest.raises(EvaluationError, match='threshold'):
        Protocol('odd', (0, 0, 0, 1, 1, 1), iou_thresholds=(1.5,))
    with pytest.raises(FrameError):
        Boxes3D([box(x=math.nan)])
    assert Containment('centre') is Containment.CENTRE
