"""The rank of this process in a distributed run, from the environment variables of its launcher."""
import os

# For each launcher of mmengine: its names for the variables that torch.distributed reads.
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
    """Copy the variables of a launcher to those that torch.distributed reads."""
    for name, given in LAUNCHERS[launcher].items():
        if given in os.environ:
            os.environ[name] = os.environ[given]
