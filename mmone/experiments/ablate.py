"""Run an ablation: the configs of its rows and seeds, their trainings, and the report."""
from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.config import Config

from mmone.errors import InputError
from mmone.experiments.ablation_report import TABLE, write_report
from mmone.experiments.ablations import find_ablation, row_configs
from mmone.experiments.runs import Run, finish, write_config
from mmone.files import scratch_folder


def ablate(name: str, cfg: Config, seeds: Sequence[int], folder: Path,
           listen: Callable[[Run, int, int], None] = lambda run, epochs, total: None) -> Path:
    """Train the rows of an ablation that are not trained yet, and write what they say.

    Args:
        name (str): Of :data:`~mmone.experiments.ablations.ABLATIONS`.
        cfg (Config): A classifier's with a MobileOne that trains from scratch by epochs.
        seeds (Sequence[int]): Each row is trained with each.
        folder (Path): Gets a folder a row, with the config, checkpoints and logs of every seed; table and picture.
        listen (Callable): Is told of the run under way, the epochs that all runs have, and of how many.

    Returns:
        Path: The table.

    Raises:
        InputError: For what a user can mend.
    """
    ablation = find_ablation(name)
    if len(set(seeds)) < len(seeds):
        raise InputError(f'seeds {", ".join(map(str, seeds))}: each may be given once', parameter='seeds')
    configs = row_configs(ablation, cfg)
    folder.mkdir(parents=True, exist_ok=True)
    # Held until the end: two that train in one folder would read each other's logs.
    with scratch_folder(folder / TABLE.removesuffix('.md')):
        runs = {row: {seed: _written(changed, seed, folder / _file_name(row.label)) for seed in seeds}
                for row, changed in configs.items()}
        every = [run for of_row in runs.values() for run in of_row.values()]
        total = sum(run.max_epochs for run in every)
        finish(every, lambda run, epochs: listen(run, epochs, total))
        histories = {row: {seed: run.history() for seed, run in of_row.items()} for row, of_row in runs.items()}
        return write_report(ablation, histories, Path(cfg.filename).name, folder)


def _written(cfg: Config, seed: int, folder: Path) -> Run:
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    return write_config(folder / f'seed{seed}.py', cfg)


def _file_name(label: str) -> str:
    return label.lower().replace(' ', '-').replace('=', '')
