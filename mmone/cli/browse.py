"""Draw samples of a config's data set with their labels, as the pipeline leaves them."""
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path

from .output import progress
from .parser import Parser, positive

EXAMPLES = """\
examples:
  mmone browse CONFIG --out-dir pictures
  mmone browse CONFIG --out-dir pictures --phase test --number 40
"""
MIN_SIDE = 256  # of a classification picture: its label is written inside


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument('--out-dir', required=True, metavar='DIR', help='folder for the pictures')
    parser.add_argument(
        '--phase', choices=('train', 'val', 'test'), default='train',
        help='whose data and pipeline (default: %(default)s)')
    parser.add_argument(
        '--number', type=positive, default=16, metavar='N',
        help='how many, taken evenly over the data set (default: %(default)s)')


def run(args: Namespace) -> None:
    from mmone.config import load_config
    count = draw_samples(load_config(args.config, args.cfg_options), args.out_dir, args.phase,
                         args.number, progress('drawing'))
    print(f'{count} pictures in {args.out_dir}')


def draw_samples(cfg, out_dir: str, phase: str = 'train', number: int = 16,
                 track: Callable[[Iterable[int]], Iterable[int]] = iter) -> int:
    """Draw samples as the pipeline leaves them, by the visualizer of the config's library.

    Args:
        cfg (Config): Of any of the three tasks.
        out_dir (str): Folder for the pictures, ``<index>_<name of image>.jpg``.
        phase (str): ``'train'``, ``'val'`` or ``'test'``. Defaults to ``'train'``.
        number (int): How many; they are taken evenly over the data set. Defaults to 16.
        track (Callable): Wraps the iterable of sample numbers, to show progress. Defaults to iter.

    Returns:
        int: How many were drawn.

    Raises:
        InputError: If the config has no data for ``phase``, or the data cannot be read.
    """
    import numpy as np
    from mmengine.registry import DATASETS, VISUALIZERS

    from mmone.config import default_scope
    from mmone.engine.explain import Situation, translated
    from mmone.errors import InputError
    key = f'{phase}_dataloader'
    if not cfg.get(key):
        raise InputError(f'the config has no {key}')
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    situation = Situation(cfg, (key, ))
    with default_scope(cfg), translated(situation), warnings.catch_warnings():
        # What ends at an image's edge, as all that a crop has cut does, is outside for mmengine's visualizer.
        warnings.filterwarnings('ignore', 'Warning: The (bbox|polygon) is out of bounds')
        dataset = DATASETS.build(cfg[key].dataset)
        situation.add(key, dataset)
        visualizer = VISUALIZERS.build(dict(cfg.visualizer, name='browse', vis_backends=None))
        visualizer.dataset_meta = dataset.metainfo
        indices = np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int).tolist()
        for index in track(indices):
            sample = dataset[index]
            name = Path(sample['data_samples'].metainfo.get('img_path', 'sample')).stem
            _draw(visualizer, sample, Path(out_dir, f'{index:06}_{name}.jpg'))
    return len(indices)


def _draw(visualizer, sample: dict, path: Path) -> None:
    # (3, H, W) in BGR, as OpenMMLab's pipelines leave it, to (H, W, 3) in RGB.
    image = sample['inputs'].flip(0).permute(1, 2, 0).clamp(0, 255).byte().contiguous().numpy()
    data_sample = sample['data_samples']
    if hasattr(visualizer, 'visualize_cls'):  # mmpretrain
        small = min(image.shape[:2]) < MIN_SIDE
        visualizer.visualize_cls(image, data_sample, draw_pred=False, out_file=str(path),
                                 resize=MIN_SIDE if small else None)
        return
    boxes = getattr(getattr(data_sample, 'gt_instances', None), 'bboxes', None)
    tensor = getattr(boxes, 'tensor', None)
    if tensor is not None:  # of mmdet's box classes, which its visualizer cannot draw
        data_sample.gt_instances.bboxes = tensor
    visualizer.add_datasample(path.stem, image, data_sample.numpy(), draw_gt=True, draw_pred=False,
                              out_file=str(path))
