# SPDX-License-Identifier: Apache-2.0
"""Copies the figures and pictures of an experiment into docs/.

    diffkd evidence config/evidence.yaml --out runs/evidence
    python build_tools/document_evidence.py runs/evidence

With names of fields of evidence.json, only these figures replace the earlier ones:

    diffkd evidence config/evidence.yaml --rows shipped --out runs/shipped
    python build_tools/document_evidence.py runs/shipped intensity sensors

The tables of docs/results.md are written between `<!-- evidence -->` and `<!-- end -->`. Those of a study of
the layered message go to docs/link_study.md, between `<!-- link -->` and `<!-- end -->`:

    diffkd evidence config/link.yaml --out runs/link
    python build_tools/document_evidence.py runs/link

Those of attacks go to docs/attacks.md, between `<!-- trust -->` and `<!-- end -->`:

    diffkd evaluate --attack all --out results/trust
    python build_tools/document_evidence.py results/trust
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from diffkd_ros.evaluation.trust_results import TRUST, Trust
from diffkd_ros.evaluation.trust_table import markdown as trust_tables
from diffkd_ros.evidence import link_plots
from diffkd_ros.evidence.link_results import RESULTS, LinkResults
from diffkd_ros.evidence.link_table import link_tables
from diffkd_ros.evidence.plots import RELIABILITY, STEPS
from diffkd_ros.evidence.results import Evidence
from diffkd_ros.evidence.table import markdown

DOCS = Path(__file__).resolve().parent.parent / 'docs'
PAGE = DOCS / 'results.md'
LINK_PAGE = DOCS / 'link_study.md'
TRUST_PAGE = DOCS / 'attacks.md'


def documented(page: str, evidence: Evidence) -> str:
    """The page with the tables of these figures."""
    return _filled(page, 'evidence', markdown(evidence))


def documented_link(page: str, results: LinkResults) -> str:
    """The page of the layered message with the tables of these figures."""
    return _filled(page, 'link', link_tables(results))


def documented_trust(page: str, trust: Trust) -> str:
    """The page of the attacks with the tables of these figures."""
    return _filled(page, 'trust', trust_tables(trust))


def _filled(page: str, name: str, tables: str) -> str:
    block = re.compile(rf'(<!-- {name} -->\n).*?(<!-- end -->)', re.DOTALL)
    return block.sub(lambda match: f'{match[1]}{tables}{match[2]}', page)


def updated(earlier: Evidence, run: Evidence, names: Sequence[str]) -> Evidence:
    """The figures of a run, or the earlier ones with the named figures of the run.

    Raises:
        SystemExit: if a name is none of the figures of the run.
    """
    if unknown := [name for name in names if name not in run.model_fields_set]:
        raise SystemExit(f'no {", ".join(unknown)} in this run')
    return earlier.model_copy(update={name: getattr(run, name) for name in names}) if names else run


def _copy(folder: Path, pictures: Sequence[str]) -> None:
    for picture in pictures:
        if (folder / picture).exists():
            shutil.copy(folder / picture, DOCS / picture)


if __name__ == '__main__':
    folder, fields = Path(sys.argv[1]), sys.argv[2:]
    if (folder / RESULTS).exists():
        results = LinkResults.read(folder)
        results.write(DOCS)
        _copy(folder, (link_plots.RATE, link_plots.LOSS))
        LINK_PAGE.write_text(documented_link(LINK_PAGE.read_text(), results))
    elif (folder / TRUST).exists():
        trust = Trust.read(folder)
        trust.write(DOCS)
        TRUST_PAGE.write_text(documented_trust(TRUST_PAGE.read_text(), trust))
    else:
        evidence = updated(Evidence.read(DOCS), Evidence.read(folder), fields)
        evidence.write(DOCS)
        pictures = {'reliability': RELIABILITY, 'steps': STEPS}
        _copy(folder, [name for field, name in pictures.items() if field in fields or not fields])
        PAGE.write_text(documented(PAGE.read_text(), evidence))
