"""What data sets say: images, sizes, boxes and masks by the rules of the class that reads them.

The libraries build a data set whole or not at all: what is wrong with it is what makes building fail. Here a data
set is built without its annotations, for its paths and settings, and those of the known kinds are read
leniently, so that all that is wrong can be told.
"""
import json
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, TRANSFORMS

from mmone.config import type_name, walk
from mmone.runtime.images import IMAGE_SUFFIXES

from .files import Facts
from .findings import Finding, error, sampled, some, warning

# By the functions that read a class's annotations: subclasses that read others are of no known kind.
KINDS = {
    'mmdet.datasets.coco.CocoDataset': 'coco',
    'mmdet.datasets.xml_style.XMLDataset': 'voc',
    'mmpretrain.datasets.custom.CustomDataset': 'folders',
    'mmseg.datasets.basesegdataset.BaseSegDataset': 'masks',
}
_LIBRARIES = ('mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg')
# What is read at the start of a training, at most: annotations in bytes, files of annotations, entries of folders.
QUICK_BYTES = 20_000_000
QUICK_ANNOTATIONS = 300
QUICK_ENTRIES = 20_000


class Box(NamedTuple):
    """An annotated box.

    Attributes:
        corners (tuple): x1, y1, x2, y2 in pixels, as the data set class takes them.
        name (str): Of its class.
        label (int): Its class's number; -1 if the config does not have it.
        crowd (bool): Whether training ignores what is in it.
        dropped (str): Why the data set class leaves it out; empty if it does not.
    """
    corners: tuple[float, float, float, float]
    name: str
    label: int
    crowd: bool = False
    dropped: str = ''

    @property
    def width(self) -> float:
        return self.corners[2] - self.corners[0]

    @property
    def height(self) -> float:
        return self.corners[3] - self.corners[1]


@dataclass
class Sample:
    """An image and what is annotated of it; ``size`` (width, height) is what the annotation states."""
    image: str
    size: tuple[int, int] | None = None
    label: int | None = None
    boxes: list[Box] = field(default_factory=list)
    mask: str | None = None
    source: str = ''


@dataclass
class Split:
    """A data set of a data loader.

    Attributes:
        loader (str): The data loader's key in the config.
        key (str): The data set's.
        config (ConfigDict): The data set's.
        dataset: As built, without its annotations.
        kind (str): A value of ``KINDS``, or ``'other'``.
        classes (tuple): The names of the config, or of the data where that has none.
        names (list): What the data calls the labels 0, 1, …, where it says that.
        samples (list): What is left of it by the data set's filters.
        complete (bool): Whether ``samples`` are all.
        left_out (int): Images that filters leave out.
        raw (dict): The contents of a COCO file.
        findings (list): What was wrong with reading it.
        outer (list): The transforms of what wraps it.
        chosen (bool): Whether ``indices`` leave samples out, and with them classes.
        has_own_transforms (bool): Whether somebody's own transforms may make anything of what it reads.
    """
    loader: str
    key: str
    config: ConfigDict
    dataset: Any
    kind: str
    classes: tuple = ()
    names: list | None = None
    samples: list[Sample] = field(default_factory=list)
    complete: bool = True
    left_out: int = 0
    raw: dict = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    outer: list = field(default_factory=list)
    chosen: bool = False
    has_own_transforms: bool = False

    @property
    def training(self) -> bool:
        return self.loader == 'train_dataloader'

    @property
    def ann_file(self) -> str:
        return getattr(self.dataset, 'ann_file', None) or ''

    @property
    def pipeline(self) -> list:
        return [*(self.config.get('pipeline') or ()), *self.outer]

    @property
    def reader(self) -> dict | None:
        """The transform that reads its images, if it is the one that reads files with OpenCV or Pillow."""
        found = self.transform('LoadImageFromFile')
        return found if found is not None and _reads_files(found) and not found.get('ignore_empty') else None

    @property
    def mask_reader(self) -> dict | None:
        """The same for its masks."""
        found = self.transform('LoadAnnotations')
        return found if found is not None and _reads_files(found) else None

    def seen(self, facts: Facts) -> tuple[int, int]:
        """(width, height) of an image as its pipeline reads it: upright, or as it is stored."""
        kind = str((self.reader or {}).get('color_type', 'color'))
        return facts.stored if kind == 'unchanged' or kind.endswith('ignore_orientation') else facts.size

    def transform(self, *names: str) -> dict | None:
        """The first transform of its pipeline of one of some types."""
        return next((step for step in self.pipeline if type_name(step) in names), None)


