"""An exported file in place of a model: for the stock evaluators, and for predicting."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from mmone.errors import InputError
from mmone.registry import MODELS
from mmone.runtime import Runtime

# By task: the library, the last transform of its pipelines, and its data preprocessor.
_PACKED = ('img_path', 'ori_shape', 'img_shape')
TASKS: dict[str, tuple[str, dict, dict]] = {
    'classification': ('mmpretrain', dict(type='PackInputs'), dict(type='ClsDataPreprocessor')),
    'detection': ('mmdet', dict(type='PackDetInputs', meta_keys=(*_PACKED, 'img_id', 'scale_factor')),
                  dict(type='DetDataPreprocessor')),
    'segmentation': ('mmseg', dict(type='PackSegInputs', meta_keys=_PACKED),
                     dict(type='SegDataPreProcessor')),
}


@MODELS.register_module()
class ExportedModel(BaseModel):
    """A model that an exported file computes; everything around it is the library's.

    Args:
        path (str | Path): A file that :func:`mmone.export.export_model` wrote.
        data_preprocessor (dict, optional): The library's; it normalizes only where the file does not.
            Defaults to the library's default.

    Attributes:
        cfg (Config): The scope and the test pipeline, as predicting needs them; files are read by
            ``runtime``.
        head (SimpleNamespace): ``thr`` and ``topk``, of a classifier that gives an image several classes.
        dataset_meta (dict): ``classes`` and, if known, ``palette``.

    Raises:
        InputError: If the file cannot be used.
    """

    def __init__(self, path: str | Path, data_preprocessor: dict | None = None):
        runtime = Runtime(path)
        meta = runtime.meta
        scope, pack, preprocessor = TASKS[meta['task']]
        preprocessor = {**preprocessor, **(data_preprocessor or {})}
        preprocessor.update(mean=None, std=None)
        if runtime.normalizes_outside:
            values = list(zip(meta['input']['mean'], meta['input']['std']))
            # mmdet takes one value for all channels, or three.
            mean, std = zip(*(values[:1] if len(set(values)) == 1 else values))
            preprocessor.update(mean=mean, std=std)
        # Three channels the file takes in RGB, others as they are read.
        preprocessor['to_rgb' if scope == 'mmpretrain' else 'bgr_to_rgb'] = runtime.channels == 3
        preprocessor['type'] = f'{scope}.{preprocessor["type"].rpartition(".")[2]}'
        super().__init__(preprocessor)
        self.runtime = runtime
        self.num_classes = len(meta['classes'])
        decision = meta.get('decision') or {}
        if 'topk' in decision:
            self.head = SimpleNamespace(thr=decision['threshold'], topk=decision['topk'])
        self.dataset_meta = dict(classes=meta['classes'])
        if meta['palette']:
            self.dataset_meta['palette'] = [tuple(colour) for colour in meta['palette']]
        pipeline = [{key: tuple(value) if isinstance(value, list) else value
                     for key, value in step.items()} for step in meta['pipeline']]
        self.cfg = Config(dict(
            default_scope=scope,
            test_dataloader=dict(dataset=dict(pipeline=[*pipeline, pack]))))

    def forward(self, inputs: Tensor, data_samples: list[BaseDataElement],
                mode: str = 'predict') -> list[BaseDataElement]:
        """Fill ``data_samples`` as the library's models do, but each image's by itself.

        Args:
            inputs (Tensor): (N, C, H, W), of three channels in RGB, as the data preprocessor gives them; what
                it has padded is left out.
            data_samples (list[BaseDataElement]): One for each image.
            mode (str): ``'predict'``, the only one.
        """
        if mode != 'predict':
            raise InputError(f'{self.runtime.path} predicts, it cannot be trained')
        images = inputs.cpu().numpy()
        if not self.runtime.normalizes_outside:
            images = np.rint(images).astype(np.uint8)
        sizes: dict[tuple[int, int], list[int]] = {}
        for i, sample in enumerate(data_samples):
            sizes.setdefault(tuple(sample.metainfo.get('img_shape', images.shape[2:])[:2]), []).append(i)
        fill = dict(classification=_classify, detection=_detect, segmentation=_segment)[self.runtime.task]
        for (height, width), numbers in sizes.items():
            outputs = self.runtime(images[numbers, :, :height, :width])
            for place, i in enumerate(numbers):
                answer = {name: torch.from_numpy(value[place]) for name, value in outputs.items()}
                fill(data_samples[i], answer, (height, width), self.runtime)
        return data_samples


def _classify(sample, answer, size, runtime) -> None:
    labels = runtime.positive(answer['scores'].numpy())
    sample.set_pred_score(answer['scores']).set_pred_label(torch.from_numpy(labels))


def _detect(sample, answer, size, runtime) -> None:
    found = answer['labels'] >= 0
    boxes = answer['boxes'][found]
    scale = boxes.new_tensor(sample.metainfo.get('scale_factor', (1.0, 1.0))).repeat(2)
    sample.pred_instances = InstanceData(
        bboxes=boxes[:, :4] / scale, scores=boxes[:, 4], labels=answer['labels'][found].long())


def _segment(sample, answer, size, runtime) -> None:
    shape = tuple(sample.metainfo['ori_shape'])
    if 'logits' in answer:  # as mmseg does: first to the image's size, then to labels
        logits, decision = answer['logits'][None], runtime.meta.get('decision') or {}
        if shape != tuple(size):
            logits = F.interpolate(logits, size=shape, mode='bilinear',
                                   align_corners=bool(decision.get('align_corners')))
        if logits.shape[1] == 1:  # of one output channel, mmseg gives the scores
            logits = logits.sigmoid()
            labels = logits[:, 0] > decision.get('threshold', 0.3)
        else:
            labels = logits.argmax(1)
        sample.seg_logits = PixelData(data=logits[0])
    else:
        labels = answer['labels'][None]
    if tuple(labels.shape[1:]) != shape:
        labels = F.interpolate(labels[None].float(), size=shape, mode='nearest')[0].long()
    sample.pred_sem_seg = PixelData(data=labels.long())
