"""Whether weights are those of a model, outside its backbone, and under its names."""
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmone.checkpoints.download import DownloadError
from mmone.checkpoints.io import state_dict_of
from mmone.checkpoints.loading import as_given, reading_safely
from mmone.checkpoints.sources import find, taken_from, task_of, the_one
from mmone.errors import InputError
from mmone.models import MobileOne


def load_whole(model: nn.Module, weights: str, trust: bool) -> dict:
    """Load all weights of a model, strictly, and return the checkpoint.

    Args:
        model (nn.Module): The model to load into.
        weights (str): Checkpoint of any source that mmone knows, in either form, a file or a URL.
        trust (bool): Allow a checkpoint that can run code.

    Raises:
        InputError: If it cannot be read, or is not of this model.
    """
    try:
        with reading_safely(trust):
            checkpoint = CheckpointLoader.load_checkpoint(weights, map_location='cpu', logger='silent')
    except DownloadError as error:
        raise InputError(error.message, parameter='weights') from None
    state_dict = named_for(model, state_dict_of(checkpoint))
    check_fit(model, state_dict, weights, whole=True)
    load_strictly(model, state_dict, weights, 'model')
    return checkpoint


def load_strictly(model: nn.Module, state_dict: dict[str, Tensor], source: str, owner: str) -> None:
    """Load weights, or raise InputError in one line: what does not fit of ``source``, and whose it should be."""
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        reason = '; '.join(line.strip() for line in str(error).split('\n')[1:3])
        raise InputError(f'checkpoint {source} does not fit the {owner}: {reason}') from None


def named_for(model: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of a model, if they are a MobileOne's of another source, or wrapped.

    Args:
        model (nn.Module): The model to load into.
        state_dict (dict[str, Tensor]): As a file has it, or as mmengine's loading has brought it from there.

    Raises:
        InputError: If a key of a known source is unknown.
    """
    given = as_given(state_dict)
    backbones = _backbones(model)
    if any(key.startswith(f'{backbone}stage0.') for key in given for backbone in backbones):
        return given
    place = the_one(find(given)) if backbones else None
    return given if place is None else taken_from(given, place)


def check_fit(model: nn.Module, state_dict: dict[str, Tensor], source: str, whole: bool) -> None:
    """Raise InputError where mmengine would load what fits and leave the rest as it is.

    The MobileOne backbone is left out where there is something for it: it checks itself when it loads.

    Args:
        model (nn.Module): The model to load into.
        state_dict (dict[str, Tensor]): The weights, under mmone's names.
        source (str): The checkpoint, for the message.
        whole (bool): Whether all weights of the model must be there. Otherwise something must be, and of
            what is there only a classifier's head of another number of classes is refused: detectors and
            segmentors are commonly fine-tuned from weights of other classes.

    Raises:
        InputError: Says how many classes both have, or what is missing.
    """
    check_backbone(model, state_dict, source, whole)
    backbones = _backbones(model)
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
        others, ours = task_of(state_dict), task_of(own)
        if others and (not ours or ours[0] != others[0]):
            raise InputError(f"checkpoint {source} is a {others[0]}'s ({others[1]}), but the model is a "
                             f"{ours[0] if ours else 'classifier'} ({missing[0]}): give a checkpoint of this model")
        raise InputError(
            f'checkpoint {source} has no weights for {missing[0]}' + (
                f' and {len(missing) - 1} more' if missing[1:] else '') +
            ': give a checkpoint of the whole model')


def check_backbone(model: nn.Module, state_dict: dict[str, Tensor], source: str, whole: bool) -> None:
    """Raise InputError if there is nothing for a model's MobileOne: at all, or while nothing else fits either."""
    backbones = _backbones(model)
    if not backbones or any(key.startswith(backbones) for key in state_dict):
        return
    if whole or not state_dict.keys() & model.state_dict().keys():
        raise InputError(f'checkpoint {source} has no weights for the MobileOne backbone ({backbones[0]}stage0.…): '
                         'give a MobileOne checkpoint')


def _backbones(model: nn.Module) -> tuple[str, ...]:
    return tuple(f'{name}.' if name else '' for name, module in model.named_modules() if isinstance(module, MobileOne))