def _reads_files(transform: dict) -> bool:
    remote = (transform.get('backend_args') or transform.get('file_client_args') or {}).get('backend', 'local')
    return remote in ('local', 'disk') and transform.get('imdecode_backend') in (None, 'cv2', 'pillow', 'turbojpeg')


def _is_own(transform: dict) -> bool:
    kind = transform.get('type')
    if isinstance(kind, str):
        with TRANSFORMS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return getattr(kind, '__module__', '').partition('.')[0] not in _LIBRARIES


def leaves(node: dict | None, key: str) -> Iterator[tuple[str, ConfigDict]]:
    """The data sets of a config, out of whatever wraps them, with their keys."""
    if not isinstance(node, dict):
        return
    inner = [(f'{key}.dataset', node.get('dataset'))]
    inner += [(f'{key}.datasets[{index}]', one) for index, one in enumerate(node.get('datasets') or ())]
    inner = [(name, one) for name, one in inner if isinstance(one, dict)]
    if not inner:
        yield key, node
    for name, one in inner:
        yield from leaves(one, name)


def broken_classes(cfg: dict, key: str) -> Finding | None:
    """What is wrong with names of classes that are a text where a list belongs."""
    own = cfg.get('metainfo')
    for place, given in ((f'{key}.metainfo.classes', own.get('classes') if isinstance(own, dict) else None),
                         (f'{key}.classes', cfg.get('classes'))):
        if isinstance(given, str) and not os.path.isfile(os.path.expanduser(given)):
            return error(f'{place} is the text {given!r}, which is taken for a file of names or for its letters: '
                         f'for one class write ({given!r}, ), with a comma')
    return None


def missing_place(split: Split) -> Finding | None:
    """The folder or file that a data set is in and that is not there."""
    dataset, cfg = split.dataset, split.config
    data_root = getattr(dataset, 'data_root', None)
    if data_root and _absent(data_root):
        return error(f'{data_root} does not exist: set {split.key}.data_root in the config')
    if cfg.get('ann_file') and _absent(split.ann_file):
        return error(f'{split.ann_file} does not exist: set {split.key}.ann_file in the config')
    prefixes = getattr(dataset, 'data_prefix', None) or {}
    for name, path in prefixes.items():
        if isinstance(path, str) and path and _absent(path):
            return error(f'{path} does not exist: set {split.key}.data_prefix in the config ({name})')
    return None


def _absent(path: str) -> bool:
    return '://' not in path and not os.path.exists(path)


