"""All checks of a config and its data."""
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mmengine.config import Config

from mmone.config import DATALOADERS, default_scope

from . import boxes, classes, images, masks, settings
from .files import Job, look_at
from .findings import Finding, by_level, note, sampled
from .reading import Reader, Split, leaves
from .subject import Subject

# Files of images, and as many of masks, that are looked at of each data set at the start of a training.
QUICK_FILES = 50

# In this order: the first error is what a training stops with, and others may follow from it.
CHECKS: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    boxes.check_entries, images.check_samples, classes.check_names, classes.check_splits, classes.check_heads,
    classes.check_top_k, images.check_files, images.check_channels, boxes.check_numbers, images.check_sizes,
    boxes.check_dropped, boxes.check_evaluated, masks.check_files, masks.check_sizes, masks.check_values,
    masks.check_ignored, masks.check_ignored_everywhere, classes.check_checkpoint, classes.check_occurrence,
    settings.check_memory_format, settings.check_batches, settings.check_space, boxes.check_anchors,
    images.check_duplicates, settings.check_average, settings.check_form)


@dataclass
class Inspection:
    """What an inspection found.

    Attributes:
        findings (list[Finding]): Errors first.
        subject (Subject): What was looked at.
    """
    findings: list[Finding]
    subject: Subject

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == 'error']

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == 'warning']

    def table(self) -> list[list[str]]:
        """A title and a row for each data set: how many images, of what sizes, and what is annotated."""
        rows = [['data', 'images', 'smallest', 'median', 'largest', 'annotated']]
        for split in self.subject.splits:
            sizes = self.sizes(split)
            shown = ['x'.join(map(str, size)) for size in
                     (sizes[0], sizes[len(sizes) // 2], sizes[-1])] if sizes else ['-'] * 3
            rows.append([split.key.replace('_dataloader.dataset', ''), f'{len(split.samples):,}', *shown,
                         self.annotated(split)])
        return rows

    def sizes(self, split: Split) -> list[tuple[int, int]]:
        """(width, height) of all images that could be read, smaller ones first."""
        facts = self.subject.looked_at(sample.image for sample in split.samples)
        return sorted((fact.size for fact in facts if fact.size[0] and fact.channels), key=_area)

    def counts(self, split: Split) -> dict[str, int]:
        """How many images, boxes or pixels there are of each class."""
        called = split.names if split.kind == 'coco' and split.names else split.classes
        names = {number: str(name) for number, name in enumerate(called)}
        found = dict.fromkeys(names, 0)
        for label, number in self._labels(split):
            if label in found:
                found[label] += number
        return {names[label]: number for label, number in found.items()}

    def _labels(self, split: Split) -> Iterable[tuple[int, int]]:
        if any(sample.mask for sample in split.samples):
            return masks.pixels(self.subject, split).items()
        if any(sample.boxes for sample in split.samples):
            return ((box.label, 1) for sample in split.samples for box in sample.boxes if not box.dropped)
        return ((sample.label, 1) for sample in split.samples if sample.label is not None)

    def unit(self, split: Split) -> str:
        """What :meth:`counts` counts."""
        if any(sample.mask for sample in split.samples):
            return 'pixels'
        return 'boxes' if any(sample.boxes for sample in split.samples) else 'images'

    def annotated(self, split: Split) -> str:
        """What is annotated, in a line."""
        found = self.counts(split)
        total, unit = sum(found.values()), self.unit(split)
        if not total:
            return 'nothing'
        most, least = max(found, key=lambda name: found[name]), min(found, key=lambda name: found[name])
        if unit == 'pixels':
            return (f'{len(found)} classes of pixels: {most} {found[most] / total:.1%}, …, '
                    f'{least} {found[least] / total:.2%}')
        if len(found) <= 4:
            return f'{total:,} {unit}: {", ".join(f"{name} {number:,}" for name, number in found.items())}'
        if found[most] == found[least]:
            return f'{total:,} {unit} of {len(found)} classes, {found[most]:,} of each'
        return f'{total:,} {unit} of {len(found)} classes: {most} {found[most]:,}, …, {least} {found[least]:,}'


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def inspect(cfg: Config, whole: bool = False, trust: bool = False,
            progress: Callable[[list[Job]], Callable[[Iterable], Iterable]] = lambda jobs: iter) -> Inspection:
    """Compare a config with its data.

    Args:
        cfg (Config): Of any of the three tasks.
        whole (bool): Look at everything, and at the data of tests too; by default only at what takes a
            second or two: headers of some images, and annotations that are not too large.
        trust (bool): Read a checkpoint that can run code. Defaults to False.
        progress (Callable): Is given the files that are looked at; returns what wraps the iterable of what was
            seen, to show progress.

    Raises:
        InputError: If the library of the config cannot be imported.
    """
    subject = Subject(cfg, whole, trust, Reader(cfg, whole))
    findings: list[Finding] = []
    with default_scope(cfg):
        for loader in _loaders(cfg, whole):
            for one in subject.reader.read(loader):
                if isinstance(one, Finding):
                    findings.append(one)
                else:
                    subject.splits.append(one)
                    findings += one.findings
        jobs = _jobs(subject)
        subject.facts = {facts.path: facts for facts in look_at(jobs, progress(jobs), several=whole)}
        for check in CHECKS:
            try:
                findings += check(subject)
            except Exception as failed:  # what a check does not understand is no mistake of the data
                if whole:
                    what = (check.__doc__ or '').partition('\n')[0].rstrip('.')
                    findings.append(note(f'not checked, for {type(failed).__name__} ({failed}): {what}'))
    return Inspection(by_level(findings), subject)


def _loaders(cfg: Config, whole: bool) -> list[str]:
    """The data loaders to look at: tests, where they are not of the same data as validations, with the whole."""
    here = [loader for loader in DATALOADERS if isinstance(cfg.get(loader), dict)]
    if not whole or _same_data(cfg.get('val_dataloader'), cfg.get('test_dataloader')):
        here = [loader for loader in here if loader != 'test_dataloader']
    return here


def _same_data(one: dict | None, other: dict | None) -> bool:
    ours, theirs = ([{key: value for key, value in leaf.items() if key != 'pipeline'}
                     for _, leaf in leaves((loader or {}).get('dataset'), '')] for loader in (one, other))
    return ours == theirs and bool(ours)


def _jobs(subject: Subject) -> list[Job]:
    """The files to look at."""
    jobs: dict[str, Job] = {}
    for split in subject.splits:
        chosen = split.samples if subject.whole else sampled(split.samples, QUICK_FILES)
        for sample in chosen:
            if sample.image and '://' not in sample.image and split.reader is not None:
                jobs.setdefault(sample.image, Job(sample.image, decode=subject.whole))
            if sample.mask and '://' not in sample.mask and split.kind == 'masks' and split.mask_reader is not None:
                jobs.setdefault(sample.mask, Job(sample.mask, mask=masks.backend(split)))
    return [job for path, job in jobs.items() if os.path.basename(path)]
