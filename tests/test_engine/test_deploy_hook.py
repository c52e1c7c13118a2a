"""DeployHook in real runs of mmengine's Runner."""
import copy
import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmone.checkpoints import read_checkpoint
from mmone.models import MobileOne, MobileOneBlock
from tests.conftest import TINY


class Noise(BaseDataset):
    """Twelve fixed images whose label is the sign of their mean."""

    METAINFO = dict(classes=('dark', 'bright'))

    def load_data_list(self):
        generator = torch.Generator().manual_seed(3)
        images = torch.randn(12, 3, 32, 32, generator=generator)
        images += (torch.arange(12) % 2 * 2 - 1).reshape(-1, 1, 1, 1)
        return [dict(inputs=x, label=i % 2) for i, x in enumerate(images)]


class Classifier(BaseModel):

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = MobileOne(TINY, **kwargs)
        self.dropout = nn.Dropout()  # draws random numbers in training
        self.fc = nn.Linear(64, 2)

    def forward(self, inputs, label, sample_idx=None, mode='tensor'):
        x = torch.stack(inputs) if isinstance(inputs, (list, tuple)) else inputs
        scores = self.fc(self.dropout(self.backbone(x)[-1].mean((2, 3))))
        label = torch.as_tensor(label)
        if mode == 'loss':
            return dict(loss=nn.functional.cross_entropy(scores, label))
        return [dict(score=s, label=t) for s, t in zip(scores, label)]


class Scores(BaseMetric):
    """Keeps the scores, so that two evaluations can be compared, and their accuracy."""

    seen = []

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        scores = torch.stack([r['score'] for r in results])
        Scores.seen.append(scores)
        labels = torch.tensor([int(r['label']) for r in results])
        return dict(acc=(scores.argmax(1) == labels).float().mean().item())


class Watch(Hook):
    """Notes the form of the model that is evaluated."""

    priority = 'LOWEST'

    def __init__(self):
        self.forms = []

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.forms.append(is_deployed(runner.model))

    before_test_iter = before_val_iter


def is_deployed(model):
    return all(m.deploy for m in model.modules() if isinstance(m, MobileOneBlock))


@pytest.fixture
def run(tmp_path):
    numbers = iter(range(100))

    def run(hooks=(), epochs=2, ema=False, work_dir=None, model=None, **kwargs):
        loader = dict(dataset=Noise(), batch_size=4, num_workers=0,
                      sampler=dict(type='DefaultSampler', shuffle=False))
        hooks = list(hooks)
        if ema:
            hooks.append(dict(type='EMAHook', momentum=0.1, update_buffers=True))
        torch.manual_seed(0)
        cfg = dict(
            model=model or Classifier(),
            work_dir=str(work_dir or tmp_path / 'run'),
            train_dataloader=loader, val_dataloader=loader, test_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=epochs), val_cfg=dict(), test_cfg=dict(),
            val_evaluator=Evaluator(Scores()), test_evaluator=Evaluator(Scores()),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1,
                                               save_best='acc')),
            custom_hooks=hooks, randomness=dict(seed=0), log_level='ERROR',
            experiment_name=f'test_deploy_hook_{tmp_path.name}_{next(numbers)}',
            cfg=Config(dict(model=dict(type='Classifier', backbone=dict(type='mmone.MobileOne'))),
                       ))
        cfg.update(kwargs)
        return Runner(**cfg)

    Scores.seen = []
    return run


def test_before_test_the_model_is_reparameterized_and_checked(run, moved):
    model = moved(Classifier())
    runner, plain = (run([dict(type='mmone.DeployHook')], model=copy.deepcopy(model)),
                     run(model=copy.deepcopy(model)))
    a, b = runner.test(), plain.test()
    assert is_deployed(runner.model) and not is_deployed(plain.model)
    assert a == b
    torch.testing.assert_close(*Scores.seen, rtol=1e-4, atol=1e-5)


def test_a_difference_above_tolerance_stops_the_test(run):
    runner = run([dict(type='mmone.DeployHook', tolerance=1e-12)])
    with pytest.raises(ValueError, match='more than the tolerance 1.0e-12'):
        runner.test()


def test_testing_a_deployed_model_is_no_error(run):
    run([dict(type='mmone.DeployHook')], model=Classifier(deploy=True)).test()


