"""What the documents show works: their commands and their notebooks."""
from pathlib import Path

import pytest

from tests import transcripts

ROOT = Path(__file__).parent.parent
DOCUMENTS = [path for path in sorted(ROOT.glob('docs/*.md')) if '<!-- run -->' in path.read_text()]
NOTEBOOKS = sorted(ROOT.glob('docs/notebooks/*.ipynb'))


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.stem)
def test_commands(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command, status, printed in transcripts.run_document(path.read_text(), tmp_path):
        assert transcripts.fits(command.output, printed), f'$ {command.line}\n{printed}'
        assert status == 0 or command.output != '…\n', f'$ {command.line}\n{printed}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks(path, tmp_path):
    outputs = [output for outputs in transcripts.run_notebook(path, tmp_path) for output in outputs]
    assert any('image/png' in output.get('data', {}) for output in outputs)


def test_what_fits():
    assert transcripts.fits('a … c\n…\nd\n', 'a b c\nx\ny\nd\n')
    assert transcripts.fits('…\nd\n', 'd\n')
    assert not transcripts.fits('a …\n', 'a b\nc\n')
    assert not transcripts.fits('', 'a\n')
