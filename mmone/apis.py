"""Name a model, get predictions: :func:`get_model`, :func:`predict` and :func:`draw`."""
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, VISUALIZERS
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.structures import BaseDataElement

from mmone.checkpoints.io import state_dict_of
from mmone.checkpoints.loading import reading_safely
from mmone.compat import set_mmpretrain_attributes
from mmone.config import build_model, dataset_of, default_scope, set_deploy, type_name
from mmone.convert.fit import check_fit
from mmone.errors import InputError
from mmone.export.exported import ExportedModel
from mmone.runtime import is_exported
from mmone.runtime.images import read_image
from mmone.zoo import find_config

_VISUALIZERS = dict(mmpretrain='mmpretrain.UniversalVisualizer', mmdet='mmdet.DetLocalVisualizer',
                    mmseg='mmseg.SegLocalVisualizer')
_READ_AHEAD = 2  # batches that are made ready while the model computes


class Prediction(NamedTuple):
    """What a model says of one image.

    Attributes:
        name (str): Path of the image, or its number if it was given as an array.
        image (np.ndarray | None): (H, W, 3) uint8 in BGR; None if it cannot be decoded.
        sample (BaseDataElement | None): The library's data sample; None with ``image``.
    """
    name: str
    image: np.ndarray | None
    sample: BaseDataElement | None

    def record(self, model: BaseModel) -> dict:
        """The prediction as plain data.

        ``input``, and by task: ``class``, ``label``, ``score`` and ``top5`` (a list of ``[class,
        score]``); or ``boxes``, a list of ``class``, ``label``, ``score`` and ``box`` ``[x1, y1,
        x2, y2]`` in pixels, best first; or ``classes``, the fraction of pixels of each class that
        occurs. An image that cannot be decoded has ``error`` instead.
        """
        if self.sample is None:
            return dict(input=self.name, error='cannot be decoded')
        names = model.dataset_meta.get('classes')

        def name(label: int) -> str:
            return names[label] if names else str(label)

        if 'pred_label' in self.sample:
            scores, labels = self.sample.pred_score.topk(min(5, len(self.sample.pred_score)))
            best = [[name(label), score] for label, score in zip(labels.tolist(), scores.tolist())]
            return dict(input=self.name, label=int(labels[0]), score=best[0][1], top5=best,
                        **{'class': best[0][0]})
        if 'pred_instances' in self.sample:
            found = self.sample.pred_instances
            boxes = [
                dict(label=label, score=score, box=box, **{'class': name(label)})
                for label, score, box in zip(found.labels.tolist(), found.scores.tolist(),
                                             found.bboxes.tolist())]
            return dict(input=self.name, boxes=sorted(boxes, key=lambda box: -box['score']))
        labels, counts = self.sample.pred_sem_seg.data.unique(return_counts=True)
        total = counts.sum().item()
        return dict(input=self.name, classes={
            name(label): count / total for label, count in zip(labels.tolist(), counts.tolist())})


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
        InputError: If there is no such model, or the weights cannot be used for it.
    """
    if not isinstance(model, Config) and is_exported(model):
        for name, given in (('weights', weights), ('device', device not in (None, 'cpu') and device)):
            if given:
                raise InputError(f'{model} is an exported model, which has its weights in it and '
                                 f'computes on the CPU: leave {given} out', parameter=name)
        return ExportedModel(model).eval()
    cfg, published = find_config(model)
    weights = weights or published
    if weights is None:
        raise InputError(f'no weights are published for {model}: give a checkpoint', parameter='weights')
    cfg = get_config(cfg, deploy)
    with reading_safely(trust):
        checkpoint = CheckpointLoader.load_checkpoint(str(weights), map_location='cpu', logger='silent')
    state_dict = state_dict_of(checkpoint)
    net = build_model(cfg)
    check_fit(net, state_dict, str(weights), whole=True)
    net.load_state_dict(state_dict)
    net.cfg, net.dataset_meta = cfg, _dataset_meta(cfg, checkpoint.get('meta') or {})
    set_mmpretrain_attributes(net, cfg, net.dataset_meta)
    return net.to(device or get_device()).eval()


def _dataset_meta(cfg: Config, meta: dict) -> dict:
    """Class names and palette: the checkpoint's, else those of the config's data set."""
    found = {key.lower(): value for key, value in (meta.get('dataset_meta') or {}).items()}
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


def predict(model: BaseModel, images: Iterable[str | Path | np.ndarray],
            batch_size: int = 1) -> Iterator[Prediction]:
    """Predict images, in their order; the next ones are made ready while the model computes.

    Args:
        model (BaseModel): From :func:`get_model`.
        images (Iterable): Paths, or arrays (H, W, 3) uint8 in BGR as OpenCV reads them.
        batch_size (int): Defaults to 1.

    Yields:
        Prediction: One for each image; of an undecodable one with ``sample`` None.
    """
    pipeline = test_pipeline(model.cfg)

    def prepare(numbered):
        number, given = numbered
        name, image = (str(number), given) if isinstance(given, np.ndarray) else (str(given), None)
        if image is None:
            try:
                image = read_image(name)[:, :, ::-1]  # BGR
            except InputError:
                return Prediction(name, None, None), None
        data = dict(img=image, img_path=name, img_id=number, img_shape=image.shape[:2],
                    ori_shape=image.shape[:2])
        return Prediction(name, image, None), pipeline(data)

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
            inputs = [data for _, data in ready if data is not None]
            with torch.no_grad():
                samples = iter(model.test_step(pseudo_collate(inputs)) if inputs else ())
            for prediction, data in ready:
                yield prediction if data is None else prediction._replace(sample=next(samples).cpu())


def test_pipeline(cfg: Config) -> Compose:
    """The config's test pipeline for an image that is loaded, without annotations."""
    dataset = dataset_of(cfg.get('test_dataloader'))
    if not dataset.get('pipeline'):
        raise InputError('the config has no pipeline in test_dataloader.dataset to prepare images')
    transforms = []
    for transform in dataset.pipeline:
        if type_name(transform) in ('LoadImageFromFile', 'LoadAnnotations'):
            continue
        if 'meta_keys' in transform:  # those of annotations, as CocoMetric wants them
            transform = dict(transform, meta_keys=tuple(
                key for key in transform['meta_keys'] if key != 'instances'))
        transforms.append(transform)
    with default_scope(cfg):
        return Compose(transforms)


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
    if sample is None:
        raise InputError(f'{prediction.name} cannot be decoded: there is nothing to draw')
    visualizer = getattr(model, '_visualizer', None)
    if visualizer is None:
        visualizer = VISUALIZERS.get(_VISUALIZERS[model.cfg.default_scope])()
        visualizer.dataset_meta = model.dataset_meta
        object.__setattr__(model, '_visualizer', visualizer)
    image = mmcv.bgr2rgb(prediction.image)
    if hasattr(visualizer, 'visualize_cls'):
        return visualizer.visualize_cls(
            image, sample, classes=model.dataset_meta.get('classes'), draw_gt=False,
            resize=max(256, *image.shape[:2]) if min(image.shape[:2]) < 256 else None)
    threshold = dict(pred_score_thr=score_thr) if 'pred_instances' in sample else {}
    visualizer.add_datasample('', image, sample, draw_gt=False, show=False, **threshold)
    return visualizer.get_image()
