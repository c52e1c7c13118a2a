"""PyTorch: computes TorchScript (``.pt``) and exported programs (``.pt2``)."""
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmone.errors import InputError

from .metadata import KEY


def open_model(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str | None, Callable]:
    """The text of a file's metadata, and a function from images to named outputs."""
    import torch
    import torchvision  # noqa: F401  registers torchvision::nms
    found: dict = {KEY: ''}  # text or bytes, as PyTorch's versions read it
    if path.suffix == '.pt':
        function = torch.jit.load(str(path), map_location='cpu', _extra_files=found)
    else:
        function = torch.export.load(str(path), extra_files=found).module()
    meta = found[KEY].decode() if isinstance(found[KEY], bytes) else found[KEY]
    names = json.loads(meta)['outputs'] if meta else []

    def compute(images):
        with torch.inference_mode(), _threads(threads):
            try:
                outputs = function(torch.from_numpy(images))
            except AssertionError as error:  # torch.export's, for what it took from its example
                raise InputError(f'images {tuple(images.shape)} do not fit the exported program ({error}): '
                                 'export it in a size nearer to theirs') from None
        return {name: output.numpy() for name, output in zip(names, outputs)}

    return meta, compute


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute in ``count`` threads, until the block ends: PyTorch's number is one for the process."""
    import torch
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count:
            torch.set_num_threads(before)
