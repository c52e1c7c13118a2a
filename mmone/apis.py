"""Name a model, get predictions: :func:`get_model`, :func:`predict` and :func:`draw`."""
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, VISUALIZERS
from mmengine.structures import BaseDataElement
from torch.nn.modules.batchnorm import _BatchNorm

from mmone.checkpoints.io import meta_of
from mmone.compat import set_mmpretrain_attributes
from mmone.config import build_model, dataset_of, set_deploy
from mmone.convert.fit import load_whole
from mmone.devices import computing_on, find_device
from mmone.errors import InputError
from mmone.export.exported import ExportedModel
from mmone.export.heads import is_multi_label
from mmone.models import MobileOne, memory_format
from mmone.pipeline import ImageError, ImagePipeline, picture
from mmone.runtime import is_exported
from mmone.zoo import find_config

_VISUALIZERS = dict(mmpretrain='mmpretrain.UniversalVisualizer', mmdet='mmdet.DetLocalVisualizer',
                    mmseg='mmseg.SegLocalVisualizer')
_READ_AHEAD = 2  # batches that are made ready while the model computes


class Prediction(NamedTuple):
    """What a model says of one image.

    Attributes:
        name (str): Path of the image, or its number if it was given as an array.
        image (np.ndarray | None): (H, W, 3) uint8 in BGR, a picture of it; None if it cannot be used.
        sample (BaseDataElement | None): The library's data sample; None with ``image``.
        error (str | None): Why it cannot be used.
    """
    name: str
    image: np.ndarray | None
    sample: BaseDataElement | None
    error: str | None = None

    def record(self, model: BaseModel) -> dict:
        """The prediction as plain data.

        ``input``, and by task: ``class``, ``label``, ``score`` and ``top5`` (a list of ``[class,
        score]``), or where an image may be of several classes ``labels``, a list of ``class``,
        ``label`` and ``score``, best first, in place of the first three; or ``boxes``, a list of
        ``class``, ``label``, ``score`` and ``box`` ``[x1, y1, x2, y2]`` in pixels, best first; or
        ``classes``, the fraction of pixels of each class that occurs. Of several tasks ``tasks``,
        the answers by their names. An image that cannot be used has ``error`` instead.

        Raises:
            InputError: If the model's predictions are none of these.
        """
        if self.sample is None:
            return dict(input=self.name, error=self.error)
        names = model.dataset_meta.get('classes') or ()
        return dict(input=self.name, **_plain(self.sample, names, getattr(model, 'head', None)))


def _plain(sample: BaseDataElement, names: Sequence[str], head: Any) -> dict:
    """A sample's prediction as plain data; ``head`` is the classifier's that made it."""

    def named(label: int, **more) -> dict:
        return {'class': names[label] if label < len(names) else str(label), 'label': label, **more}

    if hasattr(sample, 'tasks'):  # mmpretrain's MultiTaskDataSample, whose classes have no names
        return dict(tasks={task: _plain(sample.get(task), (), head.task_heads[task]) for task in sorted(sample.tasks)})
    if 'pred_label' in sample:
        scores, labels = sample.pred_score.topk(min(5, len(sample.pred_score)))
        best = [named(label, score=score) for label, score in zip(labels.tolist(), scores.tolist())]
        top5 = [[found['class'], found['score']] for found in best]
        if is_multi_label(head):
            positive = [named(label, score=sample.pred_score[label].item()) for label in sample.pred_label.tolist()]
            return dict(labels=sorted(positive, key=lambda found: -found['score']), top5=top5)
        return dict(best[0], top5=top5)
    if 'pred_instances' in sample:
        found = sample.pred_instances
        boxes = [named(label, score=score, box=box) for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist())]
        return dict(boxes=sorted(boxes, key=lambda box: -box['score']))
    if 'pred_sem_seg' in sample:
        labels, counts = sample.pred_sem_seg.data.unique(return_counts=True)
        total = counts.sum().item()
        return dict(classes={named(label)['class']: count / total
                             for label, count in zip(labels.tolist(), counts.tolist())})
    raise InputError('the model predicts something else than classes, boxes or a label map: it has '
                     f'{", ".join(sample.keys()) or "nothing"}')


def get_config(model: str | Path | Config, deploy: bool = True) -> Config:
    """The config of a model, for the libraries' inferencers: ``DetInferencer(get_config(name), …)``.

    Args:
        model (str | Path | Config): A name of :func:`mmone.zoo.list_models`, a config file or a
            config, which is left as it is.
        deploy (bool): Build the deployed form. Defaults to True.

    Raises:
        InputError: If there is no such model.
    """
    cfg, _ = find_config(model)
    if deploy:
        set_deploy(cfg.model)
    return cfg


