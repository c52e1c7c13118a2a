"""A config for somebody's own data that inherits ours, names what differs, and trains as it is."""
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmone.checkpoints.io import read_checkpoint, state_dict_of
from mmone.checkpoints.sources import to_mmone
from mmone.datasets.layouts import IGNORED, LAYOUTS, MARKER, Found, Sample, mask_values, packed
from mmone.errors import InputError
from mmone.files import check_output, publish, scratch_folder, written_whole
from mmone.models.backbones.archs import check_arch, variant_of

WIDTH = 100  # of the config's lines
# The numbers of images and of iterations of a training that was tried: more images have longer ones, by the
# root of their number.
TRIED = dict(classification=(3000, 2800), detection=(205, 1500), segmentation=(367, 900))
EPOCHS = (20, 100)
EPOCHS_WITH_WEIGHTS = (20, 40)  # a third of the iterations
SCRATCH_LR = 0.002  # of a classifier; the schedule's own is for weights that are there
MAX_BATCH = dict(classification=64, detection=16, segmentation=8)
EMA_MEMORIES = 50  # how many times the average forgets in a training: 1 / momentum iterations each
EMA_RANGE = (0.0005, 0.2)
SHORT_SIDE = 512  # to which larger images are scaled for segmentation
SMALL_FOR_MASKS = 192  # pixels, of which output stride 16 leaves 12
PER_BATCH = 8  # batches in an epoch, at least
UNEVEN = 3  # times as many of one class as of another: weights are worth a thought
FEATURES = (16, 32)  # strides of stage3 and stage4, where SSDLite's first two levels are
MAX_LEVELS = 6


@dataclass
class Wishes:
    """What the user has said of the training.

    Attributes:
        arch (str, optional): A variant. Defaults to that of the weights, or S0.
        shape (Sequence[int], optional): (height, width), or (side, ). Defaults to what suits the images.
        weights (str, optional): A checkpoint of a classifier, to start from.
        seed (int): Of splits that are made.
        val_fraction (float): Part of the training images for validation, where there are none for it.
        trust (bool): Read a checkpoint that can run code.
    """
    arch: str | None = None
    shape: Sequence[int] | None = None
    weights: str | None = None
    seed: int = 0
    val_fraction: float = 0.2
    trust: bool = False


@dataclass
class Plan:
    """What suits the data.

    Attributes:
        arch (str): The variant.
        shape (tuple[int, int]): (height, width) of what the network is trained on.
        batch, epochs, iterations (int): Of the training.
        momentum (float): Of the average of the weights.
        weights (str): Absolute path of the checkpoint to start from, or ''.
        deploy (bool): Whether those are fused.
        splits (dict[str, list[Sample]]): ``train``, ``val`` and perhaps ``test``.
        made (set[str]): The splits that are not as they lie.
    """
    arch: str
    shape: tuple[int, int]
    batch: int
    epochs: int
    iterations: int
    momentum: float
    weights: str
    deploy: bool
    splits: dict[str, list[Sample]]
    made: set[str]
    notes: list[str] = field(default_factory=list)


class Code(str):
    """What stands in a config as it is."""


def write_config(found: Found, out: str | Path, wishes: Wishes | None = None, force: bool = False) -> Plan:
    """Write the config of a training on data that was found, and the lists, boxes and masks that it needs.

    Those go to a folder beside the config, ``<name>_data``, if there are any.

    Args:
        found (Found): The data.
        out (str | Path): The config, a ``.py``.
        wishes (Wishes, optional): What the user has said of the training.
        force (bool): Replace a config, and a folder that was made so. Defaults to False.

    Returns:
        Plan: What was chosen.

    Raises:
        InputError: If there are too few images, the weights or the arch cannot be used, or something is in the
            way.
    """
    out = Path(out)
    if out.suffix != '.py':
        raise InputError(f'{out} is no .py file: give a name for the config')
    check_output(out, force)
    made = out.with_name(f'{out.stem}_data')
    _check_folder(made, force)
    plan = make_plan(found, wishes or Wishes())
    if found.values or any(_is_made(found, plan, split) for split in plan.splits):
        with scratch_folder(made) as scratch:
            partial = scratch / made.name
            partial.mkdir()
            datasets = {split: _dataset(found, plan, split, partial) for split in plan.splits}
            (partial / MARKER).write_text(json.dumps(dict(data=str(found.root), layout=found.layout)) + '\n')
            publish(partial, made)
    else:
        datasets = {split: found.in_place[_source(found, samples)] for split, samples in plan.splits.items()}
    text = config_text(found, plan, datasets, out)
    with written_whole(out) as file:
        file.write_text(text, encoding='utf-8')
    return plan


