# SPDX-License-Identifier: Apache-2.0
"""A model folder's card: what the model is, what its files hash to, how it was trained and what it scored."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.grid import BevGrid

CARD = 'card.yaml'
ENCODER = 'encoder.onnx'
EGO = 'ego.onnx'
STUDENT = 'student.safetensors'
FILES = {'onnx': (ENCODER, EGO), 'torch': (STUDENT,)}


class ModelError(DiffkdError):
    """A model folder that is missing, incomplete, altered or of another format."""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class ModelCard(BaseModel):
    """The contents of `card.yaml`; read it with `ModelCard.load`.

    Thresholds and classes belong to the model, not to a node's parameters: they change when it is retrained.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)

    card_format: int = Field(ge=1, le=1, description='Version of this card layout.')
    name: str = Field(pattern=r'^[a-z0-9_]+$', description='Name of the model and its folder.')
    description: str = Field(description='What it is and what it was trained on, in a sentence or two.')
    runtime: Literal['onnx', 'torch'] = Field(
        'onnx', description='What runs it; a model that does not export runs in torch only, on no vehicle.'
    )
    grid: BevGrid = Field(description='Grid of the feature map, in the LiDAR frame.')
    channels: int = Field(ge=1, le=1024, description='Channels of the shared feature map.')
    max_agents: int = Field(ge=1, le=64, description='Most agents that one fusion takes, the ego included.')
    class_names: list[str] = Field(min_length=1, description='Meaning of the class indices.')
    min_score: float = Field(ge=0, le=1, description='Detections below this score are dropped.')
    nms_iou: float = Field(ge=0, le=1, description="Bird's-eye-view IoU above which the weaker box goes.")
    max_boxes: int = Field(ge=1, description='Most boxes per frame.')
    files: dict[str, str] = Field(description='File name to SHA-256.')
    training: dict[str, Any] = Field(default_factory=dict, description='Recipe, seeds, time, machine.')
    results: dict[str, Any] = Field(default_factory=dict, description='Measured figures and their command.')

    _folder: Path = PrivateAttr()

    @classmethod
    def load(cls, folder: Path | str) -> ModelCard:
        """Read and verify a model folder.

        Raises:
            ModelError: if the folder, the card or a file is missing, the card is malformed, or a file's hash
                is not the card's.
        """
        folder = Path(folder)
        path = folder / CARD
        if not path.is_file():
            raise ModelError(f'no model in {folder}: {CARD} is missing')
        try:
            card = cls.model_validate(yaml.safe_load(path.read_text()))
        except (yaml.YAMLError, ValidationError) as error:
            raise ModelError(f'{path} is not a model card: {error}') from error
        for name in FILES[card.runtime]:
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
    def model_id(self) -> str:
        """Name and hash of what encodes: two agents' features may be fused only if these are equal."""
        return f'{self.name}@{self.files[FILES[self.runtime][0]][:12]}'

    @property
    def encoder_path(self) -> Path:
        """The encoder's graph.

        Raises:
            ModelError: if the model has none.
        """
        return self._graph(ENCODER)

    @property
    def ego_path(self) -> Path:
        """The ego's graph: restore, warp, fuse, detect.

        Raises:
            ModelError: if the model has none.
        """
        return self._graph(EGO)

    @property
    def student_path(self) -> Path:
        """The weights of a model that runs in torch only."""
        return self._folder / STUDENT

    def _graph(self, name: str) -> Path:
        if self.runtime != 'onnx':
            raise ModelError(
                f'{self._folder} has no {name}: the model runs in torch only. Measure it with '
                '`diffkd evaluate`; for a vehicle, train one with `encoder: pillars`'
            )
        return self._folder / name
