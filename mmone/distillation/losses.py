"""What a student's answers lose against a teacher's."""
import torch.nn.functional as F
from torch import Tensor


def soft_labels(logits: list[Tensor], temperature: float) -> Tensor:
    """The mean of what several teachers say: softmaxes of (N, C, ...) logits, each divided by the temperature."""
    return sum(F.softmax(each / temperature, dim=1) for each in logits) / len(logits)  # type: ignore[return-value]


def soft_label_loss(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """T² KL(soft ‖ softmax(logits / T)), the mean over images (https://arxiv.org/abs/1503.02531, section 2).

    T² keeps the gradients' size the same at any temperature. At T = 1 its gradients are those of the cross entropy
    with soft labels, MEAL V2's loss.

    Args:
        logits (Tensor): (N, C), the student's.
        soft (Tensor): (N, C) probabilities, of :func:`soft_labels` at the same temperature.
        temperature (float): T.
    """
    return temperature**2 * F.kl_div(F.log_softmax(logits / temperature, dim=1), soft, reduction='batchmean')


def channel_wise_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL between softmaxes over the positions, the mean over images and channels (https://arxiv.org/abs/2011.13256).

    Each channel of a map becomes a distribution over its H·W positions: where the class is, not how much of it.

    Args:
        logits (Tensor): (N, C, H, W), the student's.
        teacher (Tensor): (N, C, H', W'); the student's are resized to it.
        temperature (float): T.
    """
    if logits.shape[2:] != teacher.shape[2:]:
        logits = F.interpolate(logits, teacher.shape[2:], mode='bilinear', align_corners=False)
    student, taught = (each.flatten(2).flatten(0, 1) / temperature for each in (logits, teacher))
    return temperature**2 * F.kl_div(F.log_softmax(student, dim=1), F.softmax(taught, dim=1), reduction='batchmean')
