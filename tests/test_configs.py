"""Every config: its model, schedule, hooks and metrics run for a step on generated images."""
import copy
import gc
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from mmone.config import build_model
from mmone.models import MobileOne
from mmone.models.backbones.archs import ARCHS, check_arch, stage_channels
from mmone.zoo import find_config, find_entry

ROOT = Path(__file__).resolve().parents[1] / 'configs'
CONFIGS = sorted(str(path.relative_to(ROOT))
                 for task in ('classification', 'detection', 'segmentation')
                 for path in ROOT.glob(f'{task}/*.py'))
# Those that are trained for a step: all for small data, and of the others one for each thing in which they differ. S1
# to S3 differ from S0 and S4 in widths only, and in test_zoo.py each config's model computes its outputs.
TRAINED = [name for name in CONFIGS if '_1xb' in name] + [
    'classification/mobileone-s0_8xb32_in1k.py',
    'classification/mobileone-s2_8xb32_in1k.py',
    'classification/mobileone-s4_8xb32_in1k.py',
    'detection/ssdlite_mobileone-s0_8xb16-200e_voc0712-320x320.py',
    'detection/ssdlite_mobileone-s4_8xb16-200e_coco-320x320.py',
    'segmentation/mobileone-s0-d8_deeplabv3_4xb16-50e_voc12aug-512x512.py',
    'segmentation/mobileone-s0-d16_deeplabv3_4xb16-120e_ade20k-512x512.py',
    'segmentation/mobileone-s4-d16_deeplabv3_4xb16-50e_voc12aug-512x512.py']
# One for each data set and augmentation; the others differ from these in their models alone.
DATA = [name for name in CONFIGS if not re.search(
    r'-s[134][-_]|-s2.*_\dx|-s2-|-s2_8xb16|-d8.*512|-deploy|mobilenet|distilled|meal', name)]
SIZE = 64


@cache
def config(name):
    """The config, to be read only."""
    return Config.fromfile(ROOT / name)


@DATASETS.register_module()
class GeneratedImages(BaseDataset):
    """Random images with what each task's data samples hold: packed, as from a pipeline."""

    METAINFO = dict(dataset_type='VOC2007')

    def __init__(self, task, num_classes, length=2):
        self.task, self.num_classes, self.length = task, num_classes, length
        names = [f'class {i}' for i in range(num_classes)]
        super().__init__(metainfo=dict(classes=names, palette=[[0, 0, 0]] * num_classes), serialize_data=False)

    def load_data_list(self):
        return [dict(img_id=i, img_path=f'{i}.jpg') for i in range(self.length)]

    def prepare_data(self, index):
        random = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=random)
        label = torch.tensor([index % self.num_classes])
        meta = dict(self.get_data_info(index), img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE),
                    scale_factor=(1.0, 1.0))
        return dict(inputs=image, data_samples=getattr(self, self.task)(label, meta))

    def classification(self, label, meta):
        from mmpretrain.structures import DataSample
        return DataSample(metainfo=meta).set_gt_label(label)

    def detection(self, label, meta):
        from mmdet.structures import DetDataSample
        box = [8.0, 8.0, 40.0, 48.0]
        meta['instances'] = [dict(bbox=box, bbox_label=int(label), ignore_flag=0)]
        boxes = InstanceData(bboxes=torch.tensor([box]), labels=label)
        nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=label[:0])
        return DetDataSample(metainfo=meta, gt_instances=boxes, ignored_instances=nothing)

    def segmentation(self, label, meta):
        from mmseg.structures import SegDataSample
        mask = label.repeat(1, SIZE, SIZE)
        return SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=mask))


def num_classes(cfg):
    head = cfg.model.get('head') or cfg.model.get('bbox_head') or cfg.model.decode_head
    return head.num_classes


def save_backbone(cfg, path):
    """Weights that the config can start from, as a classifier's checkpoint would hold them."""
    backbone = MobileOne(cfg.model.backbone.arch)
    backbone.init_weights()
    if cfg.model.backbone.get('deploy'):
        backbone.switch_to_deploy()
    weights = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    torch.save(dict(state_dict=weights), path)
    return str(path)


def save_teacher(name, path):
    """Weights of a model of the zoo, random ones."""
    torch.save(dict(state_dict=build_model(find_config(name)[0]).state_dict()), path)
    return str(path)


