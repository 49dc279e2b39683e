# SPDX-License-Identifier: Apache-2.0
"""Files and options that people write, and results that are read again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from cases import Reader
from changes import TEXTS, changed, damaged, json_case, yaml_case
from scored_frames import random_results
from small_recipe import small_recipe

from diffkd_ros.evaluation.conditions import make_conditions
from diffkd_ros.evaluation.summary import SUMMARY, Summary
from diffkd_ros.evidence.plan import load_experiment
from diffkd_ros.metrics.frame_results import FrameResults
from diffkd_ros.runtime.card import ModelCard, sha256
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.share import share_directory
from diffkd_ros.sources.source import Source
from diffkd_ros.training.checkpoint import Progress, read_checkpoint, save_checkpoint
from diffkd_ros.training.frames import expand
from diffkd_ros.training.recipe import load_recipe


class Recipe(Reader):
    """A recipe of a training."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        files = sorted((share_directory() / 'config' / 'train').glob('*.yaml'))
        self.documents = [yaml.safe_load(path.read_text()) for path in files]

    def valid(self) -> list[Any]:
        return [yaml.safe_dump(document).encode() for document in self.documents]

    def case(self, rng: Random) -> Any:
        return yaml_case(rng.choice(self.documents), rng)

    def read(self, case: Any) -> Any:
        path = self.folder / 'recipe.yaml'
        path.write_bytes(case)
        return load_recipe(path)


