"""The networks that teach: built and loaded once, computing without gradients in their deployed form."""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from mmone.checkpoints.loading import trusted
from mmone.compat import takes_rgb
from mmone.config import build_model, set_deploy, type_name, walk
from mmone.convert import switch_to_deploy
from mmone.convert.fit import load_whole
from mmone.errors import InputError
from mmone.pipeline import normalization
from mmone.zoo import find_config


class _Teacher(NamedTuple):
    """A network, and how the student's normalized images become its own: flipped, scaled and shifted."""
    name: str
    net: BaseModel
    flip: bool
    affine: Tensor | None

    def logits(self, inputs: Tensor) -> Tensor:
        images = inputs.flip(1) if self.flip else inputs
        return self.net(images if self.affine is None else images * self.affine[0] + self.affine[1], mode='tensor')

    def moved(self, fn: Callable[[Tensor], Tensor]) -> '_Teacher':
        return self._replace(net=self.net._apply(fn), affine=self.affine if self.affine is None else fn(self.affine))


class Teachers:
    """Networks that a student learns from.

    No module: the student's state dict, parameters, averaged and other copies, distributed wrappers and
    conversions are all without them. They are built when training begins, so that a checkpoint is evaluated and
    exported without.

    Args:
        teachers (Sequence[dict]): Of each:

            - ``model``: the name or path of a config (``'mmpretrain::resnet/resnet152_8xb32_in1k.py'``), or a
              dict that a registry builds, such as ``dict(type='TimmClassifier', model_name=…, pretrained=True)``.
            - ``checkpoint``: of any source that mmone knows, in either form; checked like any model's. May be
              left out where the model has weights: published ones, ``pretrained=True``, or an ``init_cfg``.
        scope (str): Library of a model that is given as a dict, ``'mmpretrain'`` or ``'mmseg'``.

    Raises:
        InputError: If there are none, or one has no weights.
    """

    def __init__(self, teachers: Sequence[dict], scope: str):
        if not teachers:
            raise InputError('teachers is empty: give at least one dict(model=…, checkpoint=…)')
        for teacher in teachers:
            if not isinstance(teacher, dict) or 'model' not in teacher or teacher.keys() - {'model', 'checkpoint'}:
                raise InputError(f'a teacher is dict(model=…, checkpoint=…), got {teacher!r}')
        self._given = teachers
        self._scope = scope
        self._teachers: list[_Teacher] = []

    def __deepcopy__(self, memo: dict) -> 'Teachers':
        return self  # nothing about them changes: copies of the student share them

    def load(self, student: BaseModel) -> None:
        """Build them and read their weights, on the student's device; the second time does nothing.

        Raises:
            InputError: If there is no such model or checkpoint, or they do not fit.
        """
        if not self._teachers:
            place = next(student.parameters()).device
            for given in self._given:
                name, net = self._build(given)
                self._teachers.append(_Teacher(name, net, *_renormalization(student, net)).moved(
                    lambda tensor: tensor.to(place)))

    def _build(self, given: dict) -> tuple[str, BaseModel]:
        model, checkpoint = given['model'], given.get('checkpoint')
        if isinstance(model, str):
            cfg, published = find_config(model)
            name, checkpoint = model, checkpoint or published
        else:
            cfg = Config(dict(model=model, default_scope=self._scope))
            name = str(model.get('model_name', type_name(model)))
        set_deploy(cfg.model)
        net = build_model(cfg)
        if checkpoint:
            load_whole(net, checkpoint, trusted())
        elif _has_weights(cfg.model):
            net.init_weights()
        else:
            raise InputError(f'teacher {name} has no weights: give its checkpoint')
        switch_to_deploy(net)
        return name, net.eval().requires_grad_(False)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Do to their tensors what PyTorch does to the student's, such as moving them."""
        self._teachers = [teacher.moved(fn) for teacher in self._teachers]

    @torch.no_grad()
    def __call__(self, inputs: Tensor, classes: int) -> list[Tensor]:
        """Logits of each, (N, classes, ...), for the student's normalized (N, 3, H, W) images.

        Raises:
            InputError: If a teacher has other classes.
        """
        found = [teacher.logits(inputs) for teacher in self._teachers]
        for teacher, logits in zip(self._teachers, found):
            if logits.shape[1] != classes:
                raise InputError(f'teacher {teacher.name} has {logits.shape[1]} classes, the student {classes}: give '
                                 'one that was trained on the same classes')
        return found


def _has_weights(model: ConfigDict) -> bool:
    return any(node.get('pretrained') or type_name(node) == 'Pretrained' for node in walk(model))


def _renormalization(student: BaseModel, teacher: BaseModel) -> tuple[bool, Tensor | None]:
    """What makes the student's images a teacher's: whether to flip channels, then factors and summands of each.

    They are (2, 3, 1, 1); None where both normalize alike.
    """
    (mean, std, rgb), (other_mean, other_std, other_rgb) = _normalization(student), _normalization(teacher)
    flip = rgb != other_rgb
    if torch.equal(mean, other_mean) and torch.equal(std, other_std):
        return flip, None
    affine = torch.stack([std / other_std, (mean - other_mean) / other_std])  # of RGB
    return flip, affine if other_rgb else affine.flip(1)


def _normalization(model: BaseModel) -> tuple[Tensor, Tensor, bool]:
    """Mean and standard deviation, each (3, 1, 1) of RGB, and whether the network takes RGB."""
    timm = getattr(getattr(model, 'model', None), 'pretrained_cfg', None)
    if timm and getattr(model.data_preprocessor, 'mean', None) is None:  # of images from 0 to 1
        mean, std = (255 * torch.tensor(timm[key], dtype=torch.float32).view(3, 1, 1) for key in ('mean', 'std'))
        return mean, std, True
    return (*normalization(model.data_preprocessor, 3), takes_rgb(model.data_preprocessor))
