# SPDX-License-Identifier: Apache-2.0
"""The card of a model folder: properties of the model, hashes of its files, its training and its scores."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from diffkd_ros.documents import read_config
from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.runtime.decoding import Decoding

CARD = 'card.yaml'
ENCODER = 'encoder.onnx'
EGO = 'ego.onnx'
LINK = 'link.npz'
SENDER = 'sender.onnx'
RESTORE = 'restore.onnx'
STUDENT = 'student.safetensors'
FILES = {'onnx': (ENCODER, EGO), 'torch': (STUDENT,)}
LINK_FILES = (SENDER, LINK)

MOST_REMEMBERED = 16
"""Most agents whose last maps the ego keeps, so the most in a fusion of a model with a memory."""
_FARTHEST = 1000.0  # metres
_MOST_CELLS = 2048  # along an edge


class ModelError(DiffkdError):
    """A model folder that is missing, incomplete, modified or of another format, or does not load."""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class ModelCard(BaseModel):
    """The contents of `card.yaml`; read it with `ModelCard.load`.

    Thresholds and classes are part of the card, not node parameters, because they depend on the training.
    """

    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)

    card_format: int = Field(ge=1, le=1, description='Version of this card layout.')
    name: str = Field(pattern=r'^[a-z0-9_]+$', description='Name of the model and its folder.')
    description: str = Field(description='The model and its training data, in a sentence or two.')
    runtime: Literal['onnx', 'torch'] = Field(
        'onnx', description='A model that does not export to ONNX runs in torch, in the evaluation only.'
    )
    grid: BevGrid = Field(description='Grid of the feature map, in the LiDAR frame.')
    channels: int = Field(ge=1, le=1024, description='Channels of the shared feature map.')
    max_agents: int = Field(ge=1, le=64, description='Most agents in a fusion, the ego included.')
    class_names: list[str] = Field(min_length=1, description='Names of the class indices.')
    min_score: float = Field(ge=0, le=1, description='Detections below this score are dropped.')
    nms_iou: float = Field(ge=0, le=1, description='BEV IoU above which the lower-scored box is dropped.')
    max_boxes: int = Field(ge=1, le=10_000, description='Maximum number of boxes per frame.')
    link: bool = Field(
        False,
        description='There is a layered message: sender.onnx, link.npz and, for restoration, restore.onnx.',
    )
    memory: bool = Field(
        False, description='restore.onnx also takes what was known of the maps before, and restores all.'
    )
    feature_range: float | None = Field(
        None, gt=0, description='Whole maps with a larger absolute value are refused; none: not checked.'
    )
    files: dict[str, str] = Field(description='File name to SHA-256.')
    training: dict[str, Any] = Field(default_factory=dict, description='Recipe, seeds, time and machine.')
    results: dict[str, Any] = Field(default_factory=dict, description='Measured figures and their command.')

    _folder: Path = PrivateAttr()

    @model_validator(mode='after')
    def _grid_is_possible(self) -> ModelCard:
        grid = self.grid
        low, high = grid.range[:3], grid.range[3:]
        if not all(-_FARTHEST <= a < b <= _FARTHEST for a, b in zip(low, high, strict=True)):
            raise ValueError(f'grid: minima must be below maxima, within {_FARTHEST:g} m, got {grid.range}')
        if not (1 <= grid.height <= _MOST_CELLS and 1 <= grid.width <= _MOST_CELLS):
            raise ValueError(f'grid: 1 to {_MOST_CELLS} rows and columns, got {grid.height} and {grid.width}')
        across = (grid.y_max - grid.y_min) / grid.height
        if abs(across - grid.cell) > 1e-3 * grid.cell:
            raise ValueError(f'grid: cells must be square, got {grid.cell:g} m along x, {across:g} m along y')
        return self

    @model_validator(mode='after')
    def _memory_is_possible(self) -> ModelCard:
        if self.memory and not (self.link and self.restores):
            raise ValueError(f'memory: needs link and {RESTORE}')
        if self.memory and self.max_agents > MOST_REMEMBERED:
            raise ValueError(f'memory: max_agents must be at most {MOST_REMEMBERED}, is {self.max_agents}')
        return self

    @classmethod
    def load(cls, folder: Path | str) -> ModelCard:
        """Read and verify a model folder.

        Raises:
            ModelError: if the folder, the card or a file is missing, the card is invalid, or the hash of a
                file differs from the card's.
        """
        folder = Path(folder)
        path = folder / CARD
        if not path.is_file():
            raise ModelError(f'no model in {folder}: {CARD} is missing')
        try:
            card = read_config(path, cls)
        except DiffkdError as error:
            raise ModelError(f'not a model card: {error}') from error
        restore = (RESTORE,) * (RESTORE in card.files)
        for name in FILES[card.runtime] + LINK_FILES * card.link + restore:
            file = folder / name
            if name not in card.files:
                raise ModelError(f'{path} lists no {name}')
            if not file.is_file():
                raise ModelError(f'{file} is missing, though {path} lists it')
            found = sha256(file)
            if found != card.files[name]:
                raise ModelError(
                    f'{file} is not the file its card describes: '
                    f'SHA-256 {found[:12]}..., card says {card.files[name][:12]}...'
                )
        card._folder = folder
        return card

    @property
    def decoding(self) -> Decoding:
        """Thresholds of a detection."""
        return Decoding(self.min_score, self.nms_iou, self.max_boxes)

    @property
    def model_id(self) -> str:
        """Name and hash of the encoder. Features of different ids must not be fused."""
        return f'{self.name}@{self.files[FILES[self.runtime][0]][:12]}'

    @property
    def link_id(self) -> str:
        """Name and hash of the tables of the layered message. Codes of different ids must not be fused.

        Raises:
            ModelError: if the model has no layered message.
        """
        return f'{self.name}@{self.files[self.link_path.name][:12]}'

    @property
    def link_path(self) -> Path:
        """Path of the tables of the layered message.

        Raises:
            ModelError: if the model has no layered message.
        """
        if not self.link:
            raise ModelError(f'{self._folder} has no layered message: its card does not say `link: true`')
        return self._folder / LINK

    @property
    def restores(self) -> bool:
        """Whether the model estimates what did not arrive of a layered message."""
        return RESTORE in self.files

    @property
    def student_path(self) -> Path:
        """Path of the weights of a model that runs in torch only."""
        return self._folder / STUDENT

    def graph_path(self, name: str) -> Path:
        """Path of a graph, `ENCODER`, `EGO` and, with a layered message, `SENDER` and `RESTORE`.

        Raises:
            ModelError: if the model runs in torch only.
        """
        if self.runtime != 'onnx':
            raise ModelError(
                f'{self._folder} has no {name}: the model runs in torch only. Evaluate it with '
                '`diffkd evaluate`; for the nodes, train a model with `encoder: pillars`'
            )
        return self._folder / name
