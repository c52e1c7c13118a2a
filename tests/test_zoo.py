"""The model zoo: metafiles against the models, the tables against the metafiles."""
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from zoo_tables import with_tables

from mmone import InputError
from mmone.complexity import complexity, native_shape
from mmone.config import set_deploy
from mmone.zoo import TASKS, entries, find_config, list_models

ROOT = Path(__file__).parent.parent


def test_every_config_has_its_entry():
    configs = {path.stem for task in TASKS.values() for path in (ROOT / 'configs' / task).glob('*.py')}
    assert set(list_models()) == configs
    assert set(list_models('detection')) == {path.stem for path in (ROOT / 'configs/detection').glob('*.py')}


@pytest.mark.parametrize('name', entries())
def test_entry_agrees_with_the_model(name):
    entry = entries()[name]
    assert entry.config.stem == name and entry.config.is_file()
    cfg = Config.fromfile(entry.config)
    init_default_scope(cfg.default_scope)
    set_deploy(cfg.model)
    shape = native_shape(cfg)
    found = complexity(revert_sync_batchnorm(MODELS.build(cfg.model)), shape)
    assert entry.metadata['Image Size'] == list(shape)
    assert (found.parameters, found.multiply_adds) == (
        entry.metadata['Parameters'], entry.metadata['FLOPs']), f'{name}: {found}'
    for result in entry.results:
        assert TASKS[result['Task']] == entry.task
        assert result['Dataset'] and all(0 < value <= 100 for value in result['Metrics'].values())


@pytest.mark.parametrize('path', sorted(ROOT.glob('configs/*/metafile.yml')), ids=lambda path: path.parent.name)
def test_metafiles_are_what_mim_reads(path):
    content = yaml.safe_load(path.read_text())
    collections = {collection['Name'] for collection in content['Collections']}
    assert {model['In Collection'] for model in content['Models']} <= collections
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert str(path.relative_to(ROOT)) in index['Import']


def test_mmpretrains_model_index_reader_takes_ours():
    modelindex = pytest.importorskip('modelindex.load_model_index')
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert {model.name for model in index.models} == set(list_models())


def test_published_weights_are_mmpretrains():
    import mmpretrain
    theirs = yaml.safe_load((Path(mmpretrain.__file__).parent / '.mim/configs/mobileone/metafile.yml').read_text())
    for model in theirs['Models']:
        ours = entries()[model['Name']]
        assert ours.weights == model['Weights']
        assert ours.results == model['Results']


@pytest.mark.parametrize('name', ['README.md', 'docs/model_zoo.md'])
def test_tables_are_those_of_the_metafiles(name):
    text = (ROOT / name).read_text()
    assert '<!-- zoo: ' in text
    assert with_tables(text) == text, 'run tools/model_zoo.py'
    assert with_tables(text.replace('2,078,504', '2,078,505')) == text


def test_results_agree_with_the_page_of_results():
    """What was measured here stands in both places."""
    page = (ROOT / 'docs/results.md').read_text()
    for name, entry in entries().items():
        if entry.results and not entry.weights and 'shapes' not in name:
            row = next(line for line in page.splitlines() if line.startswith(f'| `{name}.py`'))
            for result in entry.results:
                assert any(f' {value:.2f} ' in row or f' {value:.1f} ' in row
                           for value in result['Metrics'].values()), (name, row)


def test_config_of_a_name_a_file_and_a_config():
    by_name, weights = find_config('mobileone-s0_8xb32_in1k')
    assert by_name.model.backbone.arch == 's0' and weights.endswith('0bc94952.pth')
    by_file, none = find_config(ROOT / 'configs/classification/mobileone-s0_8xb32_in1k.py')
    assert by_file.model == by_name.model and none is None
    copied, _ = find_config(by_name)
    copied.model.backbone.arch = 's1'
    assert by_name.model.backbone.arch == 's0'


def test_unknown_name():
    with pytest.raises(InputError, match='mobileone-s3_8xb32_in1k'):
        find_config('mobileone-s3_8xb64_in1k')
