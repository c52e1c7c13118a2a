"""Pictures of what a config feeds to its model."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from torch import Tensor

from mmone.engine.explain import Situation, translated
from mmone.errors import InputError

MIN_SIDE = 256  # of a classification picture: its label is written inside


def draw_samples(cfg: Config, out_dir: str, phase: str = 'train',
                 number: int = 16) -> Iterator[Path]:
    """Draw samples as the pipeline leaves them, by the visualizer of the config's library.

    Args:
        cfg (Config): Of any of the three tasks.
        out_dir (str): Folder for the pictures, ``<index>_<name of image>.jpg``.
        phase (str): ``'train'``, ``'val'`` or ``'test'``. Defaults to ``'train'``.
        number (int): How many; they are taken evenly over the data set. Defaults to 16.

    Yields:
        Path: Each picture.

    Raises:
        InputError: If the config has no data for ``phase``, or the data cannot be read.
    """
    key = f'{phase}_dataloader'
    if not cfg.get(key):
        raise InputError(f'the config has no {key}')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    situation = Situation(cfg, (key, ))
    with translated(situation):
        dataset = DATASETS.build(cfg[key].dataset)
        situation.datasets[key] = dataset
        visualizer = VISUALIZERS.build(dict(cfg.visualizer, name='browse', vis_backends=None))
        visualizer.dataset_meta = dataset.metainfo
        count = min(number, len(dataset))
        for index in np.linspace(0, len(dataset) - 1, count).round().astype(int):
            sample = dataset[int(index)]
            name = Path(sample['data_samples'].metainfo.get('img_path', 'sample')).stem
            path = Path(out_dir, f'{index:06}_{name}.jpg')
            _draw(visualizer, _rgb(sample['inputs']), sample['data_samples'], path)
            yield path


def _rgb(inputs: Tensor) -> np.ndarray:
    """(3, H, W) in BGR, as OpenMMLab's pipelines leave it, to (H, W, 3) in RGB."""
    image = inputs.permute(1, 2, 0).numpy()[..., ::-1]
    return np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))


def _draw(visualizer, image: np.ndarray, data_sample, path: Path) -> None:
    if hasattr(visualizer, 'visualize_cls'):  # mmpretrain
        small = min(image.shape[:2]) < MIN_SIDE
        visualizer.visualize_cls(image, data_sample, draw_pred=False, out_file=str(path),
                                 resize=MIN_SIDE if small else None)  # yapf: disable
        return
    boxes = getattr(getattr(data_sample, 'gt_instances', None), 'bboxes', None)
    if hasattr(boxes, 'tensor'):  # mmdet's box classes, which its visualizer cannot draw
        data_sample.gt_instances.bboxes = boxes.tensor
    visualizer.add_datasample(path.stem, image, data_sample.numpy(), draw_gt=True, draw_pred=False,
                              out_file=str(path))  # yapf: disable
