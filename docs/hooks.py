"""What MkDocs does not do by itself with these documents, as hooks of it.

They are written to be read in a clone: they link to configs and modules outside of ``docs/``. Whatever is linked
becomes a page of the site under ``sources/``, so that the site is whole in itself. Notebooks become pages too.
"""
import json
import os
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
LINK = re.compile(r'(?<=\]\()(?!\w+:|#)([^)\s#]+)')
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.c': 'c', '.yml': 'yaml', '.toml': 'toml'}
places: dict[str, Path] = {}  # the file that each page is made of


def on_files(files: Files, config) -> Files:
    """Add a page for each notebook, and for all that pages link to outside of ``docs/``."""
    places.clear()
    for file in list(files):
        if file.src_uri.endswith('.ipynb'):
            files.remove(file)
            place = Path(file.abs_src_path)
            files.append(File.generated(config, page_of(place), content=notebook(place)))
            places[page_of(place)] = place
        elif file.is_documentation_page():
            places[file.src_uri] = Path(file.abs_src_path)
    waiting = list(places.values())
    while waiting:
        place = waiting.pop()
        if place.suffix not in ('.md', '.ipynb'):
            continue
        for target in LINK.findall(place.read_text(encoding='utf-8')):
            linked = (place.parent / target).resolve()
            if linked.exists() and not linked.is_relative_to(DOCS) and linked not in places.values():
                files.append(File.generated(config, page_of(linked), content=source(linked)))
                places[page_of(linked)] = linked
                waiting.append(linked)
    return files


def page_of(place: Path) -> str:
    """The page of a file, as MkDocs names it."""
    if place.is_relative_to(DOCS):
        return place.relative_to(DOCS).as_posix().replace('.ipynb', '.md')
    name = f'sources/{place.relative_to(ROOT).as_posix()}'
    return name if place.suffix == '.md' else f'{name}/index.md' if place.is_dir() else f'{name}.md'


def source(place: Path) -> str:
    """A file as a page, or a folder as the list of its files."""
    if place.suffix == '.md':
        return place.read_text(encoding='utf-8')
    title = f'# {place.relative_to(ROOT).as_posix()}\n\n'
    if place.is_dir():
        return title + '\n'.join(f'- `{path.name}`' for path in sorted(place.iterdir()) if path.name[0] not in '._')
    return f'{title}````{LANGUAGES.get(place.suffix, "text")}\n{place.read_text(encoding="utf-8")}\n````\n'


def notebook(place: Path) -> str:
    """A notebook as a page: its text, its code, and what that gave."""
    parts = []
    for cell in json.loads(place.read_text(encoding='utf-8'))['cells']:
        text = ''.join(cell['source'])
        parts.append(text if cell['cell_type'] == 'markdown' else f'```python\n{text}\n```')
        for output in cell.get('outputs', ()):
            data = output.get('data', {'text/plain': output.get('text')})
            if 'image/png' in data:
                parts.append(f'![](data:image/png;base64,{"".join(data["image/png"]).strip()})')
            else:
                parts.append(f'```text\n{"".join(data["text/plain"]).rstrip()}\n```')
    return '\n\n'.join(parts)


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Let links between files be links between their pages."""
    place, here = places[page.file.src_uri], os.path.dirname(page.file.src_uri) or '.'

    def follow(match: re.Match) -> str:
        linked = (place.parent / match[1]).resolve()
        return os.path.relpath(page_of(linked), here) if linked.exists() else match[1]

    return LINK.sub(follow, markdown)


def on_page_content(html: str, page, config, files) -> str:
    """Docstrings name what they refer to as Sphinx does; the names are enough."""
    return re.sub(r':(?:func|class|mod|meth|attr|data):(?=<code>)', '', html).replace('::</p>', ':</p>')
