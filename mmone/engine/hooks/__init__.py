from .class_count_hook import ClassCountHook
from .deploy_hook import DeployHook

__all__ = ['ClassCountHook', 'DeployHook']
