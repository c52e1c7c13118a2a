"""A classifier that learns from other classifiers."""
from collections.abc import Sequence

from mmpretrain.models import ImageClassifier
from torch import Tensor

from .losses import soft_label_loss, soft_labels
from .student import Student, checked


class DistilledClassifier(Student, ImageClassifier):
    """mmpretrain's ImageClassifier, trained by the soft labels of one or several teachers.

    Parameters, checkpoints, predictions and deployed forms are an ImageClassifier's, so what is trained is evaluated
    and shipped by the config without the teachers as well. By default as MEAL V2 has it
    (https://arxiv.org/abs/2009.08453), by which the paper's Table 10 was made: the teachers' probabilities are
    averaged and the data set's labels unused. MEAL V2's discriminator is left out: its authors' script has it off too.

    Args:
        teachers (Sequence[dict]): See :class:`~mmone.distillation.teachers.Teachers`. They see the student's own
            images, augmented and mixed as they are, in their own normalization.
        temperature (float): T of both softmaxes. Defaults to 1.
        soft_weight (float): Weight of the loss against the teachers, ``loss_distill``. Defaults to 1.
        hard_weight (float): Weight of the head's own losses, by the data set's labels. Defaults to 0, which leaves
            them out.
        **kwargs: ImageClassifier's.

    Raises:
        InputError: If there is no teacher, or one has no weights or other classes.
    """

    def __init__(self, *args, teachers: Sequence[dict], temperature: float = 1., soft_weight: float = 1.,
                 hard_weight: float = 0., **kwargs):
        super().__init__(*args, teachers=teachers, scope='mmpretrain', temperature=temperature,
                         soft_weight=soft_weight, **kwargs)
        self.hard_weight = checked('hard_weight', hard_weight)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """``loss_distill`` and, weighted, the head's losses, of (N, 3, H, W) images."""
        feats = self.extract_feat(inputs)
        logits = self.head(feats)
        soft = soft_labels(self.teachers(inputs, logits.shape[1]), self.temperature)
        losses = dict(loss_distill=self.soft_weight * soft_label_loss(logits, soft, self.temperature))
        if self.hard_weight:
            losses.update({name: self.hard_weight * loss if 'loss' in name else loss
                           for name, loss in self.head.loss(feats, data_samples).items()})
        return losses
