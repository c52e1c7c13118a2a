"""What comes before and after a run."""
from pathlib import Path

import mmengine.config.config
import pytest
from mmengine.config import Config

from tests.kit import command


@pytest.mark.skipif(not hasattr(mmengine.config.config, 'FormatCode'), reason='this mmengine does not format configs')
def test_the_config_of_a_run_is_formatted_once(config, tmp_path, monkeypatch):
    path, texts = config('mmpretrain', "train_cfg['max_epochs'] = 1\n"), []
    format_code = mmengine.config.config.FormatCode

    def counting(text, **style):
        texts.append(text)
        return format_code(text, **style)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mmengine.config.config, 'FormatCode', counting)
    command('train', path, '--work-dir', 'run')
    assert texts and len(set(texts)) == len(texts)
    assert mmengine.config.config.FormatCode is counting
    written = Path('run', path.name)
    assert written.read_text() == Config.fromfile(written).pretty_text
