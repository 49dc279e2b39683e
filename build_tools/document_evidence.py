# SPDX-License-Identifier: Apache-2.0
"""Copies the figures and pictures of an experiment into docs/.

    diffkd evidence config/evidence.yaml --out runs/evidence
    python build_tools/document_evidence.py runs/evidence

With names of fields of evidence.json, only these figures replace the earlier ones:

    diffkd evidence config/evidence.yaml --rows shipped --out runs/shipped
    python build_tools/document_evidence.py runs/shipped intensity sensors

The tables of docs/results.md are written between `<!-- evidence -->` and `<!-- end -->`.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from diffkd_ros.evidence.plots import RELIABILITY, STEPS
from diffkd_ros.evidence.results import Evidence
from diffkd_ros.evidence.table import markdown

DOCS = Path(__file__).resolve().parent.parent / 'docs'
PAGE = DOCS / 'results.md'
_BLOCK = re.compile(r'(<!-- evidence -->\n).*?(<!-- end -->)', re.DOTALL)


def documented(page: str, evidence: Evidence) -> str:
    """The page with the tables of these figures."""
    return _BLOCK.sub(lambda match: f'{match[1]}{markdown(evidence)}{match[2]}', page)


def updated(earlier: Evidence, run: Evidence, names: Sequence[str]) -> Evidence:
    """The figures of a run, or the earlier ones with the named figures of the run.

    Raises:
        SystemExit: if a name is none of the figures of the run.
    """
    if unknown := [name for name in names if name not in run.model_fields_set]:
        raise SystemExit(f'no {", ".join(unknown)} in this run')
    return earlier.model_copy(update={name: getattr(run, name) for name in names}) if names else run


if __name__ == '__main__':
    folder, fields = Path(sys.argv[1]), sys.argv[2:]
    evidence = updated(Evidence.read(DOCS), Evidence.read(folder), fields)
    evidence.write(DOCS)
    for field, picture in (('reliability', RELIABILITY), ('steps', STEPS)):
        if (field in fields or not fields) and (folder / picture).exists():
            shutil.copy(folder / picture, DOCS / picture)
    PAGE.write_text(documented(PAGE.read_text(), evidence))
