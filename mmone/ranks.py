"""A process's place among those of a distributed run, as its launcher tells it: by environment variables."""
import os

# By the name that mmengine has for a launcher: what it calls that which torch.distributed reads.
LAUNCHERS = {
    'pytorch': dict(RANK='RANK', WORLD_SIZE='WORLD_SIZE', LOCAL_RANK='LOCAL_RANK'),
    'slurm': dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID'),
    'mpi': dict(RANK='OMPI_COMM_WORLD_RANK', WORLD_SIZE='OMPI_COMM_WORLD_SIZE',
                LOCAL_RANK='OMPI_COMM_WORLD_LOCAL_RANK'),
}


def is_first() -> bool:
    """Whether this is rank 0, or the only process. Known before torch.distributed is set up."""
    return all(os.environ.get(names['RANK'], '0') == '0' for names in LAUNCHERS.values())


def set_for_torch(launcher: str) -> None:
    """Put the place that a launcher tells where torch.distributed reads it."""
    for name, given in LAUNCHERS[launcher].items():
        if given in os.environ:
            os.environ[name] = os.environ[given]