def _check_folder(made: Path, force: bool) -> None:
    if made.exists() and not (made / MARKER).is_file():
        raise InputError(f'{made} exists and was not made here: give the config another name')
    if made.exists() and not force:
        raise InputError(f'{made} exists: give the config another name, or allow it to be replaced',
                         parameter='overwrite')


# What suits the data


def make_plan(found: Found, wishes: Wishes) -> Plan:
    """Choose what the user has not.

    Raises:
        InputError: If there are too few images, or the weights, arch or shape cannot be used.
    """
    splits, made, notes = _splits(found, wishes)
    images = len(splits['train'])
    batch = min(MAX_BATCH[found.task], max(2, 2 ** int(math.log2(max(1, images / PER_BATCH)))))
    if found.task == 'detection' and images < 2000:
        batch = min(batch, 8)
    if images < batch:
        raise InputError(f'there are {images} labelled images to train on: {batch} are the least for a batch')
    tried_images, tried_iterations = TRIED[found.task]
    per_epoch = images // batch
    wanted = tried_iterations * math.sqrt(images / tried_images) / per_epoch
    low, high = EPOCHS_WITH_WEIGHTS if wishes.weights else EPOCHS
    epochs = 5 * round(min(max(wanted / 3 if wishes.weights else wanted, low), high) / 5)
    iterations = epochs * per_epoch
    arch, weights, deploy = _start(wishes)
    low_momentum, high_momentum = EMA_RANGE
    momentum = float(f'{min(max(EMA_MEMORIES / iterations, low_momentum), high_momentum):.1g}')
    return Plan(arch, _shape(found, splits['train'], wishes), batch, epochs, iterations, momentum, weights, deploy,
                splits, made, notes)


def _splits(found: Found, wishes: Wishes) -> tuple[dict[str, list[Sample]], set[str], list[str]]:
    """The splits to be used, which of them are made here, and notes on that."""
    splits, notes = dict(found.splits), list[str]()
    train = splits.get('train') or splits.get('all') or []
    if 'val' in splits:
        return splits, set(), notes
    if 'test' in splits and wishes.val_fraction == 0:
        return dict(train=train, val=splits['test']), set() if 'train' in splits else {'train'}, [
            'validation is on the images for testing']
    if not 0 < wishes.val_fraction < 1:
        raise InputError(f'val_fraction must be above 0 and below 1, got {wishes.val_fraction}'
                         f'{"" if "test" in splits else ": there are no other images to validate on"}',
                         parameter='val_fraction')
    own, val = stratified(train, wishes.val_fraction, wishes.seed)
    if not own or not val:
        raise InputError(f'{len(train)} labelled images are too few to train and to validate on')
    if 'test' in splits:
        notes.append(f'no images for validation: {len(val)} of those for training taken (--val-fraction 0: those for '
                     'testing)')
    chosen = dict(train=own, val=val)
    if 'test' in splits:
        chosen['test'] = splits['test']
    return chosen, {'train', 'val'}, notes


