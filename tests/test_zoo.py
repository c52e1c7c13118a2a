"""The model zoo: metafiles against the models; tables and first lines of configs against the metafiles."""
import importlib.util
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
import yaml
from mmengine.config import Config

from mmone import InputError
from mmone.complexity import Complexity, complexity
from mmone.config import build_model, native_shape, set_deploy
from mmone.zoo import TASKS, entries, find_config, list_models

ROOT = Path(__file__).parent.parent
# Of so large images the count is found from smaller ones, but for one to hold that against.
LARGE, COUNTED_WHOLE = 512, 'mobileone-s0-d16_deeplabv3_4xb16-50e_voc12aug-512x512'


@pytest.fixture
def tool():
    """The module ``tools/model_zoo.py``."""
    spec = importlib.util.spec_from_file_location('model_zoo', ROOT / 'tools/model_zoo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_without_weights(cfg):
    """Of a config: initialization is most of what building takes."""
    with torch.device('meta'):
        return build_model(cfg)


def count(model, shape, whole):
    """The model's complexity at ``shape``; of a large square unless ``whole``, from its values at two smaller ones.

    Of a segmentor whose maps are of whole strides, multiply-adds are a constant (of the branch that pools the
    whole image) and a part that grows with the area.
    """
    if whole or min(shape) < LARGE:
        return complexity(model, shape)
    height, width = shape
    small, middle = (complexity(model, (height // part, width // part)) for part in (8, 4))
    by_area, remainder = divmod(middle.multiply_adds - small.multiply_adds, 4 * 4 - 2 * 2)
    assert remainder == 0
    return Complexity(small.parameters, small.multiply_adds + by_area * (16 * 16 - 2 * 2))


def test_every_config_has_its_entry():
    configs = {path.stem for task in TASKS.values() for path in (ROOT / 'configs' / task).glob('*.py')}
    assert set(list_models()) == configs
    assert set(list_models('detection')) == {path.stem for path in (ROOT / 'configs/detection').glob('*.py')}


@pytest.mark.parametrize('name', entries())
def test_entry_agrees_with_the_model(name):
    entry = entries()[name]
    assert entry.config.stem == name and entry.config.is_file()
    cfg = Config.fromfile(entry.config)
    shape = native_shape(cfg)
    assert entry.metadata['Image Size'] == list(shape)
    if 'Parameters with Branches' in entry.metadata:
        parameters = sum(parameter.numel() for parameter in build_without_weights(cfg).parameters())
        assert parameters == entry.metadata['Parameters with Branches']
    set_deploy(cfg.model)
    model = build_without_weights(cfg).to_empty(device='cpu')
    found = count(model, shape, name == COUNTED_WHOLE)
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
        assert urlsplit(ours.weights).path == urlsplit(model['Weights']).path  # the maintained fork has another host
        assert ours.results == model['Results']


def test_documents_and_configs_say_what_the_metafiles_do(tool):
    """One source: the tables, and the first line of each config."""
    contents = tool.contents()
    assert {path.stem for path in contents if path.suffix == '.py'} == set(entries())
    for path, wanted in contents.items():
        text = path.read_text()
        assert path.suffix == '.py' or '<!-- zoo: ' in text
        assert text == wanted, f'{path}: run tools/model_zoo.py'


def test_a_wrong_number_is_found_and_mended(tool, tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / 'docs', tmp_path / 'docs')
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    shutil.copy(ROOT / 'README.md', tmp_path)
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    for path, number in ((tmp_path / 'README.md', '2,078,504'), (tmp_path / 'docs/results.md', '75.40'),
                         (next(tmp_path.glob('configs/*/*_coco-320x320.py')), 'paper')):
        text = path.read_text()
        path.write_text(text.replace(number, '1', 1))
        with pytest.raises(SystemExit, match='2'):
            tool.main(['--check'])
        assert f'{path.relative_to(tmp_path)} differs from the metafiles' in capsys.readouterr().err
        tool.main([])
        assert path.read_text() == text
    tool.main(['--check'])


@pytest.mark.parametrize('name', entries())
def test_first_line_of_a_config(name):
    """What was reached, in how long and on what; or that nobody trained it, and the paper's figure."""
    entry = entries()[name]
    line = entry.config.read_text().splitlines()[0]
    figures = {value for result in entry.results for value in result['Metrics'].values()}
    figures.update(entry.metadata.get('Paper', {}).values())
    assert line.startswith('# ') and figures <= {float(number) for number in re.findall(r'\d+\.\d+', line)}
    if not entry.results:
        assert line.startswith('# Not trained yet; ') and entry.metadata.get('Epochs') is None
        assert figures or line.endswith('the paper has no figure for it.')
    elif entry.weights:
        assert 'not trained here' in line
    for key in ('Training Time', 'Training Resources', 'Start'):
        assert entry.metadata.get(key, '') in line


def test_all_that_was_measured_here_is_on_the_page_of_results():
    page = (ROOT / 'docs/results.md').read_text()
    for name, entry in entries().items():
        if entry.results and not entry.weights and 'shapes' not in name:
            row, = (line for line in page.splitlines() if line.startswith(f'| `{name}.py`'))
            for value in entry.results[0]['Metrics'].values():
                assert f' {value:.2f} ' in row or f' {value:.1f} ' in row, (name, row)


def test_untrained_models_have_the_papers_figures():
    """Tables 10, 11a and 11b (arXiv 2206.04040v2): no S0 on COCO, and S4 without squeeze-excite as a segmentor."""
    distilled = dict(s0=72.5, s1=77.4, s2=79.1, s3=80.0, s4=81.4)
    coco = dict(s1=25.7, s2=26.6, s3=27.3, s4=29.4)
    voc = dict(s0=73.7, s1=77.3, s2=77.9, s3=78.8, s4=80.1)
    ade20k = dict(s0=33.1, s1=35.1, s2=35.7, s3=36.2, s4=38.2)
    wanted = {f'ssdlite_mobileone-{arch}_8xb16-200e_coco-320x320': {'box AP': value} for arch, value in coco.items()}
    wanted.update({f'mobileone-{arch}_meal-v2_8xb64-200e_in1k': {'Top 1 Accuracy': value}
                   for arch, value in distilled.items()})
    for data, figures in (('50e_voc12aug', voc), ('120e_ade20k', ade20k)):
        wanted.update({f'mobileone-{arch}-{stride}_deeplabv3_4xb16-{data}-512x512': {'mIoU': value}
                       for arch, value in figures.items() for stride in ('d8', 'd16')})
    untrained = {name: entry.metadata for name, entry in entries().items() if not entry.results}
    assert {name: record['Paper'] for name, record in untrained.items() if 'Paper' in record} == wanted
    assert {name for name, record in untrained.items() if 'Paper Note' in record} == {
        name for name in wanted if '-s4-' in name}


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
