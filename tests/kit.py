"""Tiny data and tiny configs of all three tasks, and ways to run the commands on them."""
import gc
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mmone.cli import main
from mmone.datasets.shapes import make_dataset

ROOT = Path(__file__).resolve().parents[1]
TASKS = ('mmpretrain', 'mmdet', 'mmseg')
IMAGES, SIZE = 16, 64

COMMON = '''
arch = dict(num_blocks=(1, 1, 1, 1), width_factor=(0.25, 0.25, 0.125, 0.125),
            num_conv_branches=(1, 1, 1, 2), num_se_blocks=(0, 0, 0, 1))
root = {root!r}
classes = ('circle', 'cross', 'square', 'star', 'triangle')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='{visualization}'))
custom_hooks = [dict(type='mmone.EpochSeedHook'), dict(type='mmone.DeployHook')]
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
log_processor = dict(window_size=1, by_epoch=True)
randomness = dict(seed=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = dict(type='CosineAnnealingLR', T_max=3, by_epoch=True, convert_to_iter_based=True)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
loader = dict(num_workers=2, batch_size=4, persistent_workers=False)
'''

MMPRETRAIN = '''
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=5, mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(type='mmone.MobileOne', arch=arch),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=64,
              loss=dict(type='CrossEntropyLoss')))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=32),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]
dataset = dict(type='CustomDataset')
train_dataloader = dict(
    **loader, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root=root + '/classes', data_prefix='train',
                 classes=classes, pipeline=train_pipeline))
test_dataloader = dict(
    **loader, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root=root + '/classes', data_prefix='val',
                 classes=classes, pipeline=test_pipeline))
val_dataloader = test_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy', topk=(1, ))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
'''

MMDET = '''
default_scope = 'mmdet'
channels = (64, 64)
model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(type='mmone.MobileOne', arch=arch, out_indices=(2, 3)),
    bbox_head=dict(
        type='mmone.SSDHead', in_channels=(32, 64), num_classes=5,
        anchor_generator=dict(type='SSDAnchorGenerator', scale_major=False, input_size=64,
                              strides=[16, 32], ratios=[[2], [2]], min_sizes=[16, 32],
                              max_sizes=[32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5,
                                 min_pos_iou=0., ignore_iof_thr=-1, gt_max_assign_all=False),
                   sampler=dict(type='PseudoSampler'), smoothl1_beta=1., allowed_border=-1,
                   pos_weight=-1, neg_pos_ratio=3),
    test_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), score_thr=0.02, max_per_img=20,
                  nms_pre=100))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
metainfo = dict(classes=classes)
train_dataloader = dict(
    **loader, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CocoDataset', data_root=root, ann_file='coco/train.json',
                 data_prefix=dict(img='JPEGImages/'), metainfo=metainfo,
                 pipeline=train_pipeline))
test_dataloader = dict(
    **loader, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', data_root=root, ann_file='coco/val.json',
                 data_prefix=dict(img='JPEGImages/'), metainfo=metainfo, test_mode=True,
                 pipeline=test_pipeline))
val_dataloader = test_dataloader
val_evaluator = test_evaluator = dict(
    type='CocoMetric', ann_file=root + '/coco/val.json', metric='bbox')
visualizer = dict(type='DetLocalVisualizer', name='visualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
'''

MMSEG = '''
default_scope = 'mmseg'
norm_cfg = dict(type='SyncBN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3,
                           size=(64, 64), pad_val=0, seg_pad_val=255),
    backbone=dict(type='mmone.MobileOne', arch=arch, out_indices=(2, 3), norm_cfg=norm_cfg),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=1, channels=16, num_convs=1,
                     dropout_ratio=0.1, num_classes=6, norm_cfg=norm_cfg, align_corners=False),
    auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=0, channels=16, num_convs=1,
                        num_classes=6, norm_cfg=norm_cfg, align_corners=False),
    test_cfg=dict(mode='whole'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(1.0, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
metainfo = dict(classes=('background', *classes),
                palette=[[40 * i, 255 - 40 * i, 90] for i in range(6)])
folders = dict(img_path='JPEGImages', seg_map_path='SegmentationClass')
train_dataloader = dict(
    **loader, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='BaseSegDataset', data_root=root, data_prefix=folders,
                 ann_file='ImageSets/Segmentation/train.txt', metainfo=metainfo,
                 pipeline=train_pipeline))
test_dataloader = dict(
    **loader, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='BaseSegDataset', data_root=root, data_prefix=folders,
                 ann_file='ImageSets/Segmentation/val.txt', metainfo=metainfo, test_mode=True,
                 pipeline=test_pipeline))
val_dataloader = test_dataloader
val_evaluator = test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
visualizer = dict(type='SegLocalVisualizer', name='visualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
'''