def stratified(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Two parts of samples, each with its part of every class: by the rarest class of each image.

    Args:
        samples (Sequence[Sample]): In an order that does not change.
        fraction (float): Of the second part.
        seed (int): Of the drawing.
    """
    images: dict[int, int] = {}
    for sample in samples:
        for label in set(sample.labels):
            images[label] = images.get(label, 0) + 1
    strata: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        rarest = min(sample.labels, key=lambda label: (images[label], label), default=-1)
        strata.setdefault(rarest, []).append(index)
    random, chosen, owed = np.random.default_rng(seed), set(), 0.0
    for _, indices in sorted(strata.items()):
        owed += fraction * len(indices)
        taken = max(0, min(round(owed), len(indices) - 1))
        owed -= taken
        chosen.update(random.permutation(indices)[:taken].tolist())
    return ([sample for index, sample in enumerate(samples) if index not in chosen],
            [sample for index, sample in enumerate(samples) if index in chosen])


def _start(wishes: Wishes) -> tuple[str, str, bool]:
    """The variant, the checkpoint to start from, and whether its branches are fused."""
    if wishes.arch is not None:
        check_arch(wishes.arch)
    if not wishes.weights:
        return wishes.arch or 's0', '', False
    weights = to_mmone(state_dict_of(read_checkpoint(wishes.weights, wishes.trust)))
    backbone = {key.removeprefix('backbone.'): value for key, value in weights.items()}
    variant = variant_of(backbone) if any(key.startswith('stage0.') for key in backbone) else None
    if variant is None:
        raise InputError(f'{wishes.weights} has no weights of a MobileOne of a known variant')
    if wishes.arch not in (None, variant):
        raise InputError(f'{wishes.weights} has the weights of {variant}, not of {wishes.arch}', parameter='arch')
    return variant, str(Path(wishes.weights).resolve()), any('branch_reparam' in key for key in backbone)


def _shape(found: Found, samples: list[Sample], wishes: Wishes) -> tuple[int, int]:
    """(height, width) of what the network is trained on."""
    if wishes.shape:
        if len(wishes.shape) > 2 or min(wishes.shape) < 32:
            raise InputError(f'shape is {" ".join(map(str, wishes.shape))}: expected height and width, or one number '
                             'for both, of at least 32', parameter='shape')
        if found.task == 'classification' and len(set(wishes.shape)) > 1:
            raise InputError('a classifier is trained on square images: give one number', parameter='shape')
        return wishes.shape[0], wishes.shape[-1]
    if found.task == 'detection':
        return 320, 320
    width, height = _typical_size(samples)
    if found.task == 'classification':
        side = min(width, height)
        side = 224 if side >= 224 else max(32, side // 32 * 32)
        return side, side
    scale = _scale(samples, None)
    return _crop(min(height, scale[1])), _crop(min(width, scale[0]))


def _typical_size(samples: list[Sample]) -> tuple[int, int]:
    """(width, height) as the middle of images have them."""
    sizes = np.array([sample.size for sample in samples])
    sizes = sizes[sizes.min(1) > 0]
    width, height = np.median(sizes, axis=0).astype(int).tolist()
    return width, height


def _scale(samples: list[Sample], shape: Sequence[int] | None) -> tuple[int, int]:
    """(width, height) to which images are scaled for segmentation, before they are cut."""
    width, height = _typical_size(samples)
    largest = SHORT_SIDE if shape is None else 1.5 * min(shape)
    factor = min(1.0, largest / min(width, height))
    return round(width * factor), round(height * factor)


def _crop(side: int) -> int:
    """Two thirds of a side that is long, in steps of 16."""
    return max(32, round((side if side <= 256 else 2 * side / 3) / 16) * 16)


@dataclass
class Anchors:
    """Levels of SSDLite that suit boxes.

    Attributes:
        strides (list): Of each level, in pixels: a number, or (horizontally, vertically).
        ratios (list[int]): Of sides, beside 1.
        min_sizes, max_sizes (list[int]): Sides of a level's two square anchors: the first, and the root of both.
        tiny (float): The part of boxes that have less than half of the first stride.
    """
    strides: list[Any]
    ratios: list[int]
    min_sizes: list[int]
    max_sizes: list[int]
    tiny: float


def suitable_anchors(boxes: np.ndarray, shape: tuple[int, int]) -> Anchors:
    """Anchors for boxes, as SSDLite's levels on stage3 and stage4 and what follows them.

    A grid of anchors that are much smaller than its stride misses most boxes, so a level is for boxes from 1.4 times
    its stride to 1.4 times the next one's, and its anchors have the median size of those.

    Args:
        boxes (ndarray): (N, 2), width and height in pixels of the network's input.
        shape (tuple[int, int]): (height, width) of that.
    """
    maps = [tuple(math.ceil(side / stride) for side in shape) for stride in FEATURES]
    while len(maps) < len(FEATURES) + 1 or (len(maps) < MAX_LEVELS and max(maps[-1]) > 1):
        maps.append(tuple(math.ceil(side / 2) for side in maps[-1]))
    pairs = [(round(shape[1] / columns), round(shape[0] / rows)) for rows, columns in maps]
    bands = [0.0, *(1.4 * min(pair) for pair in pairs[1:]), math.inf]
    sizes = np.sqrt(boxes.prod(1))
    chosen: list[int] = []
    for low, high in zip(bands, bands[1:]):
        inside = sizes[(sizes >= low) & (sizes < high)]
        suits = float(np.median(inside)) if len(inside) >= max(1, 0.01 * len(sizes)) else max(low, 1.4 * pairs[0][0])
        suits = min(max(suits, pairs[0][0] / 2), 0.95 * max(shape))
        chosen.append(max(round(suits), chosen[-1] + 4 if chosen else 0))
    elongation = np.quantile(np.maximum(boxes[:, 0] / boxes[:, 1], boxes[:, 1] / boxes[:, 0]), 0.95)
    ratios = [2] if elongation < 1.5 else [2, int(min(max(round(float(elongation)), 3), 6))]
    return Anchors([pair[0] if len(set(pair)) == 1 else pair for pair in pairs], ratios, chosen,
                   [*chosen[1:], max(*shape, chosen[-1] + 4)], float((sizes < FEATURES[0] / 2).mean()))


def _boxes(samples: Sequence[Sample], shape: tuple[int, int]) -> np.ndarray:
    """(N, 2): widths and heights of boxes, in pixels of the network's input."""
    found = [((x2 - x1) * shape[1] / sample.size[0], (y2 - y1) * shape[0] / sample.size[1])
             for sample in samples for x1, y1, x2, y2 in sample.boxes]
    if not found:
        raise InputError('there is no box in the images to train on')
    return np.array(found)


# What is written beside the config


def _source(found: Found, samples: list[Sample]) -> str:
    """The split of the data that samples are from."""
    return next(split for split, group in found.splits.items() if samples[0] in group)


def _is_made(found: Found, plan: Plan, split: str) -> bool:
    """Whether something has to be written for a split, which does not lie as it is used."""
    return split in plan.made or _source(found, plan.splits[split]) not in found.in_place


def _dataset(found: Found, plan: Plan, split: str, folder: Path) -> dict[str, Any]:
    """Write what a split needs into the folder; returns the arguments of its data set."""
    samples = plan.splits[split]
    source = _source(found, samples)
    if found.values:
        return _write_masks(found, samples, split, folder)
    if not _is_made(found, plan, split):
        return found.in_place[source]
    if found.task == 'classification':
        lines = [f'{sample.image} {sample.labels[0]}' for sample in samples]
        return dict(data_prefix='', ann_file=_write_list(folder, split, lines))
    if source in found.listed:
        return dict(found.listed[source], ann_file=_write_list(folder, split, [sample.name for sample in samples]))
    (folder / f'{split}.json').write_text(json.dumps(coco_of(samples, found.classes)))
    return dict(ann_file=Code(f"made + '{split}.json'"), data_prefix=dict(img=''))


def _write_list(folder: Path, split: str, lines: list[str]) -> Code:
    (folder / f'{split}.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return Code(f"made + '{split}.txt'")


def coco_of(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    """Samples with boxes as the content of a COCO JSON."""
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(samples):
        for label, (x1, y1, x2, y2), crowd in zip(sample.labels, sample.boxes, sample.crowds):
            box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(dict(id=len(annotations) + 1, image_id=number, category_id=label + 1, bbox=box,
                                    area=box[2] * box[3], iscrowd=int(crowd)))
    images = [dict(id=number, file_name=sample.image, width=sample.size[0], height=sample.size[1])
              for number, sample in enumerate(samples)]
    return dict(images=images, annotations=annotations,
                categories=[dict(id=k + 1, name=name) for k, name in enumerate(classes)])


def _write_masks(found: Found, samples: Sequence[Sample], split: str, folder: Path) -> dict[str, Any]:
    """Masks of class numbers, under their images' names and ``.png``."""
    for sample in samples:
        path = folder / 'masks' / f'{sample.image}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(numbered(mask_values(found.root / sample.mask)[0], found))
        if found.palette:  # of 256 colours: with less, Pillow writes numbers of less than 8 bits
            colours = np.full((256, 3), 255, np.uint8)
            colours[:len(found.palette)] = found.palette
            mask.putpalette(colours.tobytes())
        mask.save(path)
    return dict(data_prefix=dict(img_path='', seg_map_path=Code("made + 'masks'")),
                ann_file=_write_list(folder, split, [sample.image for sample in samples]))


def numbered(values: np.ndarray, found: Found) -> np.ndarray:
    """(H, W) uint8 of class numbers, 255 where there is none, of a mask's values."""
    if not found.colours and values.ndim == 3:  # grey, written as RGB
        values = values[..., 0]
    known = np.array(sorted(found.values), np.int64)
    numbers = np.array([found.values[value] for value in known.tolist()], np.uint8)
    flat = packed(values)
    place = np.searchsorted(known, flat).clip(max=len(known) - 1)
    return np.where(known[place] == flat, numbers[place], np.uint8(IGNORED)).astype(np.uint8)


# The config


def config_text(found: Found, plan: Plan, datasets: dict[str, dict[str, Any]], out: Path) -> str:
    """The config's text.

    Args:
        found (Found): The data.
        plan (Plan): What suits it.
        datasets (dict[str, dict]): Arguments of the data set of each split.
        out (Path): Where it will be.
    """
    describe = dict(classification=_classifier, detection=_detector, segmentation=_segmentor)[found.task]
    model, sections = describe(found, plan)
    bases = [f'models/{model}.py', f'datasets/own_{_LABELS[found.task]}.py', 'schedules/adamw_200e.py',
             f'runtime_{_RUNTIMES[found.task]}.py']
    lines = [
        f'# Made by mmone new: {len(found.samples())} images of {found.root.name}, '
        f'{LAYOUTS[found.layout].title}, {len(found.classes)} classes.',
        '# The import is for the tools of OpenMMLab, which do not know the names mmone:: without it.',
        "_base_ = __import__('mmone') and [",
        *(f"    'mmone::_base_/{base}'," for base in bases), ']', '',
        *_data_section(found, plan, datasets, out), '', *sections, '', *_schedule_section(found, plan)]
    return '\n'.join(lines) + '\n'


_BASE_SHAPES = dict(classification=(224, 224), detection=(320, 320))
_LABELS = dict(classification='classes', detection='boxes', segmentation='masks')
_RUNTIMES = dict(classification='cls', detection='det', segmentation='seg')


def _place(path: Path, out: Path, end: str = '/') -> str:
    """A folder as the config names it: relative to the config if it lies below, so that both can be moved."""
    base = out.resolve().parent
    path = path.resolve()
    if path.is_relative_to(base):
        inner = path.relative_to(base).as_posix()
        return repr('{{ fileDirname }}' + ('' if inner == '.' else f'/{inner}') + end)
    return repr(path.as_posix() + end)


def _data_section(found: Found, plan: Plan, datasets: dict[str, dict[str, Any]], out: Path) -> list[str]:
    """The data's folders and classes, the images' sizes and the data loaders."""
    lines = [f'data_root = {_place(found.root, out)}']
    if any('made +' in code(one) for one in datasets.values()):
        lines.append(f'made = {_place(out.with_name(f"{out.stem}_data"), out)}')
    meta: dict[str, Any] = dict(classes=tuple(found.classes))
    if found.palette:
        meta['palette'] = [list(colour) for colour in found.palette]
    lines.append(f'metainfo = {code(meta, 11)}')
    common = dict(data_root=Code('data_root'), metainfo=Code('metainfo'), **found.common)
    if found.values:
        common.update(img_suffix='', seg_map_suffix='.png')
    pipelines = _pipelines(found, plan)
    lines += [f'common = {code(common, 9)}', '', *pipelines]
    loaders = dict(train=dict(batch_size=plan.batch), val={}, test={})
    for split, arguments in datasets.items():
        dataset = dict(arguments)
        if pipelines:
            dataset['pipeline'] = Code('train_pipeline' if split == 'train' else 'test_pipeline')
        loader = dict(loaders[split], dataset={**dataset, '**': Code('common')})
        lines.append(f'{split}_dataloader = {code(loader, len(split) + 14)}')
    if 'test' not in datasets:
        lines.append('test_dataloader = val_dataloader')
    return lines


def _pipelines(found: Found, plan: Plan) -> list[str]:
    """The base's pipelines with other sizes; nothing if they have these."""
    height, width = plan.shape
    if plan.shape == _BASE_SHAPES.get(found.task):
        return []
    if found.task == 'classification':
        small = height <= 96  # where little is left of a small cut, and a margin is worth its pixels
        cut = dict(scale=height, **(dict(crop_ratio_range=(0.6, 1.0)) if small else {}))
        sizes: dict[str, Any] = dict(RandomResizedCrop=cut, CenterCrop=dict(crop_size=height),
                                     ResizeEdge=dict(scale=height if small else round(height / 0.875)))
    elif found.task == 'detection':
        sizes = dict(Resize=dict(scale=(width, height)))
    else:
        scale = _scale(plan.splits['train'], plan.shape)
        sizes = dict(RandomResize=dict(scale=scale), Resize=dict(scale=scale), RandomCrop=dict(crop_size=plan.shape))
    change = '[dict(step, **sizes.get(step.type, {})) for step in _base_.'
    return [f'sizes = {code(sizes, 8)}', f'train_pipeline = {change}train_pipeline]',
            f'test_pipeline = {change}test_pipeline]', '']


def _backbone(plan: Plan, **more: Any) -> dict[str, Any]:
    backbone: dict[str, Any] = dict(channels_last=True, **more)
    if plan.weights:
        if plan.deploy:
            backbone['deploy'] = True
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=plan.weights, prefix='backbone.')
    else:
        backbone['init_gamma'] = 0.1
    return {**backbone, **_variant(plan, 'backbone')}


def _variant(plan: Plan, part: str) -> dict[str, Any]:
    """What differs of a part of the model in another variant than S0."""
    return {} if plan.arch == 's0' else {'**': Code(f'_base_.variants.{plan.arch}.{part}')}


def _about_weights(plan: Plan) -> list[str]:
    if not plan.weights:
        return []
    return ['# From fused weights, whose branches mmone convert --expand can give back: a plain network to fine-tune.'
            if plan.deploy else '# From weights with branches.']


def class_weights(counts: Sequence[int]) -> list[float]:
    """The root of how much rarer than the median each class is; 1 for one that is not there."""
    there = [count for count in counts if count]
    middle = float(np.median(there)) if there else 1.0
    return [round(math.sqrt(middle / count), 2) if count else 1.0 for count in counts]


def _is_uneven(counts: Sequence[int]) -> bool:
    there = [count for count in counts if count]
    return bool(there) and max(there) > UNEVEN * min(there)


def _commented(lines: Sequence[str]) -> list[str]:
    return [f'# {line}' for text in lines for line in text.split('\n')]


def _classifier(found: Found, plan: Plan) -> tuple[str, list[str]]:
    number, side = len(found.classes), plan.shape[0]
    top = (1, 5) if number >= 10 else 1
    # 32 pixels of input for one at the end are too many for small images.
    small: dict[str, Any] = (dict(stem_stride=1, strides=(2, 2, 2, 1)) if side <= 48 else
                             dict(stem_stride=1) if side <= 96 else {})
    model = dict(backbone=_backbone(plan, **small), head=dict(num_classes=number, topk=top, **_variant(plan, 'head')))
    lines = [f'data_preprocessor = dict(num_classes={number})', *_about_weights(plan),
             f'model = {code(model, 8)}']
    if top != 1:
        lines += [f'val_evaluator = dict(topk={top})', 'test_evaluator = val_evaluator']
    if _is_uneven(found.counts):
        weights = dict(_delete_=True, type='CrossEntropyLoss', class_weight=class_weights(found.counts))
        lines += _commented(['Some classes are rare. To give them weight, in place of smooth labels:',
                             f"model['head']['loss'] = {code(weights, 26)}"])
    return 'classifier', lines


def _detector(found: Found, plan: Plan) -> tuple[str, list[str]]:
    anchors = suitable_anchors(_boxes(plan.splits['train'], plan.shape), plan.shape)
    levels = len(anchors.strides)
    generator: dict[str, Any] = dict(min_sizes=anchors.min_sizes, max_sizes=anchors.max_sizes)
    if (plan.shape, levels) != ((320, 320), MAX_LEVELS):
        generator['strides'] = anchors.strides
    if levels < MAX_LEVELS or anchors.ratios != [2, 3]:
        generator['ratios'] = Code(f'[{anchors.ratios}] * {levels}')
    head: dict[str, Any] = dict(num_classes=len(found.classes), anchor_generator=generator)
    parts: dict[str, Any] = dict(backbone=_backbone(plan))
    lines = []
    if levels < MAX_LEVELS:
        extra = levels - len(FEATURES)
        lines.append(f'stages = _base_.variants.{plan.arch}.neck.in_channels')
        lines.append(f'channels = (*stages, *_base_.extra_channels[:{extra}])')
        parts['neck'] = dict(in_channels=Code('stages'), out_channels=Code('channels'), level_strides=(2, ) * extra,
                             level_paddings=(1, ) * extra)
        head['in_channels'] = Code('channels')
    elif plan.arch != 's0':
        parts['neck'] = _variant(plan, 'neck')
        head.update(_variant(plan, 'bbox_head'))
    parts['bbox_head'] = head
    lines += [f'# {levels} levels; the anchors of each have the median size of the boxes that are near its stride.',
              *_about_weights(plan), f'model = {code(parts, 8)}']
    if anchors.tiny > 0.1:
        plan.notes.append(f'{anchors.tiny:.0%} of the boxes are smaller than {FEATURES[0] // 2} pixels at '
                          f'{plan.shape[0]}x{plan.shape[1]}: a larger --shape will find more of them')
    return 'ssdlite', lines


def _segmentor(found: Found, plan: Plan) -> tuple[str, list[str]]:
    # For few images a narrow head will do, of which most of the cost is made.
    head: dict[str, Any] = dict(num_classes=len(found.classes))
    if len(plan.splits['train']) < 5000:
        head['channels'] = 128
    small = {part: {'**size': Code(f'_base_.small_images.{part}')} if max(plan.shape) <= SMALL_FOR_MASKS else {}
             for part in ('backbone', 'decode_head')}
    model = dict(data_preprocessor=dict(size=plan.shape), backbone=_backbone(plan, **small['backbone']),
                 decode_head={**head, **small['decode_head'], **_variant(plan, 'decode_head')},
                 auxiliary_head={**head, **_variant(plan, 'auxiliary_head')})
    lines = [*_about_weights(plan), f'model = {code(model, 8)}']
    if _is_uneven(found.counts):
        lines += _commented(['Some classes have few pixels. To give them weight:',
                             f'weights = {code(class_weights(found.counts), 12)}',
                             "for name in ('decode_head', 'auxiliary_head'):",
                             "    model[name]['loss_decode'] = dict(class_weight=weights)"])
    return 'deeplabv3', lines


def _schedule_section(found: Found, plan: Plan) -> list[str]:
    interval = max(1, plan.epochs // 10)
    lines = [f'train_cfg = dict(max_epochs={plan.epochs}, val_interval={interval})']
    if found.task == 'classification' and not plan.weights:
        lines.append(f'optim_wrapper = dict(optimizer=dict(lr={SCRATCH_LR}))')
    warm = max(1, min(500, plan.iterations // 15))
    lines.append(f'param_scheduler = [dict(_base_.warmup, end={warm}), dict(_base_.cosine, end={plan.epochs})]')
    return [*lines, '', f'# {plan.iterations} iterations: the average of the weights is over about '
            f'{round(1 / plan.momentum)} of them.',
            f'custom_hooks = [dict(_base_.custom_hooks[0], momentum={plan.momentum}), *_base_.custom_hooks[1:]]']


def code(value: Any, used: int = 0, width: int = WIDTH) -> str:
    """A value as a config writes it, in lines that are not too long.

    Args:
        value (Any): Dicts with names as keys, lists, tuples, what has a repr, and :class:`Code`. A key that
            begins with ``**`` is for a dict that is spread.
        used (int): Columns of the first line that are taken. Defaults to 0.
        width (int): Of the lines. Defaults to :data:`WIDTH`.
    """
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, dict):
        keys = ['**' if key.startswith('**') else f'{key}=' for key in value]
        items = [key + code(one, len(key) + 1, width - 4) for key, one in zip(keys, value.values())]
        begin, end = 'dict(', ')'
    elif isinstance(value, (list, tuple)):
        items = [code(one, 1, width - 4) for one in value]
        begin, end = ('[', ']') if isinstance(value, list) else ('(', ', )' if len(value) == 1 else ')')
    else:
        return repr(value)
    line = begin + ', '.join(items) + end
    if len(line) + used <= width and '\n' not in line:
        return line
    if isinstance(value, dict) or any('\n' in item for item in items):
        inner = ',\n'.join(textwrap.indent(item, '    ') for item in items)
    else:
        inner = _wrapped(items, width)
    return f'{begin}\n{inner}{end}'


def _wrapped(items: Sequence[str], width: int) -> str:
    """Items with commas between them in lines, none of which is broken."""
    lines = ['']
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) + 7 > width:
            lines.append('')
        lines[-1] += (' ' if lines[-1] else '') + f'{item},'
    return textwrap.indent('\n'.join(lines), '    ').removesuffix(',')
