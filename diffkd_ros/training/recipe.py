# SPDX-License-Identifier: Apache-2.0
"""The recipe of a training run: a YAML file, typed and validated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffkd_ros.corruptions import lookup
from diffkd_ros.documents import read_config
from diffkd_ros.errors import DiffkdError
from diffkd_ros.model.student import StudentConfig
from diffkd_ros.runtime.decoding import Decoding
from diffkd_ros.sources.formats import FORMATS
from diffkd_ros.sources.simulator import SimulatorConfig
from diffkd_ros.sources.source import SIMULATOR


class RecipeError(DiffkdError):
    """An invalid recipe file; the message names the key and the nearest known one."""


class _Section(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)


class FrameSource(_Section):
    """Where frames come from."""

    kind: str = Field(SIMULATOR, description=f'The format: {", ".join((SIMULATOR, *FORMATS))}.')
    folder: str = Field('', description='Root of a data set; $NAME stands for an environment variable.')
    split: str | None = Field(None, description='Split of a data set.')
    split_file: str | None = Field(None, description='File that lists the splits of DAIR-V2X.')
    simulator: SimulatorConfig | None = Field(
        None, description='Simulated world of this source; None for that of `data.simulator`.'
    )
    share: float = Field(1.0, gt=0, description='Relative frequency in a mixture.')

    @model_validator(mode='after')
    def _recorded_ones_lie_somewhere(self) -> FrameSource:
        if self.kind not in (known := (SIMULATOR, *FORMATS)):
            raise ValueError(f'kind {self.kind!r}: known are {", ".join(known)}')
        if (self.kind == SIMULATOR) != (not self.folder):
            raise ValueError('a data set needs a folder and the simulator takes none')
        if self.simulator is not None and self.kind != SIMULATOR:
            raise ValueError(f'{self.kind} is recorded: simulator does not apply to it')
        return self


class Augmentation(_Section):
    """Corruption of the student's input; the teacher's input and the ground truth stay clean."""

    shared: float = Field(
        0.0, ge=0, le=1, description='Probability of one corruption for all agents of a frame, like weather.'
    )
    probability: float = Field(0.5, ge=0, le=1, description='Else: probability to corrupt each cloud.')
    corruptions: list[str] = Field(min_length=1, description='Types to draw from, of the lidar family.')
    severities: list[int] = Field([1, 2], min_length=1, description='Severities to draw from.')
    held_out: list[str] = Field(
        [], description='Types that are never drawn, to measure generalisation on them.'
    )
    tile_loss: float = Field(
        0.0, ge=0, le=1, description='Probability of each encoded neighbour map to lose tiles.'
    )

    @model_validator(mode='after')
    def _check_corruptions(self) -> Augmentation:
        try:
            for name in self.corruptions + self.held_out:
                if lookup(name).family != 'lidar':
                    raise ValueError(f'{name} does not act on clouds')
            for name in self.corruptions:
                for severity in self.severities:
                    lookup(name).parameters(severity)
        except DiffkdError as error:
            raise ValueError(str(error)) from error
        both = sorted({*self.corruptions} & {*self.held_out})
        if both:
            raise ValueError(f'{", ".join(both)}: both in corruptions and in held_out')
        return self


class Data(_Section):
    """Training and validation data. Simulated scenarios of different seeds are independent."""

    sources: list[FrameSource] = Field(
        default_factory=lambda: [FrameSource()], min_length=1, description='Training frames.'
    )
    validation: FrameSource = Field(default_factory=FrameSource, description='Held-out frames.')
    simulator: SimulatorConfig = Field(default_factory=SimulatorConfig)
    train_seed: int = Field(1, description='Simulator seed of the training scenarios.')
    frames_per_drive: int = Field(
        1, ge=1, description='Consecutive samples of one simulated drive; more is faster and less varied.'
    )
    validation_seed: int = Field(2, description='Simulator seed of the held-out scenarios.')
    validation_scenarios: int = Field(10, ge=1, description='Held-out scenarios scored.')
    validation_frames: int = Field(5, ge=1, description='Frames scored per scenario, evenly spaced.')
    batch: int = Field(4, ge=1, description='Frames per step and process.')
    workers: int = Field(1, ge=0, description='Processes that make samples, per training process.')
    min_points: int = Field(
        5, ge=1, description='Vehicles with fewer returns are ignored: neither target nor background.'
    )
    max_agents: int = Field(5, ge=1, le=5, description='Most agents in a sample; 1: no neighbours.')
    drop_neighbours: float = Field(
        0.25, ge=0, le=1, description='Share of frames that keep only some of the neighbours.'
    )
    any_ego: bool = Field(True, description="Draw the ego at random instead of using the frame's.")
    turned: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the teacher's frames that are encoded on a randomly rotated and shifted grid "
        "and resampled to the ego's, as a neighbour's map is; needs model.vectors.",
    )
    earlier: bool = Field(
        False,
        description='Whether samples include an earlier sweep of every agent, for model.context last.',
    )
    augmentation: Augmentation | None = None


class Weights(_Section):
    """Weights of the loss terms."""

    heatmap: float = Field(1.0, ge=0, description='Focal loss on box centres.')
    regression: float = Field(1.0, ge=0, description='Smooth L1 on boxes.')
    feature: float = Field(1.0, ge=0, description='PKD (b): fused feature to the teacher.')
    prediction: float = Field(0.5, ge=0, description='PKD (b): heat map and boxes to the teacher.')
    restoration: float = Field(1.0, ge=0, description='PKD (a): predicted clean latent to the teacher.')
    autoencoder: float = Field(1.0, ge=0, description='PKD (a): reconstruction through the latent.')
    projection: float = Field(0.1, ge=0, description='PKD (a): observed feature projected to the latent.')
    rank: float = Field(1.0, ge=0, description='Of the order in which tiles are sent.')
    reliability: float = Field(
        0.1, ge=0, description="AGF: ego reliability to its target from the feature's distance."
    )


LINK_STAGES = 'link', 'rank'
"""Stages that need a model with a layered message."""
RESTORING_STAGES = 'diffuser', 'joint', 'link'
"""Stages that train the restoration."""


class Stage(_Section):
    """One stage of the training; its length is stated either in steps or in samples."""

    name: Literal['teacher', 'student', 'diffuser', 'joint', 'link', 'rank']
    steps: int | None = Field(None, ge=1, description='Number of batches, per training process.')
    samples: int | None = Field(
        None, ge=1, description='Number of frames, of all training processes together, whatever the batch.'
    )
    learning_rate: float = Field(1e-3, gt=0, description='Peak of the one-cycle schedule.')

    @model_validator(mode='after')
    def _has_one_length(self) -> Stage:
        if (self.steps is None) == (self.samples is None):
            raise ValueError(f'stage {self.name}: give either steps or samples')
        return self

    def steps_of(self, frames: int) -> int:
        """Number of steps of so many frames each, with which the stage has at least its samples."""
        return self.steps if self.samples is None else -(-self.samples // frames)  # type: ignore[return-value]


class Recipe(_Section):
    """A complete training run: `diffkd train FILE` reproduces the model."""

    name: str = Field(pattern=r'^[a-z0-9_]+$', description='Name of the model folder.')
    description: str = Field(description='For the model card.')
    seed: int = 0
    model: StudentConfig = Field(default_factory=StudentConfig)
    data: Data = Field(default_factory=Data)
    weights: Weights = Field(default_factory=Weights)
    target: Literal['global', 'local'] = Field(
        'global',
        description="Target of PKD (a): global, the teacher's holistic map warped to the agent; local, the "
        "teacher's map of the agent's own clean cloud.",
    )
    initial: str | None = Field(
        None, description='Checkpoint to start from, in place of earlier stages; $NAME as in folders.'
    )
    new_restoration: bool = Field(
        False,
        description="Start with a restoration of random weights instead of the initial checkpoint's, so that "
        'different restorations can be compared.',
    )
    stages: list[Stage] = Field(min_length=1)
    average: float = Field(
        0.99, ge=0, lt=1, description="Decay of the moving average of the weights, a stage's result."
    )
    precision: Literal['32-true', 'bf16-mixed'] = '32-true'
    validate_every: int = Field(500, ge=1, description='Steps between scores on held-out frames.')
    save_every: int = Field(100, ge=1, description='Steps between checkpoints.')
    weight_decay: float = Field(1e-4, ge=0)
    gradient_clip: float = Field(10.0, gt=0)
    min_score: float = Field(0.1, ge=0, le=1, description='Detections below this score are dropped.')
    nms_iou: float = Field(
        0.15, ge=0, le=1, description='BEV IoU above which the lower-scored box is dropped.'
    )
    max_boxes: int = Field(100, ge=1, description='Maximum number of boxes per frame.')

    @property
    def decoding(self) -> Decoding:
        """Thresholds of a detection."""
        return Decoding(self.min_score, self.nms_iou, self.max_boxes)

    @model_validator(mode='after')
    def _check_model(self) -> Recipe:
        if self.model.restoration == 'none' and any(stage.name == 'diffuser' for stage in self.stages):
            raise ValueError('stage diffuser: the model has no restoration to train')
        names = [stage.name for stage in self.stages]
        if self.new_restoration and not set(RESTORING_STAGES) & set(names):
            raise ValueError(f'new_restoration: none of the stages {", ".join(names)} trains it')
        linked = [stage.name for stage in self.stages if stage.name in LINK_STAGES]
        if linked and not (self.model.link and self.model.fusion == 'adaptive'):
            raise ValueError(f'stage {linked[0]}: needs model.link and model.fusion adaptive')
        if self.model.link and self.model.encoder != 'pillars':
            raise ValueError('model.link: needs model.encoder pillars')
        if 'last' in self.model.context and not self.data.earlier:
            raise ValueError(
                'model.context: last needs data.earlier, without which there is nothing to remember'
            )
        if self.model.context and not self.model.link:
            raise ValueError('model.context: needs model.link, the receiver of whole maps has no context')
        x_min, y_min, _, x_max, y_max, _ = self.model.grid_range
        for name, extent in (('x', x_max - x_min), ('y', y_max - y_min)):
            pillars = extent / self.model.pillar_cell if self.model.pillar_cell > 0 else 0.0
            # The backbone's last stage has a stride of 8.
            if not 1 < pillars < math.inf or round(pillars) % 8 or abs(pillars - round(pillars)) > 1e-6:
                raise ValueError(
                    f'model.grid_range: {extent:g} m along {name} are {pillars:g} pillars of '
                    f'{self.model.pillar_cell:g} m; the number of pillars must be a multiple of 8'
                )
        for key in ('channels', 'latent_channels'):
            if getattr(self.model, key) % 8:
                raise ValueError(f'model.{key}: {getattr(self.model, key)} is not a multiple of 8')
        if 2 * self.model.vectors > self.model.channels:
            raise ValueError(
                f'model.vectors: {self.model.vectors} directions need {2 * self.model.vectors} channels, '
                f'but model.channels is {self.model.channels}'
            )
        if self.data.turned and not self.model.vectors:
            raise ValueError('data.turned: needs channels that encode directions, see model.vectors')
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: if the file is missing or not YAML, or has an unknown key or an invalid value.
    """
    try:
        return read_config(path, Recipe)
    except DiffkdError as error:
        raise RecipeError(str(error)) from error
