"""Models that learn from others while they train: what is trained, saved and deployed is the student alone."""
from mmone.registry import MODELS

# Functions, so that a task's library is imported for its own models only.


@MODELS.register_module(name='DistilledClassifier')
def _build_classifier(**cfg):
    from .classifier import DistilledClassifier
    return DistilledClassifier(**cfg)


@MODELS.register_module(name='DistilledSegmentor')
def _build_segmentor(**cfg):
    from .segmentor import DistilledSegmentor
    return DistilledSegmentor(**cfg)
