"""Accuracy on a data set that has some of the model's classes."""
from collections.abc import Sequence

from mmpretrain.evaluation import Accuracy

from mmone.errors import InputError
from mmone.registry import METRICS


@METRICS.register_module()
class RestrictedAccuracy(Accuracy):
    """mmpretrain's accuracy, of predictions that are restricted to the data set's classes.

    As ImageNet-A and ImageNet-R are evaluated by their authors: of the 1000 scores those of the data set's 200 classes
    compete. The data set's ``metainfo`` has ``model_classes``, the model's class of each of its labels; it may also
    only bring them into the model's order.

    Raises:
        InputError: If the data set has another number of classes, or the model has fewer.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the scores of a batch, each (number of the data set's classes, )."""
        meta = self.dataset_meta or {}
        classes, names = list(meta.get('model_classes', ())), meta.get('classes', ())
        if len(classes) != len(names):
            raise InputError(f'the data set has {len(names)} classes, its metainfo.model_classes {len(classes)}: look '
                             'whether its archive was unpacked as a whole, and nothing else is there')
        super().process(data_batch, data_samples)
        for result in self.results[-len(data_samples):]:
            if max(classes) >= len(result['pred_score']):
                raise InputError(f'the model has {len(result["pred_score"])} classes, the data set some of '
                                 f'{max(classes) + 1} or more: test a model of all of them')
            result['pred_score'] = result['pred_score'][classes]
