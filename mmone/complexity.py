"""How large a model is and how much it computes."""
import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from mmengine.analysis.jit_handles import get_shape
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmone.config import build_model, native_shape, set_deploy
from mmone.errors import InputError, cause

# Backbones with a training form and a deployed one.
DEPLOYABLE = ('MobileOne', 'RepVGG')


@dataclass
class Complexity:
    """Parameters and multiply-adds of a model, in one form."""
    parameters: int
    multiply_adds: int


def complexity(model: BaseModel, shape: tuple[int, int], in_channels: int = 3) -> Complexity:
    """Count parameters, and multiply-adds for one image, as mmengine does.

    mmengine counts convolutions, linear layers and matrix products as one operation per
    multiplication and addition, normalization as up to five per element, and neither biases,
    activations, sums nor pooling. Of a classifier, ``extract_feat`` is counted, as by
    mmpretrain's tool and for its published figures: the last linear layer is in the parameters
    only. Detectors and segmentors are counted whole, without post-processing; of two stages, the
    second with as many proposals as the first gives at most.

    Args:
        model (BaseModel): A model of mmpretrain, mmdet or mmseg; it is set to eval mode.
        shape (tuple[int, int]): Height and width of the image.
        in_channels (int): Channels of the image. Defaults to 3.

    Raises:
        InputError: If the model cannot compute such an image.
    """
    model = model.eval()
    device = next(model.parameters()).device
    image = torch.zeros(1, in_channels, *shape, device=device)
    with _all_proposals(model):
        try:
            operations = _count(_Tensors(model, 'tensor'), image)
        except Exception:  # some models' outputs without post-processing want annotations, or are not there
            try:
                operations = _count(_Tensors(model, 'predict'), image)
            except Exception as error:  # whatever a network raises for a size, or for an operator of GPUs only
                raise InputError(f'{type(model).__name__} cannot compute an image of {shape[0]}x{shape[1]} on {device} '
                                 f'({type(error).__name__}: {cause(error)})') from error
    return Complexity(parameter_count(model)[''], operations)


def network_complexity(network: nn.Module, image: Tensor) -> Complexity:
    """Count parameters and multiply-adds of any network, the same for all, to compare them.

    Counted are convolutions, linear layers and products of matrices, those within PyTorch's fused attention too.
    Norms, most of which are folded where a network is used, activations, sums and pooling are not.

    Args:
        network (nn.Module): From images to tensors; it is set to eval mode.
        image (Tensor): (1, C, H, W).
    """
    analyzer = FlopAnalyzer(network.eval(), (image, ))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    uncounted = ('batch_norm', 'group_norm', 'layer_norm', 'instance_norm', 'adaptive_avg_pool2d',
                 'upsample_nearest2d', 'upsample_bilinear2d', 'grid_sampler')
    analyzer.set_op_handle(**{f'aten::{name}': lambda inputs, outputs: 0 for name in uncounted},
                           **{'aten::scaled_dot_product_attention': _attention})
    with torch.no_grad():
        return Complexity(parameter_count(network)[''], int(analyzer.total()))


def _attention(inputs, outputs) -> Counter[str]:
    """Multiply-adds of q·kᵀ and of its product with v: q (…, L, E), k (…, S, E), v (…, S, F)."""
    query, key, value = (get_shape(given) for given in inputs[:3])
    return Counter(attention=prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _count(function: nn.Module, image: Tensor) -> int:
    analyzer = FlopAnalyzer(function, (image, ))
    # What it does not count it lists in warnings, a dozen lines; complexity's docstring says it.
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analyzer.total())


@contextmanager
def _all_proposals(model: BaseModel) -> Iterator[None]:
    """Let the first stage of a detector suppress no proposals: how many are left would depend on the weights."""
    head: Any = getattr(model, 'rpn_head', None)
    given = getattr(head, 'test_cfg', None)
    if given:
        head.test_cfg = copy.deepcopy(given)
        head.test_cfg.update(nms=dict(given.get('nms') or {}, type='nms', iou_threshold=1.0), min_bbox_size=-1)
    try:
        yield
    finally:
        if given:
            head.test_cfg = given


class _Tensors(nn.Module):
    """What of a model is counted, as a function of the image tensor to tensors."""

    def __init__(self, model: BaseModel, mode: str):
        super().__init__()
        self.model = model
        self.mode = mode

    def forward(self, image):
        if hasattr(self.model, 'head') and hasattr(self.model, 'extract_feat'):  # mmpretrain
            return self.model.extract_feat(image)
        return list(tensors_in(self.model(image, samples_of(image), mode=self.mode)))


def samples_of(images: Tensor) -> list[BaseDataElement]:
    """What a detector or segmentor is told of its images; detectors of two stages and transformers ask for it."""
    shape = tuple(map(int, images.shape[2:]))  # while it is traced, sizes are tensors
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))
    return [BaseDataElement(metainfo=meta) for _ in images]


def tensors_in(found) -> Iterator[Tensor]:
    """All tensors in whatever a model gives: PyTorch can trace nothing else."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, BaseDataElement):
        yield from tensors_in(list(found.values()))
    elif isinstance(found, dict):
        yield from tensors_in(list(found.values()))
    elif isinstance(found, (list, tuple)):
        for part in found:
            yield from tensors_in(part)


def config_complexity(cfg: Config, shape: tuple[int, int] | None = None
                      ) -> tuple[tuple[int, int], dict[str, Complexity]]:
    """Complexity of a config's model in training and in deployed form.

    Args:
        cfg (Config): Of any of the three tasks.
        shape (tuple[int, int], optional): Height and width of the image. Defaults to
            :func:`native_shape`.

    Returns:
        tuple[tuple[int, int], dict[str, Complexity]]: The shape, and by form ``'training'`` (which
        a model that is deployed already lacks) and ``'deployed'``.

    Raises:
        InputError: If ``shape`` is not given and the config has no one size, or the model cannot compute it.
    """
    shape = shape or native_shape(cfg)
    in_channels = (cfg.model.get('backbone') or {}).get('in_channels', 3)
    forms = dict(training=cfg, deployed=copy.deepcopy(cfg))
    set_deploy(forms['deployed'].model, DEPLOYABLE)
    if forms['training'].model == forms['deployed'].model:
        del forms['training']
    return shape, {name: complexity(_without_weights(form), shape, in_channels) for name, form in forms.items()}


def _without_weights(cfg: Config) -> BaseModel:
    """A config's model with weights of 0: what is computed of what it finds would depend on random ones."""
    model = build_model(cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model