@pytest.mark.parametrize('ema', [False, True])
def test_validation_in_deployed_form_changes_nothing_else(run, ema, tmp_path):
    """The same run with and without: same weights, optimizer, EMA, and scores to rounding."""
    watch = Watch()
    runs = []
    for name, hooks in (('plain', []),
                        ('deployed', [dict(type='mmone.DeployHook', validate=True), watch])):
        Scores.seen = []
        runner = run(hooks, ema=ema, work_dir=tmp_path / name)
        runner.train()
        runs.append((runner, Scores.seen))
    (plain, plain_scores), (deployed, deployed_scores) = runs
    assert watch.forms and all(watch.forms)
    assert not is_deployed(deployed.model)
    for a, b in zip(plain_scores, deployed_scores):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for path in ('epoch_1.pth', 'epoch_2.pth'):
        a, b = (read_checkpoint(tmp_path / name / path) for name in ('plain', 'deployed'))
        parts = ['state_dict'] + ['ema_state_dict'] * ema
        for part in parts:
            assert a[part].keys() == b[part].keys()
            assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])
        for key, state in a['optimizer']['state'].items():
            assert torch.equal(state['momentum_buffer'],
                               b['optimizer']['state'][key]['momentum_buffer'])


@pytest.mark.parametrize('ema', [False, True])
def test_deployed_checkpoints_are_written_after_training(run, ema, tmp_path):
    runner = run([dict(type='mmone.DeployHook')], ema=ema)
    runner.train()
    work_dir = tmp_path / 'run'
    names = {p.name for p in work_dir.glob('*.pth')}
    best = next(n for n in names if n.startswith('best_acc') and 'deploy' not in n)
    assert names >= {'epoch_2_deploy.pth', best.replace('.pth', '_deploy.pth')}
    assert 'epoch_1_deploy.pth' not in names

    trained = read_checkpoint(work_dir / 'epoch_2.pth')
    shipped = torch.load(work_dir / 'epoch_2_deploy.pth', weights_only=True)
    meta = shipped['meta']
    assert meta['dataset_meta']['classes'] == ('dark', 'bright')
    assert meta['source_checkpoint'] == str(work_dir / 'epoch_2.pth')
    assert Config.fromstring(meta['cfg'], '.py').model.backbone.deploy is True
    a, b = Classifier().eval(), Classifier(deploy=True).eval()
    a.load_state_dict(trained['state_dict'])  # with EMA, mmengine saves the average here
    b.load_state_dict(shipped['state_dict'])
    x = torch.randn(4, 3, 32, 32)
    expected, found = a.backbone(x)[0], b.backbone(x)[0]
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    if ema:
        average = {k[len('module.'):]: v for k, v in trained['ema_state_dict'].items()
                   if k.startswith('module.')}
        assert not torch.equal(average['fc.weight'], shipped['state_dict']['fc.weight'])
        assert torch.equal(trained['state_dict']['fc.weight'], shipped['state_dict']['fc.weight'])


def test_a_test_after_training_with_ema_uses_the_average(run):
    """EMAHook swaps parameters with the model it was given, before and after the test."""
    runner = run([dict(type='mmone.DeployHook')], ema=True)
    runner.train()
    model = runner.model
    weights = copy.deepcopy(model.state_dict())
    runner.test()
    assert is_deployed(runner.model) and not is_deployed(model)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_resumed_run_ships_as_well(run, tmp_path):
    run([dict(type='mmone.DeployHook')], ema=True, epochs=1).train()
    first = tmp_path / 'first_deploy.pth'
    shutil.move(tmp_path / 'run' / 'epoch_1_deploy.pth', first)
    runner = run([dict(type='mmone.DeployHook')], ema=True, epochs=2, resume=True)
    runner.train()
    second = torch.load(tmp_path / 'run' / 'epoch_2_deploy.pth')
    key = 'backbone.stage0.branch_reparam.weight'
    assert not torch.equal(torch.load(first)['state_dict'][key], second['state_dict'][key])


def test_training_a_deployed_model_writes_no_second_copy(run, tmp_path):
    run([dict(type='mmone.DeployHook')], model=Classifier(deploy=True)).train()
    assert not list((tmp_path / 'run').glob('*_deploy.pth'))


def test_no_truncated_file_takes_the_name(run, tmp_path, monkeypatch):
    """A disk that fills up while the deployed checkpoint is written."""
    import mmone.checkpoints.io as io
    runner = run([dict(type='mmone.DeployHook')])
    save = torch.save

    def full(obj, file):
        if 'mmone_version' in obj.get('meta', {}):
            file.write_bytes(b'half')
            raise OSError(28, 'No space left on device')
        save(obj, file)

    monkeypatch.setattr(io.torch, 'save', full)
    with pytest.raises(OSError, match='No space'):
        runner.train()
    assert sorted(p.name for p in (tmp_path / 'run').glob('*deploy*')) == []
    assert (tmp_path / 'run' / 'epoch_2.pth').exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mmengine's AMP needs a GPU")
def test_amp_validation_in_deployed_form(run):
    watch = Watch()
    run([dict(type='mmone.DeployHook', validate=True), watch],
        optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16',
                           optimizer=dict(type='SGD', lr=0.01))).train()
    assert watch.forms and all(watch.forms)
