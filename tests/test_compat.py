"""What mmone uses of other libraries beyond their public API is still there, and means the same."""
import itertools
import re
import sys
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from mmone import compat
from mmone.config import build_model
from mmone.errors import InputError
from tests.conftest import unwrapped


@contextmanager
def needed(function, library):
    """Whatever goes wrong in the block is told as what it means."""
    try:
        yield
    except Exception as error:
        pytest.fail(f'mmone.compat.{function} uses private names of {library}, which no longer do what mmone needs '
                    f'({error!r}): see what {library} has in their place')


@pytest.mark.parametrize('mmengine, mmcv, refused', [
    ('0.10.4', '2.1.0', None), ('0.10.12', '2.3.6', None), ('0.10.7', None, None),
    ('0.10.3', '2.1.0', 'mmengine>=0.10.4,<1.0.0, found 0.10.3: pip install'), ('1.0.0', '2.1.0', 'found 1.0.0'),
    ('0.10.7', '2.0.1', 'mmcv>=2.1.0,<3.0.0, found 2.0.1: pip '), ('0.10.7', '3.0.0', 'found 3.0.0')])
def test_versions_are_those_of_the_modules(monkeypatch, mmengine, mmcv, refused):
    """Which distribution has brought them is all the same, and the backbone works without mmcv."""
    for name, version in (('mmengine', mmengine), ('mmcv', mmcv)):
        monkeypatch.setitem(sys.modules, name, version and SimpleNamespace(__version__=version))
    with pytest.raises(InputError, match=re.escape(refused)) if refused else nullcontext():
        compat.check_versions()


def test_options_are_read_as_mmengines_command_lines_read_them():
    with needed('parse_option', 'mmengine'):
        for text, value in (('1e-3', 1e-3), ('[a,2]', ['a', 2]), ('(0,3)', (0, 3)), ('None', None), ('x', 'x')):
            assert compat.parse_option(text) == value


def test_loaders_are_those_that_mmengine_calls(monkeypatch):
    with needed('registered_loaders', 'mmengine'):
        monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
        loaders = compat.registered_loaders()
        assert unwrapped(loaders['']) is load_from_local
        assert {'http://', 'torchvision://'} <= loaders.keys()
        CheckpointLoader.register_scheme('corp://', print)
        assert compat.registered_loaders()['corp://'] is print


class Net(BaseModel):

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 1)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.fc(inputs).sum())


def test_loops_are_found_when_they_are_built(tmp_path):
    with needed('built_loops', 'mmengine'):
        loader = dict(dataset=TensorDataset(torch.zeros(2, 1)), batch_size=1, sampler=dict(type='DefaultSampler'))
        runner = Runner(Net(), str(tmp_path), train_dataloader=loader, train_cfg=dict(by_epoch=True, max_epochs=1),
                        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), experiment_name=str(tmp_path),
                        log_level='ERROR')
        assert compat.built_loops(runner) == {}
        loop = runner.train_loop
        assert compat.built_loops(runner) == dict(train=loop)


def test_an_endless_iterator_begins_again():
    with needed('endless_iterator', 'mmengine'):
        iterator = compat.endless_iterator(DataLoader(range(3)))
        assert [int(value) for value in itertools.islice(iterator, 4)] == [0, 1, 2, 0]


def test_a_sampler_restarts_with_another_seed():
    with needed('restart_sampler', 'mmengine'):
        sampler, other = InfiniteSampler(range(50), seed=1), InfiniteSampler(range(50), seed=2)
        first, second = (list(itertools.islice(each, 5)) for each in (sampler, other))
        sampler.seed = 2
        assert list(itertools.islice(sampler, 5)) not in (first, second)
        compat.restart_sampler(sampler)
        assert list(itertools.islice(sampler, 5)) == second
        compat.restart_sampler(SequentialSampler(range(3)))


PREPROCESSORS = dict(mmengine=('ImgDataPreprocessor', 'bgr_to_rgb'), mmpretrain=('ClsDataPreprocessor', 'to_rgb'),
                     mmdet=('DetDataPreprocessor', 'bgr_to_rgb'), mmseg=('SegDataPreProcessor', 'bgr_to_rgb'))


@pytest.mark.parametrize('library', PREPROCESSORS)
def test_the_order_of_channels_is_known_of_every_preprocessor(library):
    with needed('takes_rgb', library):
        kind, argument = PREPROCESSORS[library]
        for converts in (True, False):
            preprocessor = MODELS.build({'type': f'{library}.{kind}', argument: converts})
            assert compat.takes_rgb(preprocessor) is converts


def test_mmpretrains_inferencers_take_a_model(config, data):
    from mmpretrain import ImageClassificationInferencer
    cfg = Config.fromfile(config('mmpretrain'))
    model = build_model(cfg)
    with needed('set_mmpretrain_attributes', 'mmpretrain'):
        compat.set_mmpretrain_attributes(model, cfg, dict(classes=list('abcde')))
        result, = ImageClassificationInferencer(model)(str(next(data.glob('JPEGImages/*.jpg'))))
        assert result['pred_class'] in 'abcde'


def test_pytorchs_own_list_allows_weights_and_no_code():
    with needed('weights_only_globals', 'PyTorch'):
        allowed = compat.weights_only_globals()
        assert {'collections.OrderedDict', 'torch._utils._rebuild_tensor_v2'} <= allowed.keys()
        assert not {'builtins.eval', 'builtins.getattr', 'os.system'} & allowed.keys()


def test_code_knows_whether_it_is_being_compiled():
    with needed('is_compiling', 'PyTorch'):
        assert not compat.is_compiling()
        double_if_compiled = torch.compile(lambda x: 2 * x if compat.is_compiling() else x, backend='eager')
        assert double_if_compiled(torch.ones(1)) == 2
