"""The loss of a validation."""
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric

from mmone.registry import METRICS


@METRICS.register_module()
class CrossEntropy(BaseMetric):
    """Mean cross-entropy of a classifier's scores, as ``validation/cross_entropy``.

    The loss on data that it is not trained on, of one label an image and without smoothing; mmpretrain computes losses
    in training alone.

    Args:
        collect_device (str): ``'cpu'`` or ``'gpu'``. Defaults to ``'cpu'``.
        prefix (str, optional): In place of ``'validation'``.
    """

    # Not "loss": mmengine logs the mean over up to ten validations of whatever has that in its name.
    default_prefix = 'validation'

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            # A score that is rounded to 0 would be an infinite loss.
            score = sample['pred_score'].float()[sample['gt_label']].clamp(min=torch.finfo(torch.float32).tiny)
            self.results.append(-score.log().mean().item())

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(cross_entropy=sum(results) / len(results))
