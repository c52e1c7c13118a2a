"""Reading and changing the tree of a config."""
from collections.abc import Collection, Iterator


def walk(node) -> Iterator[dict]:
    """All dicts in a tree of a config, parents first."""
    if isinstance(node, dict):
        yield node
    children = node.values() if isinstance(node, dict) else node
    for child in children if isinstance(node, (dict, list, tuple)) else ():
        yield from walk(child)


def type_name(node: dict) -> str:
    """The ``type`` of a config's dict without its scope, ``''`` if it has none."""
    kind = node.get('type')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def set_deploy(model: dict, kinds: Collection[str] = ('MobileOne', )) -> int:
    """Set ``deploy=True`` in every part of a model's config that is of one of ``kinds``.

    Returns:
        int: How many there are.
    """
    parts = [node for node in walk(model) if type_name(node) in kinds]
    for part in parts:
        part['deploy'] = True
    return len(parts)


def dataset_of(loader: dict | None) -> dict:
    """The data set of a data loader's config, out of whatever wraps it; empty if there is none."""
    dataset = (loader or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset
