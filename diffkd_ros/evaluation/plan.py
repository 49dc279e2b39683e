# SPDX-License-Identifier: Apache-2.0
"""What an evaluation measures, and the files of its results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diffkd_ros.attacks.statement import Optimiser
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.cooperation import Cooperation, Plausibility
from diffkd_ros.evaluation.cooperations import INTERMEDIATE, cooperation_named
from diffkd_ros.evaluation.model import Model, Sessions
from diffkd_ros.evaluation.pipeline import HISTORY
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.calibration import MIN_SCORE
from diffkd_ros.metrics.frame_results import FrameResults
from diffkd_ros.metrics.protocol import Protocol, protocol_named
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.sources.source import Scenario, Source


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated under every condition.

    Attributes:
        out: folder for the results.
        source: of the frames.
        model: model folder.
        protocol_name: of a preset.
        cooperation: name of the way to cooperate.
        answers: bags whose recorded detections are used as the clean condition.
        sessions: opens the sessions of a model without ONNX graphs.
        budget: most bytes of a message, None for no limit but that of the way to cooperate.
        history: frames kept before the first scored one of a scenario, if it is long enough.
        optimiser: computes the maps of attacks by gradients.
        plausibility: see `Cooperation.begin`.
    """

    out: Path
    source: Source
    model: Path
    protocol_name: str
    cooperation: str = INTERMEDIATE
    answers: tuple[Path, ...] = ()
    sessions: Sessions | None = None
    budget: int | None = None
    history: int = HISTORY
    optimiser: Optimiser | None = None
    plausibility: Plausibility = 'sweep'

    @property
    def protocol(self) -> Protocol:
        """The protocol.

        Raises:
            EvaluationError: if there is no such preset.
        """
        return protocol_named(self.protocol_name)

    def positions(self, drive: Scenario) -> list[int]:
        """Positions of the frames that are scored."""
        return self.source.positions(drive, self.history)

    def file(self, condition: Condition, drive: str) -> Path:
        """File with the results of a scenario under a condition."""
        return self.out / 'frames' / condition.name / f'{drive}.npz'

    def left_out(self, condition: Condition, drive: str) -> Path:
        """File with the frames of a scenario that could not be run under a condition, if any."""
        return self.file(condition, drive).with_suffix('.left_out.json')

    def parts_left_out(self, drive: str) -> Path:
        """File with what the source left out of the scored frames of a scenario, if anything."""
        return self.file(Condition(CLEAN), drive).with_suffix('.parts.json')

    def judged(self, condition: Condition, drive: str) -> Path:
        """File with who lied and who was taken for a liar, by position, if there was either."""
        return self.file(condition, drive).with_suffix('.judged.json')

    def open(self) -> Cooperation:
        """Load the model, with `MIN_SCORE` as its score threshold, as calibration needs it.

        Raises:
            ModelError: if the model does not load.
            EvaluationError: if there is no such way to cooperate.
        """
        return _open(model_folder(str(self.model)), self.cooperation, self.sessions)

    def kept(self, condition: Condition, drive: str) -> FrameResults | None:
        """Results of an earlier run, None if there are no valid ones of this protocol."""
        path = self.file(condition, drive)
        if not path.is_file():
            return None
        try:
            results = FrameResults.load(path)
        except EvaluationError:
            return None
        return results if results.protocol == self.protocol_name else None


def forget_models() -> None:
    """Open models anew at the next use: their folders may have changed."""
    _open.cache_clear()


@cache
def _open(folder: Path, cooperation: str, sessions: Sessions | None) -> Cooperation:
    return cooperation_named(cooperation)(Model(folder, MIN_SCORE, sessions))
