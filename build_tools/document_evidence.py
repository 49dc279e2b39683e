# SPDX-License-Identifier: Apache-2.0
"""Copies the figures and pictures of an experiment into docs/.

    diffkd evidence config/evidence.yaml --out runs/evidence
    python build_tools/document_evidence.py runs/evidence

The tables of docs/results.md are written between `<!-- evidence -->` and `<!-- end -->`.
"""

import re
import shutil
import sys
from pathlib import Path

from diffkd_ros.evidence.plots import RELIABILITY, STEPS
from diffkd_ros.evidence.results import EVIDENCE, Evidence
from diffkd_ros.evidence.table import markdown

DOCS = Path(__file__).resolve().parent.parent / 'docs'
PAGE = DOCS / 'results.md'
_BLOCK = re.compile(r'(<!-- evidence -->\n).*?(<!-- end -->)', re.DOTALL)


def documented(page: str, evidence: Evidence) -> str:
    """The page with the tables of these figures."""
    return _BLOCK.sub(lambda match: f'{match[1]}{markdown(evidence)}{match[2]}', page)


if __name__ == '__main__':
    run = Path(sys.argv[1])
    for name in (EVIDENCE, RELIABILITY, STEPS):
        shutil.copy(run / name, DOCS / name)
    PAGE.write_text(documented(PAGE.read_text(), Evidence.read(DOCS)))
