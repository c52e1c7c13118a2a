"""Ablations: what each row changes, what is read of runs, what a report says; and a whole one."""
import copy
import json
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmone import InputError
from mmone.apis import get_model, predict
from mmone.config import build_model, dataset_of, load_config, type_name
from mmone.experiments import runs
from mmone.experiments.ablate import ablate
from mmone.experiments.ablation_report import differences
from mmone.experiments.ablations import ABLATIONS, Ablation, Row, row_configs
from mmone.experiments.runs import Epoch, Run, write_config
from mmone.registry import METRICS
from tests.kit import ROOT, command, environment

CONFIGS = ROOT / 'configs/classification'
IMAGENET_S2 = CONFIGS / 'mobileone-s2_8xb32_in1k.py'
SMALL = CONFIGS / 'mobileone-micro68_1xb32-12e_shapes-96x96.py'


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@cache
def loaded(path):
    """A config, to be read only."""
    return load_config(str(path))


def changed(name, path):
    """The configs of an ablation's rows by their labels."""
    return {row.label: cfg for row, cfg in row_configs(ABLATIONS[name], loaded(path)).items()}


def names_of_branches(cfg):
    """Of a depthwise block with a skip branch, if blocks have one."""
    with torch.device('meta'):
        block = build_model(cfg).backbone.stage2[2]
    return [name.removeprefix('branch_') for name, _ in block.named_branches()], type(block.act), type(block.se)


@pytest.mark.parametrize('name, expected', [
    ('branches', dict(without=['conv_list.0'])),
    ('k', {f'k={k}': [*(f'conv_list.{i}' for i in range(k)), 'scale', 'norm'] for k in range(1, 6)}),
    ('scale-skip', {'both': [*(f'conv_list.{i}' for i in range(4)), 'scale', 'norm'],
                    'scale': [*(f'conv_list.{i}' for i in range(4)), 'scale'],
                    'skip': [*(f'conv_list.{i}' for i in range(4)), 'norm'],
                    'none': [f'conv_list.{i}' for i in range(4)]}),
    ('rivals', dict(mobileone=[*(f'conv_list.{i}' for i in range(4)), 'scale', 'norm'],
                    repvgg=['conv_list.0', 'scale', 'norm'],
                    acnet=['chains.kxk', 'chains.1xk', 'chains.kx1'],
                    dbb=['chains.kxk', 'chains.1x1_kxk', 'chains.average'], expandnet=['chains.expanded'])),
])
def test_the_branches_of_every_row(name, expected):
    found = changed(name, SMALL)
    assert [row.label for row in ABLATIONS[name].rows] == list(found)
    for label, names in expected.items():
        assert names_of_branches(found[label])[0] == names, label


def test_the_activation_of_every_row():
    found = {label: names_of_branches(cfg)[1:] for label, cfg in changed('activation', SMALL).items()}
    assert {label: act.__name__ for label, (act, _) in found.items()} == {
        'ReLU': 'ReLU', 'GELU': 'GELU', 'SiLU': 'SiLU', 'SE-ReLU': 'ReLU'}
    assert [label for label, (_, se) in found.items() if se.__name__ == 'SELayer'] == ['SE-ReLU']


def test_each_train_setting_is_left_out_alone():
    found = changed('settings', IMAGENET_S2)
    settings = {label: dict(
        annealing=any(entry.get('param_name') == 'weight_decay' for entry in cfg.param_scheduler),
        ema=any(type_name(hook) == 'EMAHook' for hook in cfg.custom_hooks),
        curriculum=any(type_name(hook) == 'SwitchRecipeHook' for hook in cfg.custom_hooks),
        smoothing=type_name(cfg.model.head.loss) == 'LabelSmoothLoss') for label, cfg in found.items()}
    assert {label: [name for name, there in row.items() if not there] for label, row in settings.items()} == {
        'all': [], 'no weight-decay annealing': ['annealing'], 'no EMA': ['ema'], 'no curriculum': ['curriculum'],
        'no label smoothing': ['smoothing']}
    # Without the curriculum it trains as at its end: at full size and strength from the start.
    crops = {label: dataset_of(cfg.train_dataloader).pipeline[1]['scale'] for label, cfg in found.items()}
    assert crops['no curriculum'] == 224 and crops['all'] == crops['no EMA'] == 160
    assert type_name(found['no label smoothing'].model.head.loss) == 'CrossEntropyLoss'


def test_what_the_config_has_not_is_no_row_and_the_config_stays_as_it_is():
    cfg = copy.deepcopy(loaded(SMALL))
    assert [row.label for row in row_configs(ABLATIONS['settings'], cfg)] == ['all', 'no EMA']
    assert [row.label for row in row_configs(ABLATIONS['k'], cfg)] == [f'k={k}' for k in range(1, 6)]
    assert cfg.to_dict() == loaded(SMALL).to_dict()


