"""Weights change form: names, branches or none, statistics."""
from .expand import expand
from .reparameterize import (
    DeployReport,
    deployables,
    deployed_checkpoint,
    deployed_copy,
    reparameterize_checkpoint,
    switch_to_deploy,
)

__all__ = [
    'DeployReport', 'deployables', 'deployed_checkpoint', 'deployed_copy', 'expand', 'reparameterize_checkpoint',
    'switch_to_deploy'
]
