# SPDX-License-Identifier: Apache-2.0
"""False boxes, lost vehicles, and the rates and delay of judgements of senders."""

import math

import numpy as np
import pytest
from scored_frames import cars, coop_frame, found

from diffkd_ros.frame import Boxes3D
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.deception import (
    Judgement,
    detected_share,
    false_boxes,
    false_share,
    lost_share,
    mean_delay,
)
from diffkd_ros.metrics.frame_results import join
from diffkd_ros.metrics.protocol import protocol_named
from diffkd_ros.metrics.scoring import score_frame

PROTOCOL = protocol_named('heal')


def scored(*detections: Boxes3D, truth=(0.0, 10.0, 20.0)):
    frames = (coop_frame(Boxes3D(cars(*truth)), index=k) for k in range(len(detections)))
    return join(
        [score_frame(frame, boxes, PROTOCOL) for frame, boxes in zip(frames, detections, strict=True)]
    )


def test_false_boxes_lie_on_nothing():
    # On a truth, shifted with an IoU of 0.25 and 0.08, on nothing, and on nothing with a low score.
    boxes = found((0.0, 0.9), (12.4, 0.8), (23.4, 0.7), (40.0, 0.6), (50.0, 0.29))
    assert false_boxes(scored(boxes, found((0.0, 0.9)))) == pytest.approx(2 / 2)


def test_lost_are_those_that_the_ego_finds_alone():
    alone = scored(found((0.0, 0.9), (10.0, 0.9)), found((20.0, 0.5)))
    together = scored(found((0.0, 0.9), (20.0, 0.9)), found((20.0, 0.5), (10.0, 0.4)))
    assert lost_share(together, alone, 0.5) == pytest.approx(1 / 3)
    assert lost_share(alone, alone, 0.5) == 0
    assert math.isnan(lost_share(together, scored(found(), found()), 0.5))
    with pytest.raises(EvaluationError, match='same frames'):
        lost_share(together, scored(found((0.0, 0.9))), 0.5)


def drive(*frames):
    """Agent 2 lies; those judged in each frame."""
    return {10 + k: Judgement((2,), judged) for k, judged in enumerate(frames)}


def test_nothing_is_known_where_nobody_judges():
    drives = [drive({}, {})]
    figures = detected_share(drives), mean_delay(drives), false_share(drives)
    assert np.isnan(figures).all()


def test_detection_and_delay():
    drives = [
        drive({2: False, 3: False}, {2: True, 3: False}, {2: True, 3: True}, {}),
        drive({2: False}, {2: False}),
    ]
    assert detected_share(drives) == pytest.approx(2 / 6)
    assert mean_delay(drives) == pytest.approx(0.1)
    assert false_share(drives) == pytest.approx(1 / 3)
    gaps = {10: Judgement((2,), {2: False}), 15: Judgement((2,), {2: True})}
    assert math.isnan(mean_delay([gaps]))