def test_a_row_is_a_config_by_itself(tmp_path):
    run = write_config(tmp_path / 'a/seed0.py', changed('rivals', SMALL)['dbb'])
    again = Config.fromfile(run.config)
    assert again.work_dir == str(tmp_path / 'a/seed0') and run.max_epochs == 12
    assert again.default_hooks.checkpoint.interval == 1 and again.default_hooks.checkpoint.max_keep_ckpts == 2
    assert [type_name(one) for one in again.val_evaluator] == ['Accuracy', 'CrossEntropy']
    assert names_of_branches(again)[0] == ['chains.kxk', 'chains.1x1_kxk', 'chains.average']


@pytest.mark.parametrize('changes, words', [
    ({'load_from': 'a.pth'}, 'starts from weights'),
    ({'model.backbone.deploy': True}, 'deployed form'),
    ({'model.backbone.init_cfg': dict(type='Pretrained', checkpoint='a.pth')}, 'starts from weights'),
    ({'val_evaluator': dict(type='SingleLabelMetric')}, 'compare top-1'),
    ({'model.backbone.type': 'ResNet'}, 'no classifier with a MobileOne'),
    ({'train_cfg.max_epochs': None}, 'train by epochs'),
], ids=str)
def test_other_configs_are_refused(changes, words):
    cfg = copy.deepcopy(loaded(SMALL))
    cfg.merge_from_dict(changes)
    with pytest.raises(InputError, match=words):
        row_configs(ABLATIONS['k'], cfg)


def test_cross_entropy_by_hand():
    metric = METRICS.build(dict(type='mmone.CrossEntropy'))
    metric.process(None, [dict(pred_score=torch.tensor([0.5, 0.5]), gt_label=torch.tensor([1])),
                          dict(pred_score=torch.tensor([1.0, 0.0]), gt_label=torch.tensor([0]))])
    assert metric.evaluate(2) == {'validation/cross_entropy': pytest.approx(0.5 * 0.6931472)}
    metric.process(None, [dict(pred_score=torch.tensor([1.0, 0.0]), gt_label=torch.tensor([1]))])
    assert 80 < metric.evaluate(1)['validation/cross_entropy'] < 100


def log(run, start, *entries):
    path = run.work_dir / start / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries))


def validated(epoch, top1, loss=1.0):
    return {'accuracy/top1': top1, 'validation/cross_entropy': loss, 'step': epoch}


def trained(epoch, loss):
    return dict(loss=loss, epoch=epoch, iter=epoch * 7, step=epoch * 7)


def test_a_killed_and_resumed_run_is_read_as_one(tmp_path):
    run = Run(tmp_path / 'seed0.py', 2)
    assert run.history() == {} and not run.is_finished()
    log(run, '20260101_000001', trained(1, 3.0), trained(1, 2.0), validated(1, 10.0, 1.5), trained(2, 9.0),
        '{"loss": 1')
    assert run.history() == {1: Epoch(2.0, 1.5, 10.0), 2: Epoch(9.0, None, None)} and not run.is_finished()
    log(run, '20260101_000002', trained(2, 1.0), {'accuracy/top1': 30.0, 'step': 2})
    assert run.history() == {1: Epoch(2.0, 1.5, 10.0), 2: Epoch(1.0, None, 30.0)} and run.is_finished()


def test_another_config_in_the_same_folder_is_refused(tmp_path):
    cfg = Config(dict(train_cfg=dict(max_epochs=1), lr=0.1))
    run = write_config(tmp_path / 'a/seed0.py', cfg)
    (tmp_path / 'a').rename(tmp_path / 'b')
    assert write_config(tmp_path / 'b/seed0.py', cfg) == Run(tmp_path / 'b/seed0.py', 1) != run  # it may be moved
    cfg.lr = 0.2
    before = (tmp_path / 'b/seed0.py').read_text()
    with pytest.raises(InputError, match='seed0.py was written for another config, or other options'):
        write_config(tmp_path / 'b/seed0.py', cfg)
    assert (tmp_path / 'b/seed0.py').read_text() == before


def test_differences_by_hand():
    """Pooled variance 1 of 2 + 2 degrees of freedom: 2.776 √(1/3 + 1/3) is 2.267."""
    first, second = differences([[10.0, 11.0, 12.0], [20.0, 21.0, 22.0]])
    assert first.value == 0 and second.value == 10 and second.margin == pytest.approx(2.267, abs=1e-3)
    assert [one.margin for one in differences([[1.0], [2.0]])] == [None, None]