def make_runner(name, work_dir, length=2, **options):
    """The config's runner, with generated images in place of its data and no checkpoints."""
    gc.collect()  # an earlier test's runner: in its reference cycles are gigabytes
    task = name.split('/')[0]
    cfg = copy.deepcopy(config(name))
    data = dict(type='GeneratedImages', task=task, num_classes=num_classes(cfg), length=length)
    loader = dict(batch_size=2, num_workers=0, dataset=data)
    for split in ('train', 'val', 'test'):
        sampler = dict(type='DefaultSampler', shuffle=split == 'train')
        cfg[f'{split}_dataloader'] = dict(loader, sampler=sampler)
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    for evaluator in evaluators:
        evaluator.pop('ann_file', None)  # CocoMetric then takes the boxes from the data samples
    cfg.test_evaluator = cfg.val_evaluator
    if 'checkpoint' in cfg.model.backbone.get('init_cfg', {}):
        cfg.model.backbone.init_cfg.checkpoint = save_backbone(cfg, work_dir / 'backbone.pth')
    for teacher in cfg.model.get('teachers', ()):
        teacher.checkpoint = save_teacher(teacher.model, work_dir / 'teacher.pth')
    if task == 'detection':
        cfg.model.test_cfg.score_thr = 0  # an untrained model is sure of nothing
    if task == 'segmentation':
        cfg.model.data_preprocessor.size = (SIZE, SIZE)  # or it pads to the real size
    cfg.default_hooks.checkpoint = None
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{Path(name).stem}_{work_dir.name}'
    cfg.merge_from_dict(options)
    return Runner.from_cfg(cfg)


