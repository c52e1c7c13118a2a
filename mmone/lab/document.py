"""A document of headings, paragraphs, lists, tables and pictures, as Markdown and as one HTML page.

Whatever text is in it is shown as it is: names come from other people's browsers, and neither format lets them be more
than text.
"""
import base64
import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmone.errors import InputError
from mmone.files import publish, scratch_folder

MARKDOWN, PAGE = 'report.md', 'report.html'
# What Markdown, and GitHub's, would take for its own; an address would become a link.
_MARKDOWN = re.compile(r'[\\`*_\[\]|~$]|^(?:[-+=#]+|\d+[.)])(?=\s|$)')
_ENTITIES = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '://': '&#58;//', 'www.': 'www&#46;'}
# The page needs nothing from anywhere, and may load nothing.
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff; overflow-wrap: anywhere; }}
h1, h2, h3, h4 {{ line-height: 1.25; margin: 2em 0 .5em; }}
h1 {{ margin-top: 0; }}
h2 {{ border-bottom: 1px solid #ddd; padding-bottom: .2em; }}
img {{ max-width: 100%; height: auto; }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
th, td {{ padding: .25rem .75rem; border-bottom: 1px solid #e4e4e4; text-align: left; }}
td.number, th.number {{ text-align: right; white-space: nowrap; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def plain(text: str, limit: int = 120) -> str:
    """Text in one line without control characters, and not endless."""
    text = ' '.join(''.join(letter if letter.isprintable() else ' ' for letter in text).split())
    return text if len(text) <= limit else text[:limit - 1] + '…'


def markdown_text(text: str) -> str:
    """Text as Markdown that shows just that."""
    escaped = _MARKDOWN.sub(lambda match: f'{match[0][:-1]}\\{match[0][-1]}', text)
    return re.sub(r'[&<>]|://|www\.', lambda match: _ENTITIES[match[0].lower()], escaped, flags=re.IGNORECASE)


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Link:
    """A paragraph that ends with an address of our own."""
    text: str
    address: str


@dataclass(frozen=True)
class Items:
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of texts; columns whose head ends with ``>`` have numbers, and lose that sign."""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def columns(self) -> list[tuple[str, bool]]:
        return [(name.removesuffix('>'), name.endswith('>')) for name in self.head]


@dataclass(frozen=True)
class Picture:
    """A picture of this name with the suffixes ``.png``, beside the Markdown, and ``.svg``, in the page.

    A photograph has ``.jpg`` in both.
    """
    name: str
    text: str
    photograph: bool = False


Block = Heading | Text | Link | Items | Table | Picture


def to_markdown(blocks: Iterable[Block]) -> str:
    return '\n\n'.join(map(_to_markdown, blocks)) + '\n'


def _to_markdown(block: Block) -> str:
    show = markdown_text
    match block:
        case Heading():
            return f'{"#" * block.level} {show(block.text)}'
        case Text():
            return show(block.text)
        case Link():
            return f'{show(block.text)} <{block.address}>'
        case Items():
            return '\n'.join(f'- {show(item)}' for item in block.items)
        case Picture():
            return f'![{show(block.text)}]({block.name}.{"jpg" if block.photograph else "png"})'
        case Table():
            rules = ['--:' if number else '---' for _, number in block.columns]
            rows = [[name for name, _ in block.columns], *block.rows]
            head, *lines = (f'| {" | ".join(map(show, row))} |' for row in rows)
            return '\n'.join([head, f'| {" | ".join(rules)} |', *lines])


def to_html(blocks: Sequence[Block], folder: Path) -> str:
    """One page with everything in it.

    Args:
        blocks (Sequence[Block]): The first is the title.
        folder (Path): Where the pictures are.
    """
    ids = {id(block): f'section-{number}' for number, block in enumerate(blocks)}
    body = [_to_html(block, ids[id(block)], folder) for block in blocks]
    contents = ''.join(f'<li><a href="#{ids[id(block)]}">{html.escape(block.text)}</a></li>'
                       for block in blocks if isinstance(block, Heading) and block.level == 2)
    title = blocks[0].text if isinstance(blocks[0], Heading) else ''
    return _PAGE.format(title=html.escape(title), body='\n'.join([body[0], f'<ul>{contents}</ul>', *body[1:]]))


def _to_html(block: Block, anchor: str, folder: Path) -> str:
    show: Callable[[str], str] = html.escape
    match block:
        case Heading():
            return f'<h{block.level} id="{anchor}">{show(block.text)}</h{block.level}>'
        case Text():
            return f'<p>{show(block.text)}</p>'
        case Link():
            return f'<p>{show(block.text)} <a href="{show(block.address)}">{show(block.address)}</a></p>'
        case Items():
            return f'<ul>{"".join(f"<li>{show(item)}</li>" for item in block.items)}</ul>'
        case Picture():
            suffix, kind = ('jpg', 'jpeg') if block.photograph else ('svg', 'svg+xml')
            data = base64.b64encode((folder / f'{block.name}.{suffix}').read_bytes()).decode()
            return f'<p><img alt="{show(block.text)}" src="data:image/{kind};base64,{data}"></p>'
        case Table():
            marks = [' class="number"' if number else '' for _, number in block.columns]
            rows = [''.join(f'<td{mark}>{show(cell)}</td>' for mark, cell in zip(marks, row)) for row in block.rows]
            head = ''.join(f'<th{mark}>{show(name)}</th>' for mark, (name, _) in zip(marks, block.columns))
            return (f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>'
                    f'{"".join(f"<tr>{row}</tr>" for row in rows)}</tbody></table></div>')


def write(folder: str | Path, make: Callable[[Path], Iterable[Block]]) -> Path:
    """Write a document to a folder, whole or not at all: Markdown with its pictures, and the page.

    Args:
        folder (str | Path): Is made, or replaced if this function wrote it.
        make (Callable): Is given a folder for pictures, and gives the document.

    Returns:
        Path: The Markdown.

    Raises:
        InputError: If the folder has files that this function did not write.
    """
    folder = Path(folder).absolute()
    check_folder(folder)
    with scratch_folder(folder) as scratch:
        made = scratch / 'report'
        made.mkdir()
        blocks = list(make(made))
        (made / MARKDOWN).write_text(to_markdown(blocks), encoding='utf-8')
        (made / PAGE).write_text(to_html(blocks, made), encoding='utf-8')
        for picture in made.glob('*.svg'):
            picture.unlink()
        publish(made, folder)
    return folder / MARKDOWN


def check_folder(folder: Path) -> None:
    """Raise InputError where no report can be written: it would replace what is no report's."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f'cannot write a report to {folder}: it is a file')
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    written = set()
    if MARKDOWN in there:
        text = (folder / MARKDOWN).read_text(encoding='utf-8', errors='replace')
        written = {MARKDOWN, PAGE, *re.findall(r'\]\(([\w-]+\.(?:png|jpg))\)', text)}
    foreign = sorted(there - written)
    if foreign:
        raise InputError(f'cannot write a report to {folder}: it has {foreign[0]}, which no report wrote; give a new '
                         'folder')
    if not folder.parent.is_dir():
        raise InputError(f'cannot write a report to {folder}: there is no directory {folder.parent}')
