"""Which versions of its foundations mmone is tested with, and what it uses of them beyond their public API."""
from importlib.metadata import PackageNotFoundError, version

from mmengine.config import DictAction
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import digit_version

from .version import __version__

# distribution names, the first that is installed counts -> (minimum, first unsupported)
SUPPORTED = {
    ('mmengine', 'mmengine-lite'): ('0.8.0', '1.0.0'),
    ('mmcv', 'mmcv-lite'): ('2.0.0', '2.2.0'),
}


def _installed(names):
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def check_versions() -> None:
    """Raise ImportError if mmengine or mmcv is absent or outside the supported range."""
    for names, (minimum, unsupported) in SUPPORTED.items():
        found = _installed(names)
        if found is None or not (
                digit_version(minimum) <= digit_version(found) < digit_version(unsupported)):
            raise ImportError(
                f'mmone {__version__} supports {names[0]}>={minimum},<{unsupported}, found '
                f'{found or "none"}: pip install "{names[0]}>={minimum},<{unsupported}"')


def parse_option(value: str):
    """The Python value of an override's text, as mmengine's own command lines read it.

    ``DictAction._parse_iterable``, seen in mmengine 0.8 to 0.10.
    """
    return DictAction._parse_iterable(value)


def registered_loaders() -> dict:
    """mmengine's checkpoint loaders by the prefix of the names that they are for.

    ``CheckpointLoader._schemes``, seen in mmengine 0.8 to 0.10.
    """
    return dict(CheckpointLoader._schemes)
