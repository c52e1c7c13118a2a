"""What the documents name is there: links, files, modules, commands and their flags, messages, pages of the site."""
import ast
import re
from argparse import _SubParsersAction
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from mmone.cli import COMMANDS
from mmone.cli.parser import Parser
from mmone.registry import HOOKS, METRICS, MODELS, TRANSFORMS
from mmone.zoo import list_models

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')])
NOTEBOOKS = sorted(ROOT.glob('docs/notebooks/*.ipynb'))
# Modules of earlier versions, for those who come from there.
FORMER = ('mmone.deploy', 'mmone.models.mobileone_block')
FOLDERS = ('benchmarks', 'configs', 'docs', 'mmone', 'requirements', 'tests', 'tools')


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.stem)
def document(request):
    return request.param


def code(path: Path) -> Iterator[str]:
    """The lines of a document's blocks of code, and what else stands in backticks."""
    inside = False
    for line in path.read_text().splitlines():
        if line.startswith('```'):
            inside = not inside
        elif inside:
            yield line.removeprefix('$ ')
        else:
            yield from re.findall(r'`([^`]+)`', line)


def anchors(path: Path) -> set[str]:
    """The headings of a document as links name them."""
    headings = re.findall(r'^#+ (.*)$', path.read_text(), re.M)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('document', DOCUMENTS + NOTEBOOKS, ids=lambda path: path.stem)
def test_links(document):
    for target in re.findall(r'\]\(([^)\s]+)\)', document.read_text()):
        name, _, anchor = target.partition('#')
        if '://' not in target:
            path = document.parent / name if name else document
            assert path.exists() and path.resolve().is_relative_to(ROOT), target
            assert not anchor or anchor in anchors(path), target


def test_files(document):
    """Paths from the root of a clone; a config also by its bare name, and a model by its."""
    names = {f'{name}.py' for name in list_models()} | {path.name for path in ROOT.glob('configs/examples/*.py')}
    for text in code(document):
        for path in re.findall(rf'(?<![\w/.:-])(?:{"|".join(FOLDERS)})/[\w./-]*\w', text):
            assert (ROOT / path).exists(), path
        for name in re.findall(r'[\w-]+_\dxb\d+[\w-]*(?:\.py)?(?!\w*\.\w)', text):
            assert name.removesuffix('.py') + '.py' in names, name


def resolve(name: str):
    """The object that a dotted name stands for."""
    parts = name.split('.')
    for end in range(len(parts), 0, -1):
        try:
            found = import_module('.'.join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def test_names(document):
    """Of modules and what is in them; or a type that configs name."""
    for text in code(document):
        for name in re.findall(r'(?<![\w./-])mmone(?:\.[A-Za-z]\w*)+', text):
            if name.startswith(FORMER):
                assert document.stem in ('CHANGELOG', 'migration'), name
            elif not any(registry.get(name) for registry in (MODELS, HOOKS, TRANSFORMS, METRICS)):
                resolve(name)


@pytest.mark.parametrize('name', FORMER)
def test_former_modules_are_gone(name):
    with pytest.raises(AttributeError):
        resolve(name)


def flags(command: str) -> set[str]:
    """What a subcommand, or its actions, can be given."""
    parser = Parser(command, '')
    import_module(f'mmone.cli.{command}').add_arguments(parser)
    actions = [action for group in parser._actions if isinstance(group, _SubParsersAction)
               for action in group.choices.values()]
    return {flag for one in (parser, *actions) for flag in re.findall(r'--[\w-]+', one.format_help())}


def test_commands(document):
    """Subcommands, and the flags beside them: of a line of code, and of a table's row that begins with one."""
    rows = [line.removeprefix('| `') for line in document.read_text().splitlines() if line.startswith('| `')]
    for text in [*code(document), *rows]:
        command = re.match(r'mmone ([a-z]+)(?![\w:])', text)  # with a colon: an error's first words
        if command:
            assert command[1] in COMMANDS, text
            assert set(re.findall(r'(?<![\w-])--[a-z][\w-]*', text)) <= flags(command[1]), text


def pages(nav: list | dict | str) -> Iterator[str]:
    """The files that a menu of the site leads to."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(entry)


def test_every_page_is_in_the_menu():
    """Of the site, which makes pages of notebooks, and of files outside of docs/ below ``sources``."""
    listed = list(pages(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav']))
    there = {path.relative_to(ROOT / 'docs').with_suffix('.md').as_posix()
             for suffix in ('md', 'ipynb') for path in ROOT.glob(f'docs/**/*.{suffix}')}
    assert sorted(name for name in listed if not name.startswith('sources/')) == sorted(there)
    for name in listed:
        if name.startswith('sources/'):
            assert (ROOT / name.removeprefix('sources/')).exists(), name


def test_documented_modules():
    """What the page of the API has is there, with the members that it names."""
    entries = re.findall(r'^::: (\S+)\n(?:    options:\n      members: \[(.*)\]\n)?',
                         (ROOT / 'docs/api.md').read_text(), re.M)
    assert entries
    for name, members in entries:
        found = resolve(name)
        assert found.__doc__ or members, name
        for member in filter(None, members.split(', ')):
            assert getattr(found, member).__doc__, f'{name}.{member}'


def text_of(node: ast.AST) -> str:
    """A string of the code, with ``…`` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(map(text_of, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return '…'


def test_messages():
    """What the page of messages lists is said by the code in these words."""
    document = (ROOT / 'docs/troubleshooting.md').read_text().partition('## What other libraries say')[0]
    messages = re.findall(r'^\| `(.+?)` \|', document, re.M)
    assert len(messages) > 40
    strings = {text_of(node) for path in ROOT.glob('mmone/**/*.py') for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp))}
    for message in messages:
        pattern = re.compile('.*'.join(map(re.escape, message.split('…'))), re.DOTALL)
        assert any(map(pattern.search, strings)), message
