# SPDX-License-Identifier: Apache-2.0
"""A student that does not export to ONNX: its folder, and where it can and cannot be used."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.export.model_folder import Decoding, write_model_folder
from diffkd_ros.export.torch_sessions import torch_sessions
from diffkd_ros.geometry.grid import grid_warps
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.model.student import Student, StudentConfig
from diffkd_ros.runtime.card import ModelCard, ModelError
from diffkd_ros.runtime.decoding import decode_boxes, observed_cells
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import CloudError, FeatureEncoder

pytest.importorskip('spconv')
RANGE = (-25.6, -12.8, -3.0, 25.6, 12.8, 1.0)


@pytest.fixture(scope='module')
def student() -> Student:
    torch.manual_seed(0)
    config = StudentConfig(RANGE, encoder='sparse', stages=(8, 16, 16), depth=1, channels=8, blocks=1)
    return Student(config).eval()


@pytest.fixture(scope='module')
def folder(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('models') / 'sparse'
    write_model_folder(
        student, folder, 'Untrained, for a test.', Decoding(0.0, 0.15, 20), {}, {'largest_feature': 7.5}
    )
    return folder


def cloud(seed: int) -> np.ndarray:
    low, high = [-30, -15, -3.5, 0], [30, 15, 1.5, 1]
    return np.random.default_rng(seed).uniform(low, high, (800, 4)).astype(np.float32)


def test_its_card_limits_the_values_of_others_maps(folder: Path) -> None:
    assert ModelCard.load(folder).feature_range == 15.0


def test_its_card_says_that_it_runs_in_torch(folder: Path) -> None:
    card = ModelCard.load(folder)
    assert card.runtime == 'torch'
    assert sorted(path.name for path in folder.iterdir()) == ['card.yaml', 'student.safetensors']
    assert card.model_id == f'sparse@{card.files["student.safetensors"][:12]}'


def test_the_nodes_refuse_it_and_say_what_to_do(folder: Path) -> None:
    card = ModelCard.load(folder)
    for part in (FeatureEncoder, CooperativeDetector):
        with pytest.raises(ModelError, match=r'runs in torch only.*diffkd evaluate.*encoder: pillars'):
            part(card)
    outcome = CliRunner().invoke(app, ['bench', '--model', str(folder)])
    assert outcome.exit_code == 1
    assert 'runs in torch only' in outcome.output


def test_altered_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ('card.yaml', 'student.safetensors'):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    weights = bytearray((tmp_path / 'student.safetensors').read_bytes())
    weights[-1] ^= 1
    (tmp_path / 'student.safetensors').write_bytes(weights)
    with pytest.raises(ModelError, match='not the file its card describes'):
        ModelCard.load(tmp_path)


def test_torch_sessions_compute_the_same_as_the_student(student: Student, folder: Path) -> None:
    card = ModelCard.load(folder)
    encode, fuse = torch_sessions(card)
    encoder, detector = FeatureEncoder(card, session=encode), CooperativeDetector(card, session=fuse)
    sent = [encoder.encode(cloud(seed)) for seed in (0, 1)]
    poses = [pose_from_euler([0, 0, 0]), pose_from_euler([3, 1, 0], yaw=0.4)]
    found = detector.detect(sent, poses)

    with torch.no_grad():
        clouds, index = [torch.from_numpy(cloud(seed)) for seed in (0, 1)], torch.zeros(800, dtype=torch.long)
        encoded = [student.encoder(points, index, 1) for points in clouds]
        features, density = (torch.cat(part) for part in zip(*encoded, strict=True))
        warps = torch.from_numpy(grid_warps(poses, card.grid))
        heatmap, regression, fusion = student(features, density, warps)
    np.testing.assert_allclose(sent[1].feature, features[1], atol=1e-5)
    np.testing.assert_allclose(found.gate_map, fusion.share[:, 0], atol=1e-5)
    observed = observed_cells(density[:, 0].numpy(), warps.numpy(), card.grid)
    maps = heatmap[0, 0].numpy(), regression[0].numpy()
    expected = decode_boxes(*maps, observed, card.grid, Decoding(0.0, 0.15, 20))
    assert len(found.boxes) == len(expected) > 0
    np.testing.assert_allclose(found.boxes.boxes, expected.boxes, atol=1e-4)
    with pytest.raises(CloudError, match='none within'):
        encoder.encode(cloud(0) + 500)


def test_it_is_evaluated_in_several_processes(folder: Path, tmp_path: Path) -> None:
    outcome = CliRunner().invoke(
        app,
        ['evaluate', '--model', str(folder), '--out', str(tmp_path), '--workers', '2',
         '--corruptions', 'none', '--scenarios', '2', '--frames-per-scenario', '1'],
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['run']['model'] == ModelCard.load(folder).model_id
    assert summary['frames'] == 2
