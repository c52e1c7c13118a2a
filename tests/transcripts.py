"""What the documents show is run: blocks of commands, and notebooks.

    python -m tests.transcripts docs/your_data.md docs/notebooks/detection.ipynb

runs these, and writes what they print into them.

In a document those blocks are run that stand below a line ``<!-- run -->``, one after the other, in a scratch folder
that the document has for itself. One of ``bash`` has to succeed. Of one of ``console`` the output is compared: ``…``
in it stands for any text, alone on a line for any lines. Those below ``<!-- run, slow -->`` are run for the document
to be written, and not by the tests; nothing that is run after them needs them. ``<!-- data: NAME=LAYOUT -->`` names
folders that are there: the generated shapes, in layouts of :mod:`tests.layouts`.
"""
import ast
import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch

from mmone.datasets.shapes import make_dataset
from tests import layouts
from tests.kit import SERVER, environment, run_command

BLOCK = re.compile(r'^(<!-- run(?:, slow)? -->)\n```(bash|console)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
DATA = re.compile(r'^<!-- data: (.*) -->$', re.MULTILINE)
# What is another in each run: the time, by which folders and lines of logs are named, and differences of rounding.
VARYING = re.compile(r'\d{8}_\d{6}|\d\d/\d\d \d\d:\d\d:\d\d|(?<=at most )\d\S+|(?<=time: )\d\S+')
IMAGES = 40  # of tests.layouts.SIZE pixels
PICTURE = 256  # pixels, of what a notebook keeps


class Command(NamedTuple):
    """A command of a document, and what the document says that it prints."""
    line: str
    output: str


def commands(kind: str, block: str) -> Iterator[Command]:
    """The commands of a block; of bash each line is one, and prints what it likes."""
    block = block.replace('\\\n', '')
    if kind == 'bash':
        yield from (Command(line, '…\n') for line in block.splitlines() if line.strip())
        return
    for text in re.split(r'^\$ ', block, flags=re.MULTILINE)[1:]:
        line, _, output = text.partition('\n')
        yield Command(line, output)


def run(line: str) -> tuple[int, str]:
    """Run a command in the current folder: its exit status, and what it prints."""
    words = shlex.split(line, comments=True)
    if words[0] == 'mmone' and not set(words) & {'|', '>', '&&', ';'}:
        done = run_command(*words[1:])
    else:
        env = environment()
        env['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{env["PATH"]}'
        done = subprocess.run(['bash', '-c', line], env=env, capture_output=True, text=True, timeout=300)
    text = '\n'.join(written.rstrip() for written in (done.stdout, done.stderr) if written.strip())
    return done.returncode, f'{text}\n' if text else ''


def fits(expected: str, printed: str) -> bool:
    """Whether an output is what a document says."""
    pattern = ''.join('(?:.*\n)*?' if line.strip() == '…' else '.*?'.join(map(re.escape, line.split('…'))) + '\n'
                      for line in expected.splitlines())
    return re.fullmatch(pattern, printed) is not None


def make_data(document: str, folder: Path) -> None:
    """Make the folders that a document starts from."""
    named = DATA.search(document)
    if named is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        make_dataset(scratch, IMAGES, size=layouts.SIZE, val_fraction=0.25)
        for pair in named[1].split():
            name, _, layout = pair.partition('=')
            getattr(layouts, layout)(Path(scratch), folder / name)


def run_document(document: str, folder: Path, slow: bool = False) -> Iterator[tuple[Command, int, str]]:
    """Run a document's commands in a folder: each with its exit status and what it printed."""
    make_data(document, folder)
    for mark, kind, block in BLOCK.findall(document):
        for command in commands(kind, block) if slow or 'slow' not in mark else ():
            yield (command, *run(command.line))


def shortened(printed: str) -> str:
    """Of the log of a training what it reached, what it wrote and what ended it."""
    if ' - mmengine - ' not in printed:
        return printed
    kept = [line if re.search(r'Epoch\(|_deploy\.pth|: error: ', line) else '…' for line in printed.splitlines()]
    return ''.join(f'{line}\n' for line, before in zip(kept, ['', *kept]) if (line, before) != ('…', '…'))


def rewritten(document: str, folder: Path) -> str:
    """A document whose outputs are what its commands print; what still fits stays as it is."""
    results = run_document(document, folder, slow=True)

    def replace(match: re.Match) -> str:
        mark, kind, block = match.groups()
        for command in commands(kind, block):
            _, status, printed = next(results)
            if kind == 'console' and not fits(command.output, printed):
                printed = VARYING.sub('…', shortened(printed).replace(str(folder), '…'))
                block = block.replace(f'$ {command.line}\n{command.output}', f'$ {command.line}\n{printed}', 1)
            elif status and kind == 'bash':
                raise RuntimeError(f'{command.line}\n{printed}')
        return f'{mark}\n```{kind}\n{block}```'

    return BLOCK.sub(replace, document)


# Notebooks. Jupyter is not among what the tests need: a cell is Python, and its last expression is what it shows.


def run_notebook(path: Path, folder: Path) -> list[list[dict]]:
    """Run the cells of a notebook in a process and a folder of their own.

    Returns:
        list[list[dict]]: The outputs of each cell, as the file format has them.

    Raises:
        RuntimeError: If a cell fails; with the traceback.
    """
    answer = folder / 'outputs.json'
    process = SERVER.Process(target=_run_cells, args=(str(path), str(folder), str(answer), environment()))
    process.start()
    process.join(300)
    process.kill()
    found = json.loads(answer.read_text())
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _run_cells(path: str, folder: str, answer: str, env: dict) -> None:
    os.chdir(folder)
    os.environ.update(env)
    torch.set_num_threads(1)
    outputs: list = []
    space: dict = dict(__name__='__main__')
    try:
        for cell in cells(Path(path)):
            if cell['cell_type'] == 'code':
                outputs.append(_run_cell(''.join(cell['source']), space))
        Path(answer).write_text(json.dumps(outputs))
    except BaseException:
        Path(answer).write_text(json.dumps(f'{path}\n{traceback.format_exc()}'))


def _run_cell(source: str, space: dict) -> list[dict]:
    tree, shown = ast.parse(source), None
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()):
        if isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
            exec(compile(tree, '<cell>', 'exec'), space)
            shown = eval(compile(last, '<cell>', 'eval'), space)
        else:
            exec(compile(tree, '<cell>', 'exec'), space)
    outputs: list[dict] = []
    if printed.getvalue():
        outputs.append(dict(output_type='stream', name='stdout', text=printed.getvalue().splitlines(True)))
    if hasattr(shown, '_repr_png_'):
        shown.thumbnail((PICTURE, PICTURE))
        data = {'image/png': base64.b64encode(shown.quantize(64)._repr_png_()).decode()}
        outputs.append(dict(output_type='display_data', metadata={}, data=data))
    elif shown is not None:
        outputs.append(dict(output_type='display_data', metadata={}, data={'text/plain': [repr(shown)]}))
    return outputs


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def rewrite_notebook(path: Path, folder: Path) -> None:
    content = json.loads(path.read_text(encoding='utf-8'))
    outputs = iter(run_notebook(path, folder))
    for cell in content['cells']:
        if cell['cell_type'] == 'code':
            cell['outputs'] = next(outputs)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def main(paths: list[str]) -> None:
    for path in [Path(path).absolute() for path in paths]:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            if path.suffix == '.ipynb':
                rewrite_notebook(path, Path(folder))
            else:
                path.write_text(rewritten(path.read_text(encoding='utf-8'), Path(folder)), encoding='utf-8')
            os.chdir(path.parent)


if __name__ == '__main__':
    main(sys.argv[1:])
