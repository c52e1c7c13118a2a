"""How large a model is and how much it computes."""
import copy
from dataclasses import dataclass

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from mmone.config import build_model, native_shape, set_deploy

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
    only. Detectors and segmentors are counted whole, without post-processing.

    Args:
        model (BaseModel): A model of mmpretrain, mmdet or mmseg; it is set to eval mode.
        shape (tuple[int, int]): Height and width of the image.
        in_channels (int): Channels of the image. Defaults to 3.
    """
    model = model.eval()
    device = next(model.parameters()).device
    image = torch.zeros(1, in_channels, *shape, device=device)
    analyzer = FlopAnalyzer(_Tensors(model), (image, ))
    # What it does not count it lists in warnings, a dozen lines; the docstring says it.
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return Complexity(parameter_count(model)[''], analyzer.total())


class _Tensors(nn.Module):
    """What of a model is counted, as a function of the image tensor."""

    def __init__(self, model: BaseModel):
        super().__init__()
        self.model = model

    def forward(self, image):
        if hasattr(self.model, 'head') and hasattr(self.model, 'extract_feat'):  # mmpretrain
            return self.model.extract_feat(image)
        return self.model(image, mode='tensor')


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
        InputError: If ``shape`` is not given and the config has no one size.
    """
    shape = shape or native_shape(cfg)
    in_channels = (cfg.model.get('backbone') or {}).get('in_channels', 3)
    forms = dict(training=cfg, deployed=copy.deepcopy(cfg))
    set_deploy(forms['deployed'].model, DEPLOYABLE)
    if forms['training'].model == forms['deployed'].model:
        del forms['training']
    return shape, {name: complexity(build_model(form), shape, in_channels) for name, form in forms.items()}
