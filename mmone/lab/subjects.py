"""Models to be measured, by whatever they are asked for."""
import difflib
import hashlib
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from torch import nn

from mmone.apis import get_model
from mmone.config import build_model, load_config, native_shape, type_name
from mmone.errors import InputError
from mmone.files import sha256
from mmone.formats import SUFFIXES, format_of
from mmone.libraries import explain
from mmone.runtime import Runtime
from mmone.zoo import entries, find_config

from .ablation import NETWORKS
from .peers import PEERS, published
from .store import Model
from .subject import SIZE, Subject

# Which runtime computes an exported file, by its format.
RUNTIME_OF = dict(onnx='onnxruntime', openvino='openvino', ncnn='ncnn', litert='litert', coreml='coreml',
                  torchscript='torchscript', pt2='torch-export')


def find_subject(name: str) -> Subject:
    """The model of a name.

    Args:
        name (str): A peer's (:data:`.peers.PEERS`), a network's of the ablations, one of timm's, or one of the
            zoos' or a config's path, with weights as ``CONFIG=CHECKPOINT``; or the path of an exported file, which
            is measured whole, with what it does before and after the network. A config's model is measured without
            that: what ``mode='tensor'`` gives.

    Raises:
        InputError: If there is none; says which names are nearest.
    """
    if name in PEERS:
        return _peer(name)
    if name in NETWORKS:
        return Subject(Model(name, 'mmone', 'ablation'), 'mmone.lab.ablation:AblationNet', NETWORKS[name])
    given, _, checkpoint = name.partition('=')
    if format_of(given) is not None:
        return _exported(given)
    if given.endswith('.py') or '::' in given or given in entries():
        return _configured(given, checkpoint or None)
    return _of_timm(name)


def _peer(name: str) -> Subject:
    peer = PEERS[name]
    top1, source = published(name)
    _need(peer.package)
    return Subject(Model(name, peer.package, peer.family, top1=top1, top1_source=source),
                   'mmone.lab.peers:build', dict(name=name))


def _exported(path: str) -> Subject:
    meta = Runtime(path).meta
    given, runtime = meta['input'], RUNTIME_OF[str(format_of(path))]
    name = f'{Path(path).name}@{meta["sha256"][:8]}'  # another export to the same place is another model
    precision = 'int8' if meta.get('int8') else 'float16' if meta.get('half') else 'float32'
    return Subject(Model(name, 'file', meta['task']), path=str(Path(path).absolute()), runtime=runtime,
                   precision=precision, shape=(given['height'], given['width']))


def _configured(name: str, checkpoint: str | None) -> Subject:
    cfg, _ = find_config(name)
    if checkpoint and not Path(checkpoint).is_file():
        raise InputError(f'checkpoint {checkpoint} does not exist')
    digest = hashlib.sha256(cfg.pretty_text.encode()).hexdigest() + (sha256(checkpoint) if checkpoint else '')
    paths = dict(config=str(cfg.filename), checkpoint=checkpoint and str(Path(checkpoint).absolute()))
    title = Path(name).stem + (f'={Path(checkpoint).name}' if checkpoint else '')
    return Subject(Model(title, 'mmone', _family(cfg)), 'mmone.lab.subjects:build_config', paths,
                   shape=native_shape(cfg), digest=digest)


def _family(cfg: Config) -> str:
    """A classifier's is its backbone's name; others are apart from classifiers in a report."""
    task = dict(mmdet='detection', mmseg='segmentation').get(cfg.get('default_scope'))
    return task or type_name(cfg.model.get('backbone') or {}).lower() or 'classification'


def build_config(config: str, checkpoint: str | None = None) -> nn.Module:
    """A config's model with its branches, of random weights or a checkpoint's."""
    return get_model(config, checkpoint, 'cpu', deploy=False) if checkpoint else build_model(load_config(config))


def _of_timm(name: str) -> Subject:
    try:
        from timm import get_pretrained_cfg, is_model, list_models
    except ModuleNotFoundError:
        known, here = [], False
    else:
        known, here = list_models(), is_model(name)
    if not here:
        names = list(dict.fromkeys([*PEERS, *NETWORKS, *entries(), *known]))
        nearest = difflib.get_close_matches(name, names, n=3, cutoff=0)
        raise InputError(f'no model {name!r}: expected the name of a network of the lab, of timm or of the model zoo, '
                         f'a config file or an exported file ({", ".join(SUFFIXES)}); the nearest names are '
                         f'{", ".join(nearest)}')
    given = get_pretrained_cfg(name)
    size = (given.input_size[1], given.input_size[2]) if given and given.fixed_input_size else SIZE
    return Subject(Model(name, 'timm', name.partition('_')[0].rstrip('0123456789')), 'mmone.lab.peers:timm',
                   dict(name=name), shape=size)


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise InputError(explain(ModuleNotFoundError(f'No module named {package!r}', name=package)) or package)