@pytest.fixture
def train(monkeypatch):
    """In place of trainings, logs whose top-1 grows with k and with the seed; returns what was trained."""
    done = []

    def go_on(run, tell):
        cfg = Config.fromfile(run.config)
        done.append(str(run.config.relative_to(run.config.parents[1])))
        k = cfg.model.backbone.arch.num_conv_branches[0] + cfg.model.backbone.get('use_scale', True)
        log(run, 'a', *(entry for epoch in range(1, run.max_epochs + 1) for entry in (
            trained(epoch, 3 / epoch / k), validated(epoch, 10.0 * k + cfg.randomness.seed + epoch, 2 / epoch / k))))
        tell()

    monkeypatch.setattr(runs, '_go_on', go_on)
    return done


def test_an_ablation_goes_on_and_is_reported(train, config, capsys):
    arguments = 'branches', config('mmpretrain'), '--work-dir', 'out'
    assert command('ablate', *arguments, '--seeds', '0') == 0
    assert train == ['with/seed0.py', 'without/seed0.py']
    assert '| without | 13.00 | – | 13.00 | -10.00 |' in capsys.readouterr().out
    train.clear()
    Path('out/without/seed0/a/vis_data/scalars.json').unlink()
    assert command('ablate', *arguments, '--seeds', '0', '2') == 0
    assert train == ['with/seed2.py', 'without/seed0.py', 'without/seed2.py']
    table = Path('out/table.md').read_text()
    assert table in capsys.readouterr().out
    assert ('| without | 14.00 | 1.41 | 13.00, 15.00 | -10.00 ± 6.08 | 1.000 | 0.667 | S0 69.6, S1 74.6, S3 77.2 |'
            in table)
    assert 'Left out' not in table and '3 epochs, seeds 0, 2.' in table
    assert Image.open('out/ablation.png').width > 1000
    assert not list(Path('out').glob('.*'))


def test_what_is_wrong_is_one_line(train, config, capsys):
    path = config('mmpretrain')
    command('ablate', 'branches', path, '--seeds', '0', '--work-dir', 'out')
    train.clear()
    for arguments, words in (
        (['nothing', path], "unknown ablation 'nothing': expected one of branches, k"),
        (['k', path, '--seeds', '1', '1'], 'seeds 1, 1: each may be given once (--seeds)'),
        (['k', config('mmdet')], 'compare top-1'),
        (['branches', path, '--seeds', '0', '--work-dir', 'out', '--cfg-options', 'train_dataloader.batch_size=7'],
         'seed0.py was written for another config, or other options: give another folder (--work-dir)'),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            command('ablate', *arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and words in error and error.count('\n') == 1, error
    assert not train


@pytest.mark.slow
def test_a_real_one(config, monkeypatch, tmp_path):
    """One row, killed after its last checkpoint and before it was validated."""
    monkeypatch.setenv('PYTHONPATH', environment()['PYTHONPATH'])
    row = Row('acnet', lambda cfg: cfg.model.backbone.update(branches='acnet') is None)
    monkeypatch.setitem(ABLATIONS, 'one', Ablation('One row', [row]))
    # mmengine's usual window: the tests' own, of one value, has no means.
    options = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'log_processor.window_size=10',
               'optim_wrapper.optimizer.lr=0.1']
    cfg = load_config(str(config('mmpretrain')), options)
    folder = tmp_path / 'out/acnet/seed3'
    folder.mkdir(parents=True)
    (folder / 'epoch_2.pth').write_bytes(b'of a run that was never validated')
    heard = []
    table = ablate('one', cfg, [3], tmp_path / 'out', lambda run, epochs, total: heard.append((epochs, total)))
    run = Run(tmp_path / 'out/acnet/seed3.py', 2)
    history = run.history()
    assert heard[0] == (0, 2) and heard[-1] == (2, 2) and '| acnet | 20.00 |' in table.read_text()
    assert history[2].top1 == 20 and history[2].train_loss > 0
    assert abs(history[1].val_loss - history[2].val_loss) > 0.001
    assert 'branch_chains' in str(torch.load(folder / 'epoch_2.pth', weights_only=False)['state_dict'].keys())

    # Losses are of an epoch's weights, not means over epochs.
    for epoch in (1, 2):
        model = get_model(str(run.config), str(folder / f'epoch_{epoch}.pth'), 'cpu', deploy=False)
        images = sorted(Path(cfg.val_dataloader.dataset.data_root, 'val').glob('*/*.jpg'))
        scores = [prediction.sample.pred_score[model.dataset_meta['classes'].index(image.parent.name)]
                  for prediction, image in zip(predict(model, images), images)]
        assert history[epoch].val_loss == pytest.approx(-torch.stack(scores).log().mean().item(), abs=1e-5)


def test_a_run_ends_with_who_asked_for_it(tmp_path):
    """Of whatever it is doing; here it waits for a config that is never written."""
    (tmp_path / 'waiting.py').write_text('import time\ntime.sleep(60)\n')
    process = subprocess.Popen([sys.executable, '-m', 'mmone.experiments.runs', 'waiting.py'], stdin=subprocess.PIPE,
                               env=environment())
    time.sleep(0.1)
    process.stdin.close()
    assert process.wait(40) == 1
