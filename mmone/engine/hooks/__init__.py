from .class_count_hook import ClassCountHook
from .deploy_hook import DeployHook
from .epoch_seed_hook import EpochSeedHook

__all__ = ['ClassCountHook', 'DeployHook', 'EpochSeedHook']
