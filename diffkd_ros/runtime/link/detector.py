# SPDX-License-Identifier: Apache-2.0
"""Detection with layered messages: restore, fuse, and merge with the boxes that were sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import Detection
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.link.memory import Moment
from diffkd_ros.runtime.link.merging import merge_boxes, merge_received
from diffkd_ros.runtime.link.restorer import MapReceiver


def detect_layered(
    card: ModelCard,
    receiver: MapReceiver,
    detect: Callable[[Sequence[BevFeature], Sequence[Matrix]], Detection],
    ego: BevFeature,
    received: Sequence[ReceivedMap | BevFeature],
    poses: Sequence[Matrix],
    moment: Moment | None = None,
) -> Detection:
    """Detect in the ego's map and in what arrived of its neighbours' maps.

    If the ego's map is empty, all boxes that were sent are merged: the fusion alone is then less accurate.

    Args:
        card: of the model.
        receiver: decodes and restores the neighbours' maps.
        detect: fuses maps, the ego's first, and detects, as `CooperativeDetector.detect`.
        ego: its own map.
        received: of each neighbour; a `BevFeature` arrived whole.
        poses: (4, 4) map <- LiDAR of the ego and of each neighbour.
        moment: see `MapReceiver.features`.

    Returns:
        The detection. Its latency also has the stages `restore` and `merge`, about 0 without neighbours; with
        a memory, however, the ego's map is restored in every sweep.
    """
    started = time.perf_counter()
    features = receiver.features(ego, received, poses, moment)
    restored = time.perf_counter()
    detection = detect(features, poses)
    detected = time.perf_counter()
    layered = [(each, pose) for each, pose in zip(received, poses[1:], strict=True) if _has_layers(each)]
    boxes = detection.boxes
    if layered:
        maps, theirs = zip(*layered, strict=True)
        places = [poses[0], *theirs]
        if ego.density.any():
            boxes = merge_received(boxes, maps, places, card.grid, card.decoding)
        else:
            boxes = merge_boxes(boxes, [each.boxes for each in maps], places, card.decoding)
    latency = {
        'restore': (restored - started) * 1e3,
        **detection.latency_ms,
        'merge': (time.perf_counter() - detected) * 1e3,
    }
    return replace(detection, boxes=boxes, latency_ms=latency)


def _has_layers(received: ReceivedMap | BevFeature) -> bool:
    return isinstance(received, ReceivedMap)
