"""Whether weights are those of a model, outside its backbone."""
from torch import Tensor, nn

from mmone.errors import InputError
from mmone.models import MobileOne


def check_fit(model: nn.Module, state_dict: dict[str, Tensor], source: str, whole: bool) -> None:
    """Raise InputError where mmengine would load what fits and leave the rest as it is.

    The MobileOne backbone is left out: it checks itself when it loads, and it says more about a
    checkpoint that has nothing for it.

    Args:
        model (nn.Module): The model to load into.
        state_dict (dict[str, Tensor]): The weights, under mmone's names.
        source (str): The checkpoint, for the message.
        whole (bool): Whether all weights of the model must be there. Otherwise only a
            classifier's head of another number of classes is refused: detectors and segmentors
            are commonly fine-tuned from weights of other classes.

    Raises:
        InputError: Says how many classes both have, or what is missing.
    """
    backbones = tuple(f'{name}.' if name else '' for name, module in model.named_modules()
                      if isinstance(module, MobileOne))
    if backbones and not any(key.startswith(backbones) for key in state_dict):
        return
    own = {key: value for key, value in model.state_dict().items()
           if not key.startswith(backbones) and not key.endswith('num_batches_tracked')}
    for key, value in own.items():
        given = state_dict.get(key)
        if given is not None and given.shape != value.shape and (whole or key.startswith('head.')):
            if key == 'head.fc.weight' and backbones and given.shape[1:] != value.shape[1:]:
                return  # the head of another variant, as the backbone will say
            if key == 'head.fc.weight':
                raise InputError(
                    f'checkpoint {source} has a classifier of {len(given)} classes but the model '
                    f'has {len(value)}: set model.head.num_classes={len(given)}, or to fine-tune '
                    'convert the checkpoint without its head', parameter='drop_head')
            raise InputError(f'checkpoint {source} does not fit the model: {key} is '
                             f'{tuple(given.shape)} where the model has {tuple(value.shape)}')
    missing = [key for key in own if key not in state_dict]
    if whole and missing:
        raise InputError(
            f'checkpoint {source} has no weights for {missing[0]}' + (
                f' and {len(missing) - 1} more' if missing[1:] else '') +
            ': give a checkpoint of the whole model')
