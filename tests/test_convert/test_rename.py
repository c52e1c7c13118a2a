"""From a file of one source to a file of another."""
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmone import InputError
from mmone.checkpoints import SOURCES, read_checkpoint, rename
from mmone.convert.rename import convert
from mmone.models import MobileOne
from tests.conftest import TINY, relative_difference
from tests.test_checkpoints.test_sources import classifier

MMPRETRAIN = SOURCES['mmpretrain']


@pytest.fixture
def save(tmp_path):

    def save(source, deploy=False, arch=TINY, name='in.pth', change=lambda state_dict: None):
        ours = classifier(arch, deploy).state_dict()
        change(ours)
        theirs = rename(ours, MMPRETRAIN, SOURCES[source])
        path = tmp_path / name
        save_file(theirs, path) if path.suffix == '.safetensors' else torch.save(theirs, path)
        return path, ours

    return save


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize('name', ['in.pth.tar', 'in.safetensors'])
def test_to_mmone_and_what_is_said_of_it(save, tmp_path, name):
    path, ours = save('apple', deploy=True, arch='s4', name=name)
    before, after = convert(path, tmp_path / 'out.pth')
    assert equal(read_checkpoint(tmp_path / 'out.pth')['state_dict'], ours)
    assert before[:4] == ('apple', 's4', True, 7)
    assert after[:4] == ('mmpretrain', 's4', True, 7)
    for words in ('names of apple', 'variant s4', 'fused', '7 classes', f'SHA-256 {before.sha256}'):
        assert words in str(before)


@pytest.mark.parametrize('to, suffix', [('mmpretrain', 'pth'), ('apple', 'safetensors'),
                                        ('timm', 'pth'), ('cvnets', 'safetensors')])
def test_there_and_back_through_files(save, tmp_path, to, suffix):
    path, ours = save('timm')
    middle, back = tmp_path / f'middle.{suffix}', tmp_path / 'back.safetensors'
    convert(path, middle, to=to)
    convert(middle, back, to='timm')
    assert equal(load_file(back), torch.load(path))


def test_deploy_computes_the_same(save, tmp_path, moved):
    path, _ = save('cvnets', change=lambda ours: ours.update(
        {'backbone.' + key: value for key, value in moved(MobileOne(TINY)).state_dict().items()}))
    convert(path, tmp_path / 'branches.pth')
    _, after = convert(path, tmp_path / 'deployed.pth', deploy=True)
    assert after.deployed
    models = classifier(TINY, False).eval(), classifier(TINY, True).eval()
    for model, name in zip(models, ('branches', 'deployed')):
        model.load_state_dict(read_checkpoint(tmp_path / f'{name}.pth')['state_dict'])
    x = torch.randn(1, 3, 64, 64)
    assert relative_difference(models[1](x), models[0](x)) < 1e-5


def test_containers_and_wrappers(save, tmp_path):
    path, ours = save('apple')
    theirs = {f'module.{key}': value for key, value in torch.load(path).items()}
    torch.save(dict(epoch=3, state_dict={'x': torch.zeros(1)}, state_dict_ema=theirs), path)
    convert(path, tmp_path / 'out.pth')
    assert equal(read_checkpoint(tmp_path / 'out.pth')['state_dict'], ours)


def test_class_names_are_kept(save, tmp_path):
    path, ours = save('mmpretrain')
    meta = dict(dataset_meta=dict(classes=['a']), cfg='model = dict()')
    torch.save(dict(state_dict=ours, meta=meta), path)
    convert(path, tmp_path / 'out.pth', deploy=True)
    meta = read_checkpoint(tmp_path / 'out.pth')['meta']
    assert meta['dataset_meta'] == dict(classes=['a']) and 'cfg' not in meta


def test_another_arch_is_converted_too(tmp_path):
    ours = {f'backbone.{key}': value for key, value in MobileOne(
        TINY, in_channels=4, use_scale=False, use_skip=False).state_dict().items()}
    torch.save(ours, tmp_path / 'in.pth')
    before, _ = convert(tmp_path / 'in.pth', tmp_path / 'out.pth', to='timm', deploy=True)
    assert before[:4] == ('mmpretrain', None, False, None)
    assert 'no head' in str(before) and 'arch of its own' in str(before)


def test_drop_head(save, tmp_path):
    path, ours = save('timm')
    _, after = convert(path, tmp_path / 'out.pth', drop_head=True)
    assert after.classes is None
    written = read_checkpoint(tmp_path / 'out.pth')['state_dict']
    assert ours.keys() - written.keys() == {'head.fc.weight', 'head.fc.bias'}


def damage(state_dict, key, value):
    del state_dict[key]
    state_dict.update(value)


@pytest.mark.parametrize('change, words', [
    (lambda s: s.pop('backbone.stage2.2.branch_norm.bias'), 'missing: stage2.2.branch_norm.bias'),
    (lambda s: [s.pop(key) for key in list(s) if 'stage4' in key], 'no weights of stage4'),
    (lambda s: s.update({'backbone.stage1.0.branch_reparam.weight': torch.zeros(1)}), 'mixes'),
    (lambda s: s['head.fc.bias'].fill_(float('nan')), 'linear.bias holds NaN'),
], ids=['tensor', 'stage', 'forms', 'nan'])
def test_what_is_not_whole_is_refused(save, tmp_path, change, words):
    path, _ = save('apple', change=change)
    with pytest.raises(InputError, match=words):
        convert(path, tmp_path / 'out.pth')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in.pth']


def test_nobodys_weights_are_refused(tmp_path):
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'resnet.pth')
    with pytest.raises(InputError, match="first key is 'conv1.weight'"):
        convert(tmp_path / 'resnet.pth', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


def test_output_is_checked_before_anything(save, tmp_path):
    path, _ = save('apple')
    for out, words in ((path, 'exists'), (tmp_path, 'is a directory'),
                       (tmp_path / 'no' / 'out.pth', 'no directory')):
        with pytest.raises(InputError, match=words):
            convert(path, out)


def test_truncated_safetensors(save, tmp_path):
    path, _ = save('apple', name='in.safetensors')
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match='truncated'):
        convert(path, tmp_path / 'out.pth')


def test_zip_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', bytes(50_000_000))
    with pytest.raises(InputError, match='would unpack to 50,000,000'):
        read_checkpoint(tmp_path / 'bomb.pth')