class Reader:
    """Reads the data sets of a config.

    Args:
        cfg (Config): The config.
        whole (bool): Read everything, not what takes a second or two.
    """

    def __init__(self, cfg: Config, whole: bool):
        self.cfg = cfg
        self.whole = whole
        self._json: dict[str, Any] = {}

    def read(self, loader: str) -> Iterator[Split | Finding]:
        """The data sets of a loader; in place of one that cannot be read, why."""
        for key, cfg in leaves((self.cfg.get(loader) or {}).get('dataset'), f'{loader}.dataset'):
            broken = broken_classes(cfg, key)
            if broken:
                yield broken
                continue
            try:
                split = self._open(loader, key, cfg)
                if split is None:
                    continue
            except Exception as failed:  # what the library raises is told when it builds the data set itself
                root = cfg.get('data_root')
                if root and _absent(root):
                    yield error(f'{root} does not exist: set {key}.data_root in the config')
                elif self.whole:
                    yield warning(f'{key} ({type_name(cfg)}) cannot be built, and is not inspected: '
                                  f'{type(failed).__name__}: {failed}')
                continue
            missing = missing_place(split) if split.kind != 'other' else None  # whose arguments are its own
            if missing:
                yield missing
                continue
            try:
                self._read(split)
                yield split
            except Exception as failed:
                if self.whole:
                    yield warning(f'{key} ({type_name(cfg)}) cannot be read, and is not inspected: '
                                  f'{type(failed).__name__}: {failed}')

    def _open(self, loader: str, key: str, cfg: ConfigDict) -> Split | None:
        """Build a data set without its annotations; None where that cannot be, and all would take too long now."""
        kind = cfg.type
        if isinstance(kind, str):
            with DATASETS.switch_scope_and_registry(None) as registry:  # that of the config's library
                kind = registry.get(kind)
        known = 'other'
        if cfg.get('backend_args') is None:
            reads = [getattr(kind, name, None) for name in ('load_data_list', 'parse_data_info', 'filter_data')]
            for where, name in KINDS.items():
                module, _, owner = where.rpartition('.')
                if all(getattr(read, '__module__', '') in (module, 'mmengine.dataset.base_dataset') for read in reads) \
                        and getattr(reads[0], '__qualname__', '') == f'{owner}.load_data_list':
                    known = name
        if known == 'other' and not self.whole:
            return None
        settings = dict(cfg, pipeline=[]) if 'pipeline' in cfg else dict(cfg)
        if known != 'other':
            settings['lazy_init'] = True
        with redirect_stdout(StringIO()):  # pycocotools prints
            dataset = DATASETS.build(ConfigDict(settings))
        split = Split(loader, key, cfg, dataset, known)
        split.classes = tuple(dataset.metainfo.get('classes') or ())
        split.outer = [step for node in walk(self.cfg[loader].dataset) if node.get('dataset') or node.get('datasets')
                       for step in node.get('pipeline') or ()]
        split.has_own_transforms = any(map(_is_own, split.pipeline))
        return split

    def _read(self, split: Split) -> None:
        getattr(self, f'_read_{split.kind}')(split)
        indices = getattr(split.dataset, '_indices', None)
        if indices is not None and split.kind != 'other':
            chosen = range(len(split.samples))[:indices] if isinstance(indices, int) and indices >= 0 else indices
            if not isinstance(chosen, int):
                split.samples = [split.samples[index] for index in chosen if index < len(split.samples)]
                split.chosen = True

    def json(self, path: str) -> Any:
        """The contents of a JSON file; None if it is too large to be read now.

        Raises:
            ValueError: If it is none.
        """
        path = os.path.realpath(path)
        if path not in self._json:
            if not self.whole and os.path.getsize(path) > QUICK_BYTES:
                return None
            self._json[path] = json.loads(Path(path).read_bytes())
        return self._json[path]

    # One function a kind

    def _read_coco(self, split: Split) -> None:
        try:
            raw = self.json(split.ann_file)
        except ValueError as failed:
            split.findings.append(error(f'{split.ann_file} is no JSON ({failed}): write or copy it again'))
            return
        if raw is None:
            split.complete = False
            return
        if isinstance(raw, dict) and not split.training:  # images to be tested on come without
            raw = dict(raw, annotations=raw.get('annotations', []))
        if not isinstance(raw, dict) or not all(isinstance(raw.get(key), list) for key in
                                                ('images', 'annotations', 'categories')):
            split.findings.append(error(f'{split.ann_file} is no COCO file: expected a dict with the lists images, '
                                        'annotations and categories'))
            return
        split.raw = raw
        categories = [one for one in raw['categories'] if one.get('name') in split.classes]
        split.names = [one['name'] for one in categories]
        labels = {one.get('id'): number for number, one in enumerate(categories)}
        names = {one.get('id'): str(one.get('name')) for one in raw['categories']}
        of_image: dict[Any, list] = {}
        for annotation in raw['annotations']:
            of_image.setdefault(annotation.get('image_id'), []).append(annotation)
        prefix = (split.dataset.data_prefix or {}).get('img') or ''
        for image in {one.get('id'): one for one in raw['images']}.values():  # as pycocotools has them
            size = image.get('width') or 0, image.get('height') or 0
            boxes = [_coco_box(one, size, labels, names) for one in of_image.get(image.get('id'), ())
                     if len(one.get('bbox') or ()) == 4 and all(isinstance(x, (int, float)) for x in one['bbox'])]
            self._keep(split, Sample(os.path.join(prefix, str(image.get('file_name'))), size, boxes=boxes,
                                     source=split.ann_file), any(box.label >= 0 for box in boxes))

    def _keep(self, split: Split, sample: Sample, has_boxes: bool) -> None:
        """Add a sample if mmdet's filters leave it."""
        filters = None if split.dataset.test_mode else split.dataset.filter_cfg
        filters = filters or {}
        small = sample.size is not None and min(sample.size) < filters.get('min_size', 0)
        if small or (filters.get('filter_empty_gt') and not has_boxes):
            split.left_out += 1
        else:
            split.samples.append(sample)

    def _read_voc(self, split: Split) -> None:
        dataset = split.dataset
        names = Path(split.ann_file).read_text(encoding='utf-8').split('\n')
        names = [name.rstrip('\r') for name in names if name.strip()]
        chosen = names if self.whole else sampled(names, QUICK_ANNOTATIONS)
        split.complete = len(chosen) == len(names)
        labels = {name: number for number, name in enumerate(split.classes)}
        missing: list[str] = []
        broken: list[tuple[str, Exception]] = []
        for name in chosen:
            path = os.path.join(dataset.sub_data_root, dataset.ann_subdir, f'{name}.xml')
            image = os.path.join(dataset.sub_data_root, dataset.img_subdir, f'{name}.jpg')
            try:
                size, boxes = _parse_voc(path, labels, dataset.bbox_min_size or 0)
            except OSError:
                missing.append(path)
                continue
            except Exception as failed:  # not XML, or without what the class reads
                broken.append((path, failed))
                continue
            self._keep(split, Sample(image, size, boxes=boxes, source=path), any(box.label >= 0 for box in boxes))
        if missing:
            split.findings.append(error(f'{some(missing, 1)} cannot be read, but {split.ann_file} lists the image: add '
                                        'the annotation, or take the image off the list'))
        if broken:
            path, why = broken[0]
            more = f', as {len(broken) - 1} more' if len(broken) > 1 else ''
            split.findings.append(error(f'{path} is no annotation that XMLDataset reads ({type(why).__name__}: '
                                        f'{why}){more}: write it again'))

    def _read_folders(self, split: Split) -> None:
        dataset = split.dataset
        prefix = dataset.img_prefix
        if split.ann_file:
            lines = Path(split.ann_file).read_text(encoding='utf-8').split('\n')
            for number, line in enumerate(lines, 1):
                if line.strip():
                    self._listed(split, prefix, line, number)
            return
        if not dataset.with_label:
            files, _ = self._images(split, prefix, QUICK_ENTRIES)
            split.samples = [Sample(path) for path in files]
            return
        split.names = sorted(entry.name for entry in os.scandir(prefix) if entry.is_dir())  # hidden ones too
        split.classes = split.classes or tuple(split.names)
        skipped: Counter = Counter()
        for label, name in enumerate(split.names):
            files, others = self._images(split, os.path.join(prefix, name), QUICK_ENTRIES // len(split.names) + 1)
            skipped.update(others)
            split.samples += [Sample(path, label=label) for path in files]
        if skipped:
            split.findings.append(warning(
                f'{prefix} has {sum(skipped.values()):,} files that are not read ({", ".join(sorted(skipped))}): add '
                f'to {split.key}.extensions what are images, and remove what is broken'))

    def _listed(self, split: Split, prefix: str, line: str, number: int) -> None:
        """Add what a line of a list of images says."""
        place = f'{split.ann_file}:{number}'
        if not split.dataset.with_label:
            split.samples.append(Sample(os.path.join(prefix, line.strip()), source=place))
            return
        name, _, label = line.strip().rpartition(' ')
        try:
            split.samples.append(Sample(os.path.join(prefix, name), label=int(label), source=place))
        except ValueError:
            split.findings.append(error(f'{place} is {line.strip()!r}: expected an image and the number of its class, '
                                        'with a space between them'))

    def _images(self, split: Split, folder: str, most: int) -> tuple[list[str], Counter]:
        """The images below a folder that a data set of folders takes, and the suffixes of those that it does not."""
        files: list[str] = []
        others: Counter = Counter()
        for path in islice(_files_below(folder), None if self.whole else most):
            suffix = Path(path).suffix.lower()
            if split.dataset.is_valid_file(path):
                files.append(path)
            elif suffix in IMAGE_SUFFIXES + ('.heic', '.avif', '.jp2', '.jfif'):
                others[suffix] += 1
        if not self.whole and len(files) + sum(others.values()) >= most:
            split.complete = False
        return sorted(files), others

    def _read_masks(self, split: Split) -> None:
        dataset = split.dataset
        folder, masks = dataset.data_prefix.get('img_path') or '', dataset.data_prefix.get('seg_map_path')
        if split.ann_file and not os.path.isdir(split.ann_file):
            lines = Path(split.ann_file).read_text(encoding='utf-8').split('\n')
            names = [line.strip() for line in lines if line.strip()]
        else:
            found = islice(_files_below(folder), None if self.whole else QUICK_ENTRIES)
            entries = [os.path.relpath(path, folder) for path in found]
            split.complete = self.whole or len(entries) < QUICK_ENTRIES
            suffix = dataset.img_suffix
            names = sorted(name[:len(name) - len(suffix)] for name in entries if name.endswith(suffix))
            others = Counter(Path(name).suffix for name in entries
                             if not name.endswith(suffix) and Path(name).suffix.lower() in IMAGE_SUFFIXES)
            if others and masks != folder:
                split.findings.append((warning if names else error)(
                    f'{folder} has {sum(others.values()):,} images of other names than *{suffix} '
                    f'({", ".join(sorted(others))}), which are not read: set {split.key}.img_suffix, or convert them'))
        for name in names:
            split.samples.append(Sample(os.path.join(folder, name + dataset.img_suffix), source=split.ann_file,
                                        mask=os.path.join(masks, name + dataset.seg_map_suffix) if masks else None))

    def _read_other(self, split: Split) -> None:
        """A data set of another class, as that says it is."""
        for index in range(len(split.dataset)):
            info = split.dataset.get_data_info(index)
            size = (info['width'], info['height']) if info.get('width') and info.get('height') else None
            label = info.get('gt_label')
            boxes = [Box(tuple(one['bbox']), _name(split.classes, one['bbox_label']), one['bbox_label'],
                         bool(one.get('ignore_flag'))) for one in info.get('instances') or () if 'bbox' in one]
            path = info.get('img_path')
            split.samples.append(Sample(path if isinstance(path, str) else '', size, boxes=boxes,
                                        label=int(label) if isinstance(label, int) or getattr(label, 'ndim', 1) == 0
                                        else None, mask=info.get('seg_map_path')))


def _files_below(folder: str) -> Iterator[str]:
    """The files of a folder and of those in it, but for hidden ones, as mmengine lists them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith('.') and entry.is_file():
                yield entry.path
            elif entry.is_dir():
                yield from _files_below(entry.path)


def _name(classes: tuple, label: int) -> str:
    return str(classes[label]) if 0 <= label < len(classes) else str(label)


def _coco_box(annotation: dict, size: tuple, labels: dict, names: dict) -> Box:
    """A box of a COCO file, with what CocoDataset does with it."""
    x, y, width, height = annotation['bbox']
    inside = min(x + width, size[0]) > max(x, 0) and min(y + height, size[1]) > max(y, 0)
    category = annotation.get('category_id')
    dropped = ''
    if annotation.get('ignore'):
        dropped = 'ignored'
    elif not inside:
        dropped = 'outside of the image'
    elif (annotation.get('area') or 0) <= 0 or width < 1 or height < 1:
        dropped = 'less than a pixel wide, high or large'
    elif category not in labels:
        dropped = 'of other classes'
    return Box((x, y, x + width, y + height), names.get(category, str(category)), labels.get(category, -1),
               bool(annotation.get('iscrowd')), dropped)


def _parse_voc(path: str, labels: dict, min_size: float) -> tuple[tuple[int, int] | None, list[Box]]:
    """Size and boxes of an annotation of Pascal VOC, as XMLDataset reads it.

    Raises:
        Exception: Whatever XMLDataset would raise.
    """
    root = ET.parse(path).getroot()
    size = root.find('size')
    stated = None if size is None else (int(_text(size, 'width')), int(_text(size, 'height')))
    boxes = []
    for one in root.findall('object'):
        name = _text(one, 'name')
        box = one.find('bndbox')
        if name not in labels and box is None:
            continue
        x1, y1, x2, y2 = (float(_text(box, key)) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
        corners = x1, y1, x2, y2
        if max(x2, y2) > 1:  # else they are fractions, which are told
            corners = int(x1) - 1, int(y1) - 1, int(x2) - 1, int(y2) - 1
        difficult = one.find('difficult')
        crowd = difficult is not None and bool(int(difficult.text or 0))
        small = corners[2] - corners[0] < min_size or corners[3] - corners[1] < min_size
        boxes.append(Box(corners, name, labels.get(name, -1), crowd or small,
                         '' if name in labels else 'of other classes'))
    return stated, boxes


def _text(node: Any, name: str) -> str:
    found = None if node is None else node.find(name)
    if found is None or found.text is None:
        raise ValueError(f'it has no {name}')
    return found.text
