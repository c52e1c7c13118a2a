"""A config's test set: its images, and what is annotated of them."""
import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS

from mmone.config import dataset_of, default_scope, several, type_name
from mmone.engine.explain import Situation, translated
from mmone.errors import InputError
from mmone.libraries import TASKS
from mmone.pipeline import ImagePipeline, picture, truth_readers

LOADER = 'test_dataloader'

Answer = dict[str, np.ndarray]
"""What is annotated or predicted of an image. By task ``label`` () or ``scores`` (classes,); ``boxes`` (K, 4), each
``x1, y1, x2, y2`` in its pixels, ``labels`` (K,), and ``crowd`` (K,) bool or ``scores`` (K,); or ``labels`` (H, W)."""


class TestSet:
    """The test set of a config, without its pipeline: each model has its own.

    Args:
        cfg (Config): Of a classifier, detector or segmentor.

    Attributes:
        task (str): ``'classification'``, ``'detection'`` or ``'segmentation'``.
        classes (tuple[str, ...]): Their names.
        palette (list, optional): A colour (R, G, B) for each.
        images (list): The path of each image; or the image, of data sets that have them in memory.
        ignore (int): The label of pixels that do not count.

    Raises:
        InputError: If there is none, or it has no images or no names of classes.
    """
    __test__ = False  # it is no test of pytest's

    def __init__(self, cfg: Config):
        self.cfg, self.scope = cfg, cfg.get('default_scope')
        name = Path(cfg.filename or 'the config').name
        if self.scope not in TASKS:
            raise InputError(f'{name} is of {self.scope}: models of {", ".join(TASKS)} are compared')
        if not cfg.get(LOADER):
            raise InputError(f'{name} has no {LOADER}: there are no images to compare models on', parameter='data')
        self.task = TASKS[self.scope]
        situation = Situation(cfg, (LOADER, ))
        with default_scope(cfg), translated(situation):
            self._dataset = DATASETS.build(cfg[LOADER].dataset)
            situation.add(LOADER, self._dataset)
            infos = [self._dataset.get_data_info(i) for i in range(len(self._dataset))]
            self._read_truth = Compose(truth_readers(cfg))
        if not infos:
            raise InputError(f'the test set of {name} has no images', parameter='data')
        self.classes = tuple(self._dataset.metainfo.get('classes') or ())
        self.palette = self._dataset.metainfo.get('palette')
        if not self.classes:
            raise InputError(f'the test set of {name} has no names of classes: give metainfo=dict(classes=…)',
                             parameter='data')
        self.images = [info.get('img_path', info.get('img')) for info in infos]
        self._infos = infos
        self.ignore = self._ignored()

    def _ignored(self) -> int:
        """What the config's evaluator leaves out, as mmseg's does by default."""
        metrics = several(self.cfg.get('test_evaluator'))
        return next((metric.get('ignore_index', 255) for metric in metrics if type_name(metric) == 'IoUMetric'), 255)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The file's name of an image; its number where it has none."""
        image = self.images[index]
        return Path(image).name if isinstance(image, (str, Path)) else f'image {index + 1}'

    def digest(self) -> str:
        """Of the images: of their paths, sizes and times of change, or of what is in them."""
        total = hashlib.sha256()
        for image in self.images:
            if isinstance(image, np.ndarray):
                total.update(image.tobytes())
                continue
            try:
                there = Path(image).stat()
            except OSError as error:
                raise InputError(f'image {image} cannot be read: {error.strerror}') from None
            total.update(f'{Path(image).absolute()} {there.st_size} {there.st_mtime_ns}\n'.encode())
        return total.hexdigest()

    def truth(self, index: int) -> Answer:
        """What is annotated of an image.

        Raises:
            InputError: If nothing is, or it cannot be read.
        """
        info = self._infos[index]
        find = dict(classification=self._label, detection=_boxes, segmentation=self._map)[self.task]
        try:
            return find(info)
        except (KeyError, TypeError):
            raise InputError(f'{self.name(index)} is not annotated: give a test set that is') from None

    def _label(self, info: dict) -> Answer:
        if np.ndim(info['gt_label']):
            raise InputError(f'{type_name(dataset_of(self.cfg[LOADER]))} gives an image several classes: only '
                             'classifiers of one class an image are compared')
        return dict(label=np.array(int(info['gt_label'])))

    def _map(self, info: dict) -> Answer:
        with default_scope(self.cfg), translated(Situation(self.cfg, (LOADER, ))):
            return dict(labels=self._read_truth(dict(info))['gt_seg_map'])

    @cached_property
    def _pipeline(self) -> ImagePipeline:
        return ImagePipeline(self.cfg)

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 in RGB: an image as the config's pipeline reads it."""
        given = self.images[index]
        image = picture(self._pipeline.read(given, index)['img'])
        in_rgb = isinstance(given, np.ndarray) and not self._swaps_channels()
        return image if in_rgb else np.ascontiguousarray(image[:, :, ::-1])

    def _swaps_channels(self) -> bool:
        preprocessor = self.cfg.model.get('data_preprocessor') or self.cfg.get('data_preprocessor') or {}
        return bool(preprocessor.get('to_rgb') or preprocessor.get('bgr_to_rgb'))


def _boxes(info: dict) -> Answer:
    """As the data set class takes them: mmdet's leaves out those without an area."""
    instances = info['instances']
    return dict(boxes=np.array([one['bbox'] for one in instances], float).reshape(-1, 4),
                labels=np.array([one['bbox_label'] for one in instances], int),
                crowd=np.array([one.get('ignore_flag', 0) for one in instances], bool))
