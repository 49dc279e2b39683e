# SPDX-License-Identifier: Apache-2.0
"""Looks at a recorded run again, without ROS: what the ego would have found alone, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from diffkd_ros.evaluation.report import scene
from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in, within
from diffkd_ros.messages.names import agent_name
from diffkd_ros.metrics.average_precision import AveragePrecision, match
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.sources.dataset import readable
from diffkd_ros.sources.rosbag import RosbagDataset

_IOU = 0.5
# Weaker boxes count in the average precision, but would clutter a picture.
_DRAWN_SCORE = 0.3


@dataclass(frozen=True)
class Review:
    """What came of it.

    Attributes:
        frames: read from the bag.
        incomplete: frames that lack something.
        ego_only: average precision of the ego alone, by IoU threshold.
        views: of the frames to be animated.
        best: index of the view in which cooperation gained most.
    """

    frames: int
    incomplete: int
    ego_only: dict[float, float]
    views: list[scene.FusionView]
    best: int


def review_bag(
    bag: Path,
    card: ModelCard,
    animated: range,
    min_points: int,
    threads: int,
    progress: Callable[[int], None],
) -> Review:
    """Run the model on a bag's sweeps, on every frame with the ego alone, on some with its neighbours.

    Args:
        bag: recorded by the demo.
        card: of the model the run used.
        animated: indices of the frames to fuse again for pictures.
        min_points: truths with fewer returns are ignored.
        threads: CPU threads.
        progress: called with the number of frames done.
    """
    encoder = FeatureEncoder(card, threads=threads)
    detector = CooperativeDetector(card, threads=threads)
    precision = AveragePrecision(min_points=min_points)
    source = RosbagDataset(bag)
    frames = filter(None, (readable(source.__getitem__, index) for index in range(len(source))))
    views: list[scene.FusionView] = []
    gains: list[int] = []
    count = 0
    for count, frame in enumerate(frames, start=1):
        ego = frame.agents[frame.ego]
        own = encoder.encode(ego.points)
        alone = detector.detect([own], [ego.pose]).boxes
        truth = _truth(frame, card)
        precision.add(alone, truth)
        if count - 1 in animated:
            view = _view(frame, card, encoder, detector, own, alone)
            views.append(view)
            gains.append(
                _found(view.detections, truth, min_points) - _found(_drawn(alone), truth, min_points)
            )
        progress(count)
    best = max(range(len(gains)), key=gains.__getitem__, default=0)
    return Review(count, source.incomplete, precision.compute(), views, best)


def _truth(frame: CoopFrame, card: ModelCard) -> Boxes3D:
    grid = card.grid
    return within(ground_truth_in(frame, frame.ego), grid.x_min, grid.y_min, grid.x_max, grid.y_max)


def _drawn(boxes: Boxes3D) -> Boxes3D:
    return boxes[boxes.scores >= _DRAWN_SCORE] if boxes.scores is not None else boxes


def _found(detections: Boxes3D, truth: Boxes3D, min_points: int) -> int:
    return int(match(detections, truth, _IOU, min_points).hit.sum())


def _view(
    frame: CoopFrame,
    card: ModelCard,
    encoder: FeatureEncoder,
    detector: CooperativeDetector,
    own: BevFeature,
    alone: Boxes3D,
) -> scene.FusionView:
    features = [own]
    for agent in frame.neighbours:
        # Through the codec, as over the air.
        encoded = codec.encode(encoder.encode(frame.agents[agent].points))
        features.append(codec.decode(encoded, card.channels, card.grid.height, card.grid.width))
    fused = (frame.ego, *frame.neighbours)
    detection = detector.detect(features, [frame.agents[agent].pose for agent in fused])
    shares = ', '.join(
        f'{agent_name(agent)} {weight:.0%}'
        for agent, weight in zip(fused, detection.gate_weights, strict=True)
    )
    grid = card.grid
    return scene.FusionView.of_frame(
        replace(frame, scenario=''),
        (grid.x_min, grid.y_min, grid.x_max, grid.y_max),
        fused,
        _drawn(detection.boxes),
        _drawn(alone),
        detection.energy_map,
        detection.gate_map,
        detection.reliability_map,
        note=f'drawn: score ≥ {_DRAWN_SCORE}   gate shares: {shares}',
    )