VISUALIZATION = dict(mmpretrain='VisualizationHook', mmdet='DetVisualizationHook',
                     mmseg='SegVisualizationHook')
CONFIGS = dict(mmpretrain=MMPRETRAIN, mmdet=MMDET, mmseg=MMSEG)


def make_data(folder):
    """Generate the data set that the configs read."""
    make_dataset(folder, IMAGES, seed=0, size=SIZE, val_fraction=0.25)
    return folder


def write_config(folder, task, data, extra=''):
    """Write the tiny config of a task; ``extra`` is appended to it."""
    path = Path(folder, f'tiny_{task}.py')
    text = COMMON.format(root=str(data), visualization=VISUALIZATION[task]) + CONFIGS[task]
    path.write_text(text + extra)
    return path


def environment():
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    return dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1')


def command(name, *args):
    """Run ``mmone NAME`` in this process; returns its exit status."""
    return main([name, *map(str, args)])


def run_tool(name, *args):
    """Run ``tools/<name>.py`` as a user does."""
    return subprocess.run([sys.executable, ROOT / 'tools' / f'{name}.py', *map(str, args)], env=environment(),
                          capture_output=True, text=True, timeout=300)


# Starting Python and importing OpenMMLab takes several times longer than training a tiny model. This server
# has imported it, and done nothing with it: the processes that it forks are like new ones. With CUDA they would not
# be: the libraries ask it something when they are imported, and a fork cannot use it then.
SERVER = multiprocessing.get_context('spawn' if torch.cuda.is_available() else 'forkserver')
SERVER.set_forkserver_preload(['mmone.engine.train', 'mmone.engine.test'] + [
    f'{task}.{part}' for task in TASKS for part in ('datasets', 'models', 'engine', 'evaluation', 'visualization')])


def run_command(name, *args, processes=1):
    """Run ``mmone NAME`` in a process of its own, or in several that are told their places as by torchrun."""
    environments = [environment()]
    if processes > 1:
        args = (*args, '--launcher', 'pytorch')
        place = dict(WORLD_SIZE=str(processes), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
        environments = [dict(environment(), RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in range(processes)]
    with tempfile.TemporaryDirectory() as folder:
        ranks = [SERVER.Process(target=_child, args=([name, *map(str, args)], os.getcwd(), env, f'{folder}/{rank}'))
                 for rank, env in enumerate(environments)]
        try:
            for rank in ranks:
                rank.start()
            for rank in ranks:
                rank.join(300)
                assert rank.exitcode is not None, f'mmone {name} takes longer than 300 s'
        finally:
            for rank in ranks:
                rank.kill()
        out, err = (''.join(Path(f'{folder}/{rank}.{stream}').read_text() for rank in range(processes))
                    for stream in ('out', 'err'))
    return subprocess.CompletedProcess(args, max((rank.exitcode for rank in ranks), key=abs), out, err)


def _child(argv, folder, env, output):
    for descriptor, stream in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(f'{output}.{stream}', os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = env['PYTHONPATH'].split(os.pathsep)
    torch.set_num_threads(1)
    raise SystemExit(main(argv))


def end_workers():
    """End what data loaders have started, as the exit of a process does.

    In PyTorch's own way: one that a signal ends may hold a lock, for which the process then waits for ever when the
    loader is collected, at whatever line of a later test.
    """
    for one in gc.get_objects():
        if type(one) is _MultiProcessingDataLoaderIter:
            one._shutdown_workers()


def free_port():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def losses(work_dir):
    """{(epoch, iteration): loss} of a work directory, of later runs where they overlap."""
    found = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                found[entry['epoch'], entry['step']] = entry['loss']
    return found
