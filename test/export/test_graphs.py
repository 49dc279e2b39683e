# SPDX-License-Identifier: Apache-2.0
"""The exported graphs against torch, and their folder."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn

from diffkd_ros.export.graphs import EgoGraph, export_ego
from diffkd_ros.export.model_folder import Decoding, write_model_folder
from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.model.student import Student, StudentConfig
from diffkd_ros.runtime.card import ModelCard, ModelError
from diffkd_ros.runtime.detector import OUTPUTS, CooperativeDetector
from diffkd_ros.runtime.encoder import CloudError, FeatureEncoder
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.session import open_session

TOLERANCE = 1e-3


@pytest.fixture(scope='module')
def student() -> Student:
    torch.manual_seed(0)
    student = moved(Student(StudentConfig(blocks=3))).train()
    # Batch norm has its initial statistics before.
    student.encoder(cloud(0), torch.zeros(3000, dtype=torch.long), 1)
    return student.eval()


def moved(student: Student) -> Student:
    """Not the initial values, with which modulations are identities and gates are constant."""
    for name, parameter in student.named_parameters():
        if name.endswith(('scale', 'gate.weight', 'share.weight')):
            nn.init.normal_(parameter, std=0.3)
    return student


@pytest.fixture(scope='module')
def folder(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('models') / 'untrained'
    write_model_folder(student, folder, 'Untrained, for a test.', Decoding(0.0, 0.15, 100), {}, {})
    return folder


def cloud(seed: int) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    points = draw.uniform([-60, -30, -3.5, 0], [60, 30, 1.5, 1], (3000, 4))
    return torch.from_numpy(points.astype(np.float32))


def features(student: Student, agents: int) -> list[BevFeature]:
    with torch.no_grad():
        maps = [student.encoder(cloud(i), torch.zeros(3000, dtype=torch.long), 1) for i in range(agents)]
    return [BevFeature(feature[0].numpy(), density[0, 0].numpy()) for feature, density in maps]


POSES = [pose_from_euler([4.0 * i, -3.0 * i, 0.1 * i], yaw=0.5 * i) for i in range(5)]


def test_encoder_agrees_with_torch_for_any_number_of_points(student: Student, folder: Path) -> None:
    encoder = FeatureEncoder(ModelCard.load(folder))
    for count in (1, 17, 3000):
        points = cloud(5)[:count] * torch.tensor([0.5, 0.5, 0.5, 1.0])
        with torch.no_grad():
            feature, density = student.encoder(points, torch.zeros(count, dtype=torch.long), 1)
        found = encoder.encode(points.numpy())
        assert np.abs(found.feature - feature[0].numpy()).max() <= TOLERANCE
        assert np.abs(found.density - density[0, 0].numpy()).max() <= TOLERANCE


@pytest.mark.parametrize(
    'settings',
    [
        {'start_from': 'matched', 'fusion': 'attention', 'steps': 1},
        {'start_from': 'pure', 'profile': 'faithful', 'steps': 1},
        {'restoration': 'plain', 'fusion': 'maximum', 'steps': 1},
        {'restoration': 'none', 'modulation': False},
    ],
)
def test_baselines_export_too(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {'stages': (8, 8, 8), 'depth': 1, 'channels': 8, 'latent_channels': 8, 'blocks': 2}
    config = StudentConfig((-6.4, -6.4, -3.0, 6.4, 6.4, 1.0), **small, **settings)
    student = moved(Student(config)).eval()
    export_ego(student, tmp_path / 'ego.onnx', 5)
    session = open_session(tmp_path / 'ego.onnx', 1, 'cpu')
    for agents in (1, 3):
        warps = grid_warps(POSES[:agents], BevGrid(*config.grid_range, config.height, config.width))
        inputs = torch.rand(agents, 8, 16, 16), torch.rand(agents, 1, 16, 16), torch.from_numpy(warps)
        with torch.no_grad():
            expected = EgoGraph(student)(*inputs)
        names = ('features', 'density', 'ego_to_agent')
        found = session.run(OUTPUTS, {k: v.numpy() for k, v in zip(names, inputs, strict=True)})
        for one, other in zip(found, expected, strict=True):
            assert np.abs(one - other.numpy()).max() <= TOLERANCE


@pytest.mark.parametrize('agents', [1, 2, 3, 4, 5])
def test_ego_graph_agrees_with_torch(student: Student, folder: Path, agents: int) -> None:
    card = ModelCard.load(folder)
    sent = features(student, agents)
    found = CooperativeDetector(card).detect(sent, POSES[:agents])
    with torch.no_grad():
        heatmap, regression, fusion = student(
            torch.from_numpy(np.stack([bev.feature for bev in sent])),
            torch.from_numpy(np.stack([bev.density for bev in sent]))[:, None],
            torch.from_numpy(grid_warps(POSES[:agents], card.grid)),
        )
    assert np.abs(found.gate_map - fusion.share[:, 0].numpy()).max() <= TOLERANCE
    assert np.abs(found.reliability_map - fusion.reliability[0, 0].numpy()).max() <= TOLERANCE
    scores = torch.sigmoid(heatmap[0, 0]).numpy()
    grid = card.grid
    for box, score in zip(found.boxes.boxes[:20], found.boxes.scores[:20], strict=True):  # type: ignore[index]
        near = np.argwhere(np.abs(scores - score) <= TOLERANCE)
        centres = grid.x_min + (near[:, 1] + regression[0, 0].numpy()[tuple(near.T)]) * grid.cell
        assert np.abs(centres - box[0]).min() <= 1e-2


def test_the_egos_reliability_is_averaged_over_observed_cells(student: Student, folder: Path) -> None:
    detector = CooperativeDetector(ModelCard.load(folder))
    ego, other = features(student, 2)
    blind = BevFeature.empty(*ego.feature.shape)
    alone = detector.detect([ego], [POSES[0]])
    assert alone.reliability == pytest.approx(alone.reliability_map[ego.density > 0].mean(), rel=1e-5)
    assert detector.detect([blind], [POSES[0]]).reliability == 0.0
    # The neighbour stands where the ego does, so its map covers what its density says and a margin.
    seen = detector.detect([blind, other], [POSES[0], POSES[0]])
    near = torch.nn.functional.max_pool2d(torch.from_numpy(other.density)[None], 7, stride=1, padding=3)
    covered = near[0].numpy() > 0
    assert 0 < covered.mean() < 1
    assert seen.reliability == pytest.approx(seen.reliability_map[covered].mean(), rel=1e-5)


def test_one_agent_is_the_single_agent_path(student: Student, folder: Path) -> None:
    """A neighbour that covers nothing leaves boxes exactly as they are without it."""
    detector = CooperativeDetector(ModelCard.load(folder))
    ego, other = features(student, 2)
    alone = detector.detect([ego], [POSES[0]])
    far_away = pose_from_euler([1000.0, 0.0, 0.0])
    accompanied = detector.detect([ego, other], [POSES[0], far_away])
    np.testing.assert_allclose(accompanied.boxes.boxes, alone.boxes.boxes, atol=1e-4)
    assert accompanied.gate_weights[0] == pytest.approx(1.0)


def test_the_order_of_neighbours_does_not_matter(student: Student, folder: Path) -> None:
    detector = CooperativeDetector(ModelCard.load(folder))
    sent = features(student, 4)
    order = [0, 2, 3, 1]
    first = detector.detect(sent, POSES[:4])
    second = detector.detect([sent[i] for i in order], [POSES[i] for i in order])
    np.testing.assert_allclose(second.gate_map, first.gate_map[order], atol=1e-4)
    assert len(first.boxes) == len(second.boxes)
    np.testing.assert_allclose(np.sort(second.boxes.boxes[:, 0]), np.sort(first.boxes.boxes[:, 0]), atol=1e-3)


def test_agents_beyond_the_limit_are_refused(student: Student, folder: Path) -> None:
    detector = CooperativeDetector(ModelCard.load(folder))
    with pytest.raises(ValueError, match='6 features'):
        detector.detect(features(student, 1) * 6, [POSES[0]] * 6)


@pytest.mark.parametrize(
    ('points', 'message'),
    [
        (np.zeros((0, 4), np.float32), 'of 0 points'),
        (np.full((50, 4), np.nan, np.float32), 'of 50 points 0 are finite'),
        (np.full((50, 4), 900.0, np.float32), 'none within'),
        (np.zeros((50, 3), np.float32), r'must be \(n, 4\)'),
    ],
)
def test_an_unusable_cloud_is_refused_with_its_problem(
    folder: Path, points: np.ndarray, message: str
) -> None:
    with pytest.raises(CloudError, match=message):
        FeatureEncoder(ModelCard.load(folder)).encode(points)


def test_points_that_are_not_finite_are_left_out(folder: Path) -> None:
    encoder = FeatureEncoder(ModelCard.load(folder))
    points = cloud(0).numpy()
    broken = np.concatenate((points, np.full((7, 4), np.nan, np.float32), [[1, 1, -1, np.inf]]))
    assert np.array_equal(encoder.encode(broken.astype(np.float32)).feature, encoder.encode(points).feature)


def test_a_folder_that_does_not_match_its_card_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / 'copy'

    def fresh() -> Path:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        return copy

    with pytest.raises(ModelError, match=r'card\.yaml is missing'):
        ModelCard.load(tmp_path)
    (fresh() / 'ego.onnx').write_bytes(b'something else')
    with pytest.raises(ModelError, match='is not the file its card describes'):
        ModelCard.load(copy)
    (fresh() / 'encoder.onnx').unlink()
    with pytest.raises(ModelError, match='is missing, though'):
        ModelCard.load(copy)
    card = yaml.safe_load((fresh() / 'card.yaml').read_text())
    (copy / 'card.yaml').write_text(yaml.safe_dump(card | {'min_scores': 0.3}))
    with pytest.raises(ModelError, match='min_scores'):
        ModelCard.load(copy)


def test_points_are_scattered_row_by_row(folder: Path) -> None:
    """ScatterElements takes 20 times as long for the pillars; it only counts their points."""
    nodes = onnx.load(folder / 'encoder.onnx').graph.node
    scatters = [node for node in nodes if node.op_type.startswith('Scatter')]
    reductions = {
        (node.op_type, each.s) for node in scatters for each in node.attribute if each.name == 'reduction'
    }
    assert reductions == {('ScatterND', b'max'), ('ScatterElements', b'add')}


def test_the_graphs_do_not_contain_paths(folder: Path) -> None:
    here = str(Path(__file__).resolve().parents[2]).encode()
    for name in ('encoder.onnx', 'ego.onnx'):
        content = (folder / name).read_bytes()
        assert here not in content
        assert b'stack_trace' not in content


def test_an_unknown_or_absent_device_is_named(folder: Path) -> None:
    card = ModelCard.load(folder)
    with pytest.raises(ModelError, match="unknown device 'gpu'"):
        FeatureEncoder(card, device='gpu')
    with pytest.raises(ModelError, match='CUDAExecutionProvider'):
        FeatureEncoder(card, device='cuda')


def test_a_device_that_does_not_start_is_an_error_and_not_replaced_by_the_cpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an ONNX Runtime built for CUDA whose libraries or driver are missing or too old."""
    both = ['CUDAExecutionProvider', 'CPUExecutionProvider']
    monkeypatch.setattr('onnxruntime.get_available_providers', lambda: both)
    with pytest.raises(ModelError, match='CUDAExecutionProvider did not start, only CPUExecutionProvider'):
        FeatureEncoder(ModelCard.load(folder), device='cuda')