@pytest.fixture(autouse=True)
def _tidy(monkeypatch):
    """No default scope stays; no config is formatted for a log, which takes a second, no compiler asked its version."""
    monkeypatch.setattr(Config, 'pretty_text', '')
    monkeypatch.setattr(Runner, '_log_env', lambda runner, env_cfg: None)
    monkeypatch.setattr('mmone.convert.reparameterize.PROBE_SIZE', (SIZE // 2 + 1, SIZE // 2 + 1))
    instances = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(instances)


def test_all_configs_are_run():
    files = {str(path.relative_to(ROOT)) for path in ROOT.rglob('*.py')}
    others = ('_base_/', 'examples/')  # those: tests/test_examples.py
    assert {name for name in files if not name.startswith(others)} == set(CONFIGS)


def flat(node, prefix=''):
    """{dotted name: value} of a tree of dicts."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {name: value for key, child in node.items() for name, value in flat(child, f'{prefix}.{key}').items()}


PATTERNS = [
    'classification/mobileone-{}_8xb32_in1k.py',
    'detection/ssdlite_mobileone-{}_8xb16-200e_coco-320x320.py',
    'detection/ssdlite_mobileone-{}_8xb16-200e_voc0712-320x320.py',
    *(f'segmentation/mobileone-{{}}-{stride}_deeplabv3_4xb16-{data}-512x512.py'
      for stride in ('d8', 'd16') for data in ('50e_voc12aug', '120e_ade20k')),
]


@pytest.mark.parametrize('pattern, arch', [
    (pattern, arch) for arch in ARCHS if arch != 's4_no_se'
    for pattern in (PATTERNS[:1] if arch.startswith('micro') else PATTERNS)])
def test_variants_differ_in_widths_only(pattern, arch):
    name = pattern.format(arch)
    assert name in CONFIGS
    model = config(name).model
    if 'deeplabv3' in name and arch == 's4':
        arch = 's4_no_se'  # as the paper's segmentors
    assert model.backbone.arch == arch
    # S2 to S4 are trained with the curriculum.
    base = config(pattern.format('s2' if 'in1k' in name and arch > 's1' else 's0'))
    ours, theirs = flat(config(name).to_dict()), flat(base.to_dict())
    assert ours.keys() == theirs.keys()
    changed = {key for key in ours if ours[key] != theirs[key]}
    assert {key.rpartition('.')[2] for key in changed} <= {'arch', 'in_channels', 'out_channels'}
    for part, values in config(name).variants[arch].items():
        assert values.items() <= model[part].items()
    if arch != 's0':
        text = re.sub(r'^(#.*|_base_ = (\[.*?\]|.*?))$', '', (ROOT / name).read_text(), flags=re.S | re.M)
        assert not re.search(r'\d{2}', text), 'widths are to come from _base_'


def test_widths_are_the_backbones():
    cfg = Config.fromfile(ROOT / '_base_/archs.py')
    for given, first in ((cfg.widths, 1), (cfg.channels, 3)):
        assert {arch: tuple(widths) for arch, widths in given.items()} == {
            arch: stage_channels(check_arch(arch))[first:] for arch in ARCHS}


@pytest.mark.parametrize('name', TRAINED)
def test_trains_and_evaluates(name, tmp_path):
    runner = make_runner(name, tmp_path, **{'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 2})
    runner.model.init_weights()  # train() then leaves them as they are
    stem = next(runner.model.backbone.parameters())
    before = stem.clone()
    runner.train()
    losses = {key: buffer.current() for key, buffer in runner.message_hub.log_scalars.items()
              if key.startswith('train/') and 'loss' in key}
    assert losses and all(math.isfinite(value) for value in losses.values()), losses
    assert torch.isfinite(stem).all() and not torch.equal(stem, before)

    metric = dict(classification='accuracy/top1', detection='AP50', segmentation='mIoU')
    metrics = runner.test()
    found = [value for key, value in metrics.items() if metric[name.split('/')[0]] in
             key.replace('mAP_50', 'AP50')]
    assert found and np.isfinite(found).all(), metrics
    if 'mobileone' in name:
        assert runner.model.backbone.deploy


@pytest.mark.parametrize('arch', [f's{i}' for i in range(5)])
def test_meal_v2_goes_on_from_published_weights_by_teachers_that_timm_has(arch):
    timm = pytest.importorskip('timm')
    cfg = config(f'classification/mobileone-{arch}_meal-v2_8xb64-200e_in1k.py')
    plain = config(f'classification/mobileone-{arch}_8xb32_in1k.py')
    assert cfg.load_from == find_entry(f'mobileone-{arch}_8xb32_in1k').weights
    assert [cfg.model[part] for part in ('backbone', 'neck', 'head')] == [
        plain.model[part] for part in ('backbone', 'neck', 'head')]
    for teacher in cfg.model.teachers:
        assert timm.is_model_pretrained(teacher.model.model_name)


def schedule(name, tmp_path, length):
    """(lr, weight decay) over the iterations (T, G, 2) of the G kinds of parameter groups."""
    runner = make_runner(name, tmp_path, length=2 * length)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    groups = runner.optim_wrapper.optimizer.param_groups
    # One group of each kind instead of one for each parameter, for time's sake.
    kinds = {group['weight_decay']: group for group in groups}
    groups[:] = [kinds[decay] for decay in sorted(kinds)]
    schedulers = runner.build_param_scheduler(runner.param_schedulers)
    history = []
    for _ in range(runner.max_epochs):
        for _ in range(length):
            history.append([(group['lr'], group['weight_decay']) for group in groups])
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()
    return np.array(history)


@pytest.mark.parametrize('arch', ['s0', 's2'])
def test_weight_decay_is_annealed_to_a_tenth_where_there_is_any(arch, tmp_path):
    history = schedule(f'classification/mobileone-{arch}_8xb32_in1k.py', tmp_path, 2)
    assert len(history) == 300 * 2 and history[..., 0].max() == pytest.approx(0.1)
    never, decayed = history[..., 1].T
    assert (never == 0).all()
    assert (np.diff(decayed) <= 0).all()
    assert decayed[0] == pytest.approx(1e-4) and decayed[-1] == pytest.approx(1e-5, rel=0.01)


@pytest.mark.parametrize('name, epochs, length', [
    ('detection/ssdlite_mobileone-s0_8xb16-200e_coco-320x320.py', 200, 10),
    ('segmentation/mobileone-s0-d16_deeplabv3_4xb16-50e_voc12aug-512x512.py', 50, 40),
    ('segmentation/mobileone-s0-d16_deeplabv3_4xb16-120e_ade20k-512x512.py', 120, 16),
])
def test_adamw_recipe(name, epochs, length, tmp_path):
    history = schedule(name, tmp_path, length)
    lr = history[:, 0, 0]
    assert len(lr) == epochs * length
    cosine = 1e-6 + (9e-4 - 1e-6) * (1 + np.cos(np.pi * np.arange(len(lr)) / len(lr))) / 2
    assert lr[0] < 1e-6
    assert lr[500:] == pytest.approx(cosine[500:], rel=0.01, abs=1e-6)
    assert (np.diff(lr[:400]) > 0).all() and lr[-1] == pytest.approx(1e-6, rel=0.5)
    assert history[0, :, 1].tolist() == [0, 0.01]


def image_and_labels(folder, task):
    """A raw sample as the libraries' data sets give it to a pipeline, with traps in it."""
    random = np.random.default_rng(0)
    sample = dict(img_path=str(folder / 'image.jpg'))
    Image.fromarray(random.integers(0, 256, (96, 128, 3), np.uint8)).save(sample['img_path'])
    if task == 'classification':
        return dict(sample, gt_label=1)
    if task == 'detection':
        # The second has no area, the third leaves the image.
        boxes = [[30, 20, 100, 80], [50, 50, 50, 50], [90, 60, 140, 110]]
        instances = [dict(bbox=box, bbox_label=0, ignore_flag=0) for box in boxes]
        return dict(sample, img_id=0, height=96, width=128, instances=instances)
    mask = random.integers(0, 5, (96, 128), np.uint8)
    Image.fromarray(mask).save(folder / 'mask.png')
    return dict(sample, seg_map_path=str(folder / 'mask.png'), label_map=None,
                reduce_zero_label='ade20k' in str(folder), seg_fields=[])


def build_pipeline(cfg, loader):
    dataset = cfg[loader].dataset
    while 'pipeline' not in dataset:
        dataset = dataset.get('datasets', [dataset.get('dataset')])[0]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return [TRANSFORMS.build(transform) for transform in dataset.pipeline]


def run_pipeline(transforms, raw):
    """The packed sample; as a data set does, it tries again where a crop has left no box."""
    sample = None
    while sample is None:
        sample = copy.deepcopy(raw)
        for transform in transforms:
            if sample is not None:
                sample = transform(sample)
    return sample


@pytest.mark.parametrize('name', DATA)
def test_pipelines(name, tmp_path):
    task = name.split('/')[0]
    folder = tmp_path / Path(name).stem
    folder.mkdir()
    cfg = config(name)
    raw = image_and_labels(folder, task)
    pipelines = {key: build_pipeline(cfg, f'{key}_dataloader') for key in ('train', 'val', 'test')}
    for key, transforms in pipelines.items():
        for _ in range(5):
            packed = run_pipeline(transforms, raw)
            assert packed['inputs'].shape[0] == 3
            if task == 'detection':
                size = tuple(map(int, re.search(r'(\d+)x(\d+)\.py', name).groups()))
                assert packed['inputs'].shape[1:] == size
                boxes = packed['data_samples'].gt_instances.bboxes.tensor
                if key == 'train':
                    assert len(boxes) and (boxes[:, 2:] - boxes[:, :2]).min() > 1
            if task == 'segmentation':
                mask = packed['data_samples'].gt_sem_seg.data
                assert key != 'train' or mask.shape[1:] == packed['inputs'].shape[1:]


def test_curriculum_grows():
    cfg = config('classification/mobileone-s2_8xb32_in1k.py')
    hook = next(hook for hook in cfg.custom_hooks if hook.type == 'SwitchRecipeHook')
    pipelines = [cfg.train_dataloader.dataset.pipeline, *(r.pipeline for r in hook.schedule)]
    assert [recipe.action_epoch for recipe in hook.schedule] == [37, 112]
    assert [pipeline[1].scale for pipeline in pipelines] == [160, 192, 224]
    strengths = [pipeline[3].magnitude_level for pipeline in pipelines]
    assert strengths == pytest.approx([0.3 * 7, 0.7 * 7, 7])


@pytest.mark.parametrize('name', [name for name in DATA if 'detection' in name])
def test_anchors_match_the_heads_outputs(name, tmp_path):
    runner = make_runner(name, tmp_path)
    side = int(re.search(r'(\d+)\.py', name).group(1))
    model = runner.model.eval()
    with torch.no_grad():
        scores, boxes = model(torch.rand(1, 3, side, side))
    generator = model.bbox_head.prior_generator
    anchors = generator.grid_priors([score.shape[-2:] for score in scores], device='cpu')
    assert len(anchors) == len(scores) == len(model.neck(model.backbone(torch.rand(1, 3, 64, 64))))
    for level, (score, box) in enumerate(zip(scores, boxes, strict=True)):
        assert score.numel() == len(anchors[level]) * (num_classes(runner.cfg) + 1)
        assert box.numel() == len(anchors[level]) * 4
        # Anchors are spread over the image: their stride is what the level's grid leaves of it.
        assert generator.strides[level][0] == pytest.approx(side / score.shape[-1], abs=1)


@pytest.mark.parametrize('name', CONFIGS)
def test_inputs_are_normalized_as_released_weights_expect(name):
    cfg = config(name)
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.get('to_rgb') or preprocessor.get('bgr_to_rgb')


def test_void_is_ignored_everywhere_in_camvid():
    cfg = config('segmentation/mobileone-s0-d16_deeplabv3_1xb8-20e_camvid-360x480.py')
    crop = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandomCrop')
    places = [cfg.model.data_preprocessor.seg_pad_val, cfg.model.decode_head.ignore_index,
              cfg.model.auxiliary_head.ignore_index, cfg.train_dataloader.dataset.ignore_index,
              cfg.val_dataloader.dataset.ignore_index, cfg.val_evaluator.ignore_index,
              crop.ignore_index]
    assert set(places) == {11} and len(cfg.common.metainfo.classes) == 11


@pytest.mark.parametrize('name', CONFIGS)
def test_hooks(name):
    cfg = config(name)
    types = [hook.type for hook in cfg.custom_hooks]
    assert ('EMAHook' in types) == ('-6e_cifar10' not in name) and 'mmone.EpochSeedHook' in types
    assert ('mmone.DeployHook' in types) == ('mobileone' in name)
    assert cfg.train_dataloader.persistent_workers is False  # EpochSeedHook refuses them
    assert cfg.default_hooks.checkpoint.max_keep_ckpts >= 2
