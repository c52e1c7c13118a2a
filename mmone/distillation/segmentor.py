"""A segmentor that learns from other segmentors."""
from collections.abc import Sequence

from mmseg.models import EncoderDecoder
from torch import Tensor

from .losses import channel_wise_loss
from .student import Student


class DistilledSegmentor(Student, EncoderDecoder):
    """mmseg's EncoderDecoder, trained by its labels and by where its teachers see each class.

    Channel-wise distillation of the logits (https://arxiv.org/abs/2011.13256): ``decode.loss_distill`` beside the
    losses that there are, the mean over the teachers. Parameters, checkpoints, predictions and deployed forms are
    an EncoderDecoder's.

    Args:
        teachers (Sequence[dict]): See :class:`~mmone.distillation.teachers.Teachers`.
        temperature (float): T of the softmaxes over positions. Defaults to 4.
        soft_weight (float): Weight of the loss against the teachers. Defaults to 3.
        **kwargs: EncoderDecoder's.

    Raises:
        InputError: If there is no teacher, or one has no weights or other classes.
    """

    def __init__(self, *args, teachers: Sequence[dict], temperature: float = 4., soft_weight: float = 3., **kwargs):
        super().__init__(*args, teachers=teachers, scope='mmseg', temperature=temperature, soft_weight=soft_weight,
                         **kwargs)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """The losses of the heads and ``decode.loss_distill``, of (N, 3, H, W) images."""
        feats = self.extract_feat(inputs)
        logits = self.decode_head(feats)
        taught = self.teachers(inputs, logits.shape[1])
        losses = {f'decode.{name}': loss for name, loss in self.decode_head.loss_by_feat(logits, data_samples).items()}
        losses['decode.loss_distill'] = self.soft_weight / len(taught) * sum(
            channel_wise_loss(logits, each, self.temperature) for each in taught)
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(feats, data_samples))
        return losses
