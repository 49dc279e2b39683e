# SPDX-License-Identifier: Apache-2.0
"""Links, commands, options, launch arguments and examples in the documentation are valid."""

import ast
import os
import re
import shlex
from pathlib import Path

import pytest
import typer

from diffkd_ros.cli import app

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / 'README.md', PROJECT / 'CONTRIBUTING.md', *sorted((PROJECT / 'docs').glob('*.md'))]
LINK = re.compile(r'\]\((?!\w+:)([^)\s#]*)(#[^)\s]*)?\)')
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def commands() -> list[tuple[str, list[str]]]:
    """Every command line of the pages: (page, words)."""
    found = []
    for page in PAGES:
        for text in blocks(page, 'bash'):
            for line in text.replace('\\\n', ' ').splitlines():
                words = shlex.split(line.replace('<', '').replace('>', ''), comments=True)
                if words:
                    found.append((page.name, words))
    return found


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub and the site make them."""
    headings = re.findall(r'^#+ (.*)$', BLOCK.sub('', page.read_text()), re.MULTILINE)
    return {'#' + re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), path
        if anchor:
            assert anchor in anchors(target), f'{path}{anchor}'


def test_every_command_of_ours_takes_what_the_pages_give_it():
    root = typer.main.get_command(app)
    checked = 0
    for page, words in commands():
        if os.path.basename(words[0]) != 'diffkd':
            continue
        command, rest = root, words[1:]
        while rest and rest[0] in getattr(command, 'commands', {}):
            command, rest = command.commands[rest[0]], rest[1:]
        assert not hasattr(command, 'commands') or rest[0].startswith('-'), f'{page}: {words}'
        known = {option for parameter in command.params for option in parameter.opts}
        # Typer adds these when the command runs.
        known |= {'--help', '--install-completion'}
        for word in rest:
            if word.startswith('--'):
                assert word.partition('=')[0] in known, f'{page}: {words}'
        checked += 1
    assert checked > 20


def test_launch_files_declare_the_arguments_that_the_pages_give_them():
    checked = 0
    for page, words in commands():
        if words[:3] != ['ros2', 'launch', 'diffkd_ros']:
            continue
        source = (PROJECT / 'launch' / words[3]).read_text()
        if 'vehicle_arguments(' in source:
            source += (PROJECT / 'diffkd_ros' / 'launching' / 'actions.py').read_text()
        constants = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
        declared = {node.value for node in constants}
        for word in words[4:]:
            if ':=' in word:
                assert word.partition(':=')[0] in declared, f'{page}: {words}'
                checked += 1
    assert checked > 10


def test_make_has_the_targets_that_the_pages_name():
    makefile = (PROJECT / 'Makefile').read_text()
    targets = set(re.findall(r'^([\w-]+):', makefile, re.MULTILINE))
    named = {words[1] for _, words in commands() if words[0] == 'make' and len(words) > 1}
    assert {'demo', 'test', 'docs'} <= named <= targets


def test_the_examples_on_corruptions_run():
    names: dict = {}
    for text in blocks(PROJECT / 'docs' / 'corruptions.md', 'python'):
        exec(text, names)
    assert len(names['foggy'].agents) == 3
    assert names['link'].newest(0) is None


def test_the_pages_are_short():
    assert max(len(page.read_text().splitlines()) for page in PAGES) <= 250
