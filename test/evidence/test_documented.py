# SPDX-License-Identifier: Apache-2.0
"""The figures in docs/ are those of the shipped plan, and the tables agree with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from script import build_tool

pytest.importorskip('lightning', reason='trainings need the train extra')

from diffkd_ros.evidence.plan import load_experiment
from diffkd_ros.evidence.results import Evidence
from diffkd_ros.runtime.card import ModelCard

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = Evidence.read(ROOT / 'docs')


def test_the_tables_are_those_of_the_file() -> None:
    documentation = build_tool('document_evidence')
    page = documentation.PAGE.read_text()
    assert '| Diff-KD |' in page
    assert documentation.documented(page, EVIDENCE) == page, 'run: build_tools/document_evidence.py'


def test_the_figures_are_of_the_plan_that_ships(tmp_path: Path) -> None:
    plan = load_experiment(ROOT / 'config' / 'evidence.yaml', tmp_path).plan
    assert list(EVIDENCE.rows) == list(plan.rows)
    conditions = plan.conditions
    assert EVIDENCE.frames == conditions.scenarios * conditions.frames_per_scenario
    asked = ('scenarios', 'seeds', 'severity', 'corruptions')
    assert {key: getattr(EVIDENCE, key) for key in asked} == {key: getattr(conditions, key) for key in asked}
    assert plan.steps is not None
    settings = {(s.start, s.steps) for s in EVIDENCE.steps}
    assert settings == {(start if n else '', n) for n in plan.steps.steps for start in plan.steps.starts}


def test_the_model_that_ships_is_the_one_measured() -> None:
    shipped = ModelCard.load(ROOT / 'models' / 'sim_edge').model_id
    measured = EVIDENCE.rows[EVIDENCE.subject].summary.run.model
    # The name of the training differs, the weights do not.
    assert shipped.partition('@')[2] == measured.partition('@')[2]