class Card(Reader):
    """The card of a model folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.document = yaml.safe_load((share_directory() / 'models' / 'sim_edge' / 'card.yaml').read_text())
        for name in self.document['files']:
            (folder / name).write_bytes(b'weights')
            self.document['files'][name] = sha256(folder / name)

    def valid(self) -> list[Any]:
        return [yaml.safe_dump(self.document).encode()]

    def case(self, rng: Random) -> Any:
        return yaml_case(self.document, rng)

    def read(self, case: Any) -> Any:
        (self.folder / 'card.yaml').write_bytes(case)
        card = ModelCard.load(self.folder)
        return card.grid, card.grid.cell, card.channels, card.decoding, card.model_id


class Plan(Reader):
    """The plan of an ablation study, and its base recipe. A case is both files."""

    plan: ClassVar[dict[str, Any]] = {
        'base': 'base.yaml',
        'change': {'data': {'batch': 16}},
        'trainings': {
            'teacher': {'stages': ['teacher']},
            'full': {'after': 'teacher', 'stages': ['student', 'diffuser', 'joint'], 'seeds': 2},
            'plain': {
                'after': 'teacher',
                'stages': ['student'],
                'change': {'model': {'restoration': 'none'}, 'weights': {'feature': 0.0}},
            },
        },
        'rows': {
            'early': {'training': 'teacher', 'cooperation': 'early', 'label': 'early fusion'},
            'ours': {'training': 'full', 'label': 'the method'},
            'minus': {'training': 'plain', 'label': 'without'},
            'shipped': {'model': 'sim_edge', 'label': 'shipped'},
        },
        'conditions': {
            'source': 'sim',
            'scenarios': 2,
            'corruptions': 'fog,snow',
            'severity': '1,2',
            'more': [{'corruptions': 'fog', 'agents': 'ego'}],
        },
        'worlds': {'varied': {'source': 'sim:3,world=varied', 'scenarios': 2}},
        'intensity': {'row': 'shipped', 'names': ['carla', 'zero']},
        'sensors': {'row': 'shipped', 'names': ['vlp16']},
        'reference': 'early',
        'subject': 'ours',
        'steps': {
            'training': 'full',
            'starts': ['pure', 'truncated'],
            'steps': [1, 4],
            'corruptions': 'none',
        },
        'reliability': {'row': 'ours', 'agents': 'ego'},
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        recipe = share_directory() / 'config' / 'train' / 'sim_wide.yaml'
        self.base = yaml.safe_load(recipe.read_text())
        self.files = tuple(yaml.safe_dump(document).encode() for document in (self.plan, self.base))

    def valid(self) -> list[Any]:
        return [self.files]

    def case(self, rng: Random) -> Any:
        plan, base = self.files
        return (plan, yaml_case(self.base, rng)) if rng.random() < 0.15 else (yaml_case(self.plan, rng), base)

    def read(self, case: Any) -> Any:
        path = self.folder / 'plan.yaml'
        for file, data in zip((path, self.folder / 'base.yaml'), case, strict=True):
            file.write_bytes(data)
        return load_experiment(path, self.folder).recipes


class Options(Reader):
    """Texts given on the command line or in a recipe. A case is what they are for, and the texts."""

    words = (
        'sim:', 'world=', 'sensor=', 'intensity=', 'varied', 'carla', '=',
        'opv2v:', 'bag:', 'dair:', ',', '-', '.', '0', '1', '2', '3', '99', 'all', 'none', 'lidar',
        'pose', 'link', 'paper', 'held_out', 'fog', 'snow', 'ego', 'neighbours', 'default', 'graded', 'lab',
        *(text.replace('\ud800', '\udcff') for text in TEXTS),  # as of an argument that is not UTF-8
    )  # fmt: skip

    def valid(self) -> list[Any]:
        return [
            ('conditions', ['all', 'all', 'default', '0', 'graded']),
            ('conditions', ['fog', '1,2', 'ego', '0,1', 'graded']),
            ('source', ['sim:3,world=varied,intensity=carla']),
            ('model', ['sim_edge']),
            ('folder', ['~/data']),
        ]

    def case(self, rng: Random) -> Any:
        what, texts = rng.choice(self.valid())
        for _ in range(rng.choice((1, 1, 2))):
            k = rng.randrange(len(texts))
            changed = ''.join(rng.choices(self.words, k=rng.choice((1, 1, 2, 3))))
            texts[k] = changed if rng.random() < 0.7 else texts[k] + changed
        return what, texts

    def read(self, case: Any) -> Any:
        what, texts = case
        if what == 'conditions':
            return [condition.name for condition in make_conditions(*texts)]
        if what == 'source':
            source = Source(*texts, scenarios=2)
            return source.names() if source.kind == 'sim' else source.paths
        return model_folder(*texts) if what == 'model' else expand(*texts)


class Results(Reader):
    """Files that `diffkd evaluate` and `diffkd train` read again. A case is a name and its bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        random_results(np.random.default_rng(1), ['drive'], frames=2).save(folder / 'frames.npz')
        self.recipe = small_recipe('teacher')
        save_checkpoint(
            folder / 'checkpoint.safetensors',
            self.recipe,
            {'teacher': {'a.weight': torch.ones(2, 3)}},
            Progress(),
        )
        level = {'ap30': 0.9, 'ap50': 0.8, 'ap70': 0.5}
        self.summary = {'clean': level, 'ego_alone': level, 'protocol': 'sim', 'corruptions': {}, 'frames': 3}
        self.contents = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.contents[SUMMARY] = json.dumps(self.summary).encode()

    def valid(self) -> list[Any]:
        return list(self.contents.items())

    def case(self, rng: Random) -> Any:
        name = rng.choice(sorted(self.contents))
        data = self.contents[name]
        if name == SUMMARY:
            return name, json_case(self.summary, rng)
        if rng.random() < 0.4:
            return name, damaged(data, rng, rng.choice((1, 1, 5)))
        if name.endswith('.npz'):
            with np.load(io.BytesIO(data)) as file:
                columns = dict(file)
            for _ in range(rng.choice((1, 1, 2))):
                key = rng.choice(sorted(columns))
                column = columns.pop(key)
                if rng.random() < 0.8:
                    shape = rng.choice(
                        (
                            (0,),
                            (1,),
                            (3, 2),
                            (),
                            column.shape[::-1],
                            (len(column) + 1,) if column.ndim else (),
                        )
                    )
                    kind = rng.choice((column.dtype, 'f8', 'i1', 'U3', 'M8[s]', 'c16', '?'))
                    columns[key if rng.random() < 0.9 else 'x'] = np.zeros(shape, kind)
            file = io.BytesIO()
            np.savez_compressed(file, **columns)
            return name, file.getvalue()
        size = int.from_bytes(data[:8], 'little')
        head = json.loads(data[8 : 8 + size])
        metadata = head['__metadata__']
        key = rng.choice(('recipe', 'progress', ''))
        if key:
            metadata[key] = json_case(json.loads(metadata[key]), rng).decode('utf-8', 'replace')
        else:
            head = changed(head, rng)
        text = json.dumps(head).encode('utf-8', 'replace')
        return name, len(text).to_bytes(8, 'little') + text + data[8 + size :]

    def read(self, case: Any) -> Any:
        name, data = case
        path = self.folder / 'read' / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        if name == SUMMARY:
            Summary.read(path.parent)
        elif name.endswith('.npz'):
            FrameResults.load(path)
        else:
            read_checkpoint(path)