def get_model(model: str | Path | Config,
              weights: str | None = None,
              device: str | None = None,
              deploy: bool = True,
              trust: bool = False) -> BaseModel:
    """Build a model and load its weights, ready to predict.

    It also goes into the libraries' own functions: ``mmpretrain.inference_model``,
    ``ImageClassificationInferencer``, ``mmdet.apis.inference_detector``,
    ``mmseg.apis.inference_model``.

    Args:
        model (str | Path | Config): A name of :func:`mmone.zoo.list_models`, a config file or a
            config; or an exported model, which has its weights in it and computes on the CPU.
        weights (str, optional): Checkpoint of any source that mmone knows, in either form, a file
            or a URL. Defaults to those published for the name.
        device (str, optional): Defaults to a GPU where there is one.
        deploy (bool): Fuse the branches. Defaults to True; weights that are fused need it.
        trust (bool): Allow a checkpoint that can run code. Defaults to False.

    Raises:
        InputError: If there is no such model or device, or the weights cannot be used for the model.
    """
    if not isinstance(model, Config) and is_exported(model):
        for name, given in (('weights', weights), ('device', device not in (None, 'cpu') and device)):
            if given:
                raise InputError(f'{model} is an exported model, which has its weights in it and '
                                 f'computes on the CPU: leave {given} out', parameter=name)
        return ExportedModel(model).eval()
    place = find_device(device)
    cfg, published = find_config(model)
    weights = weights or published
    if weights is None:
        raise InputError(f'no weights are published for {model}: give a checkpoint', parameter='weights')
    cfg = get_config(cfg, deploy)
    net = build_model(cfg)
    memory_format.check(net)
    checkpoint = load_whole(net, str(weights), trust)
    net.cfg, net.dataset_meta = cfg, _dataset_meta(cfg, meta_of(checkpoint))
    set_mmpretrain_attributes(net, cfg, net.dataset_meta)
    return net.to(place).eval()


def _dataset_meta(cfg: Config, meta: dict) -> dict:
    """Class names and palette: the checkpoint's, else those of the config's data set."""
    found = _classes_and_palette(meta.get('dataset_meta'))
    dataset = dataset_of(cfg.get('test_dataloader'))
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        kind = registry.get(dataset.type) if 'type' in dataset else None
    own = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    if 'classes' not in own and dataset.get('classes'):
        own['classes'] = dataset['classes']
    found = {**own, **found}
    if cfg.get('default_scope') == 'mmseg' and not found.get('palette') and found.get('classes'):
        generator = np.random.default_rng(0)
        found['palette'] = generator.integers(0, 256, (len(found['classes']), 3)).tolist()
    return found


def _classes_and_palette(meta: Any) -> dict:
    """Of what a checkpoint says of its data set, what can be names and colours."""
    given = {str(key).lower(): value for key, value in meta.items()} if isinstance(meta, dict) else {}
    kinds: dict[str, Any] = dict(classes=str, palette=(list, tuple))
    return {key: value for key, value in given.items() if key not in kinds or (
        isinstance(value, (list, tuple)) and all(isinstance(item, kinds[key]) for item in value))}


def predict(model: BaseModel, images: str | Path | np.ndarray | Iterable[str | Path | np.ndarray],
            batch_size: int = 1) -> Iterator[Prediction]:
    """Predict images, in their order; the next ones are made ready while the model computes.

    Images of one batch that differ in size are computed apart, so that no image's answer depends on the
    others'.

    Args:
        model (BaseModel): From :func:`get_model`.
        images (str | Path | np.ndarray | Iterable): Paths, which are read as the config's test pipeline
            does; or arrays (H, W, 3) uint8 in BGR as OpenCV reads them, or as the pipeline reads them if
            that is otherwise; or one of these.
        batch_size (int): Defaults to 1.

    Yields:
        Prediction: One for each image; of one that cannot be used with ``sample`` None, and ``error``.

    Raises:
        InputError: If the config has no test pipeline, or what it reads images with is not installed.
    """
    pipeline = (ImagePipeline(model.cfg, model.runtime.read) if isinstance(model, ExportedModel) else
                ImagePipeline(model.cfg))
    batch_size = 1 if _has_batch_statistics(model) else batch_size
    if isinstance(images, (str, Path)) or isinstance(images, np.ndarray) and images.ndim < 4:
        images = [images]

    def prepare(numbered):
        number, given = numbered
        name = str(number) if isinstance(given, np.ndarray) else str(given)
        try:
            found = pipeline.read(given, number)
            image = picture(found['img'])
            data = pipeline.prepare(found)
            _check_channels(model, data['inputs'], name)
        except ImageError as error:
            return Prediction(name, None, None, error.message.removeprefix(f'image {name} ')), None
        return Prediction(name, image, None), data

    def batches():
        numbered = iter(enumerate(images))
        while chunk := list(islice(numbered, batch_size)):
            yield chunk

    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        waiting: list[list[Future]] = []
        chunks = batches()
        while True:
            for chunk in islice(chunks, _READ_AHEAD + 1 - len(waiting)):
                waiting.append([pool.submit(prepare, item) for item in chunk])
            if not waiting:
                return
            ready = [future.result() for future in waiting.pop(0)]
            samples = iter(_samples(model, [data for _, data in ready if data is not None]))
            for prediction, data in ready:
                yield prediction if data is None else prediction._replace(sample=next(samples))


