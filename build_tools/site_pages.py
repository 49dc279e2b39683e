# SPDX-License-Identifier: Apache-2.0
"""MkDocs hooks: what the documentation site has in addition to docs/.

- README.md is its home page; CONTRIBUTING.md and CHANGELOG.md are pages, too.
- The API reference has one page per package, with every public module on it.
- A link to a file outside docs/ leads to a page that shows the file, so it works both here and on the site.

Everything is generated in memory; nothing is written to docs/.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'diffkd_ros'
PAGES = {'README.md': 'index.md', 'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md'}
LANGUAGES = {'.py': 'python', '.yaml': 'yaml', '.xml': 'xml', '.json': 'json', '.json5': 'json'}
_LINK = re.compile(r'(?<=\]\()(?!\w+:|#)([^)\s#]+)')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API reference's pages into the navigation, under `API reference: []`."""
    pages = [{name: f'reference/{name}.md'} for name in packages()]
    for entry in config.nav or []:
        if 'API reference' in entry:
            entry['API reference'] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    sources = {f'docs/{file.src_uri}': file.content_string for file in files.documentation_pages()}
    for name, target in PAGES.items():
        sources[name] = (ROOT / name).read_text(encoding='utf-8')
        files.append(File.generated(config, target, content=sources[name]))
    for name, modules in packages().items():
        content = f'# {name}\n\n' + '\n'.join(f'::: {module}\n' for module in modules)
        files.append(File.generated(config, f'reference/{name}.md', content=content))
    linked = {path for page, text in sources.items() for path in _linked(page, text)}
    for path in sorted(linked - PAGES.keys()):
        if not path.startswith('docs/'):
            files.append(File.generated(config, _site_path(path), content=_shown(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links into the repository into links on the site."""
    uri = page.file.src_uri
    name = next((name for name, target in PAGES.items() if target == uri), f'docs/{uri}')
    folder = os.path.dirname(uri)

    def on_site(match: re.Match[str]) -> str:
        return os.path.relpath(_site_path(_resolved(name, match[1])), folder or '.')

    return _LINK.sub(on_site, markdown)


def packages() -> dict[str, list[str]]:
    """The public modules of each package of ours, by the package's name below `diffkd_ros`."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(PACKAGE).with_suffix('').parts
        # diffkd_ros.msg is compiled; the plain modules stand in a package's place.
        if parts[0] == 'msg' or any(part.startswith('_') for part in parts):
            continue
        found.setdefault('.'.join(parts[:-1]) or parts[0], []).append('.'.join(['diffkd_ros', *parts]))
    return dict(sorted(found.items()))


def _linked(page: str, text: str) -> set[str]:
    return {_resolved(page, match[1]) for match in _LINK.finditer(text)}


def _resolved(page: str, link: str) -> str:
    """The path in the repository that a page's link leads to."""
    path = os.path.normpath(os.path.join(os.path.dirname(page), link))
    if not (ROOT / path).is_file():
        raise PluginError(f'{page} links to {link}, and there is no such file in the repository')
    return path


def _site_path(path: str) -> str:
    if path.startswith('docs/'):
        return path.removeprefix('docs/')
    # MkDocs excludes names that start with a dot.
    return PAGES.get(path, f'files/{path.lstrip(".")}.md')


def _shown(path: str) -> str:
    """A page that shows a file."""
    language = LANGUAGES.get(Path(path).suffix, 'text')
    return f'# {path}\n\n````{language}\n{(ROOT / path).read_text(encoding="utf-8")}\n````\n'
