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


def test_the_figures_are_of_the_plan_and_the_model_that_ship(tmp_path: Path) -> None:
    plan = load_experiment(ROOT / 'config' / 'evidence.yaml', tmp_path).plan
    if 'shipped' not in EVIDENCE.rows:
        # Measured before the plan had this row.
        page = build_tool('document_evidence').PAGE.read_text()
        assert 'The tables are those of version 0.1' in page
        return
    assert list(EVIDENCE.rows) == list(plan.rows)
    conditions = plan.conditions
    assert EVIDENCE.frames == conditions.scenarios * conditions.frames_per_scenario
    asked = ('scenarios', 'seeds', 'severity', 'corruptions')
    assert {key: getattr(EVIDENCE, key) for key in asked} == {key: getattr(conditions, key) for key in asked}
    assert plan.steps is not None
    settings = {(s.start, s.steps) for s in EVIDENCE.steps}
    assert settings == {(start if n else '', n) for n in plan.steps.steps for start in plan.steps.starts}
    shipped = ModelCard.load(ROOT / 'models' / 'sim_edge').model_id
    assert EVIDENCE.rows['shipped'].summary.run.model == shipped


def test_single_figures_of_a_run_replace_those_of_an_earlier_one() -> None:
    """Such as the intensity laws of a new model that ships, next to an ablation study of before."""
    updated = build_tool('document_evidence').updated
    run = Evidence.model_validate(
        {'data': 'x', 'reference': 'shipped', 'subject': 'shipped', 'intensity': {'zero': {'ap50': 0.5}}}
    )
    mixed = updated(EVIDENCE, run, ['intensity'])
    assert mixed.intensity == run.intensity
    assert (mixed.rows, mixed.data) == (EVIDENCE.rows, EVIDENCE.data)
    assert updated(EVIDENCE, run, []) is run
    with pytest.raises(SystemExit, match='no sensors'):
        updated(EVIDENCE, run, ['sensors'])