def _has_batch_statistics(model: BaseModel) -> bool:
    """Whether a norm of the model has no running statistics: it normalizes a batch by itself, in evaluation too."""
    return any(isinstance(module, _BatchNorm) and module.running_mean is None for module in model.modules())


def _check_channels(model: BaseModel, inputs: torch.Tensor, name: str) -> None:
    backbone = getattr(model, 'backbone', None)
    expected = (model.runtime.channels if isinstance(model, ExportedModel) else
                backbone.in_channels if isinstance(backbone, MobileOne) else inputs.shape[0])
    if inputs.shape[0] != expected:
        raise ImageError(f'image {name} has {inputs.shape[0]} channels, of which the model takes {expected}')


def _samples(model: BaseModel, batch: Sequence[dict]) -> list[BaseDataElement]:
    """Predict prepared images, those of one size at a time: a library would pad the others, or refuse them."""
    groups: dict[tuple, list[int]] = {}
    for i, data in enumerate(batch):
        # mmseg takes the sizes of a batch's images from the first one's.
        sizes = (tuple(data['data_samples'].metainfo.get(key, ())) for key in ('img_shape', 'pad_shape'))
        groups.setdefault((data['inputs'].shape, *sizes), []).append(i)
    found: list = [None] * len(batch)
    with _evaluating(model), torch.no_grad(), computing_on(model.data_preprocessor.device):
        for group in groups.values():
            for i, sample in zip(group, model.test_step(pseudo_collate([batch[i] for i in group]))):
                found[i] = _with_integer_labels(sample.cpu())
    return found


def _with_integer_labels(sample: BaseDataElement) -> BaseDataElement:
    if 'pred_sem_seg' in sample:  # of one output channel, mmseg's are floats
        sample.pred_sem_seg.data = sample.pred_sem_seg.data.long()
    return sample


@contextmanager
def _evaluating(model: BaseModel) -> Iterator[None]:
    """Let a model that is being trained predict as it would afterwards, until the block ends."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def draw(model: BaseModel, prediction: Prediction, score_thr: float = 0.3) -> np.ndarray:
    """Draw a prediction on its image, by the visualizer of the model's library.

    Args:
        model (BaseModel): From :func:`get_model`.
        prediction (Prediction): Of an image that was decoded.
        score_thr (float): Boxes below it are left out. Defaults to 0.3.

    Returns:
        np.ndarray: (H, W, 3) uint8 in RGB.

    Raises:
        InputError: If the image could not be decoded.
    """
    sample = prediction.sample
    if sample is None or prediction.image is None:
        raise InputError(f'{prediction.name} cannot be decoded: there is nothing to draw')
    visualizer = getattr(model, '_visualizer', None)
    if visualizer is None:
        visualizer = VISUALIZERS.get(_VISUALIZERS[model.cfg.default_scope])()
        visualizer.dataset_meta = model.dataset_meta
        object.__setattr__(model, '_visualizer', visualizer)
    image = np.ascontiguousarray(prediction.image[:, :, ::-1])  # RGB
    if hasattr(visualizer, 'visualize_cls'):
        return visualizer.visualize_cls(
            image, sample, classes=model.dataset_meta.get('classes'), draw_gt=False,
            resize=max(256, *image.shape[:2]) if min(image.shape[:2]) < 256 else None)
    threshold = dict(pred_score_thr=score_thr) if 'pred_instances' in sample else {}
    visualizer.add_datasample('', image, sample, draw_gt=False, show=False, **threshold)
    return visualizer.get_image()
