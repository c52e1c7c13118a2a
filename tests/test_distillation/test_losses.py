"""What a student loses against a teacher, by hand and against PyTorch's cross entropy."""
import math

import pytest
import torch
import torch.nn.functional as F

from mmone.distillation.losses import channel_wise_loss, soft_label_loss, soft_labels


def test_soft_labels_are_the_mean_of_probabilities():
    # softmax(0, ln 3) = (1/4, 3/4) and softmax(0, 0) = (1/2, 1/2)
    mean = soft_labels([torch.tensor([[0., math.log(3)]]), torch.zeros(1, 2)], temperature=1)
    assert mean.tolist() == [[pytest.approx(3 / 8), pytest.approx(5 / 8)]]


def test_temperature_divides_the_logits():
    assert torch.equal(soft_labels([torch.tensor([[0., 4.]])], 4), torch.tensor([[0., 1.]]).softmax(1))


def test_soft_label_loss_by_hand():
    # KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln(3/2) + 1/4 ln(1/2), the mean of two images of which one agrees.
    logits, soft = torch.zeros(2, 2), torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    assert soft_label_loss(logits, soft, 1).item() == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2)


def test_soft_label_loss_is_zero_for_the_teacher_itself():
    logits = torch.randn(3, 5, dtype=torch.float64)
    assert soft_label_loss(logits, soft_labels([logits], 3), 3).item() == pytest.approx(0, abs=1e-12)


def test_gradients_are_those_of_the_cross_entropy_with_soft_labels():
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    soft = torch.randn(4, 6, dtype=torch.float64).softmax(1)
    ours, = torch.autograd.grad(soft_label_loss(logits, soft, 1), logits)
    theirs, = torch.autograd.grad(F.cross_entropy(logits, soft), logits)
    torch.testing.assert_close(ours, theirs)


def test_gradients_keep_their_size_at_a_high_temperature():
    # At T → ∞ the gradient is (student − teacher) / C / N for logits of mean zero: Hinton et al., section 2.1.
    student = torch.randn(2, 5, dtype=torch.float64)
    student = (student - student.mean(1, keepdim=True)).requires_grad_()
    teacher = torch.randn(2, 5, dtype=torch.float64)
    teacher -= teacher.mean(1, keepdim=True)
    gradient, = torch.autograd.grad(soft_label_loss(student, soft_labels([teacher], 1e4), 1e4), student)
    torch.testing.assert_close(gradient, (student - teacher).detach() / 5 / 2, atol=1e-4, rtol=1e-3)


def test_channel_wise_loss_by_loops():
    student, teacher, temperature = torch.randn(2, 3, 2, 4), torch.randn(2, 3, 2, 4), 4
    expected = 0.
    for n in range(2):
        for c in range(3):
            p = (teacher[n, c].flatten() / temperature).softmax(0)
            q = (student[n, c].flatten() / temperature).softmax(0)
            expected += sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist()))
    expected *= temperature**2 / (2 * 3)
    assert channel_wise_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-4)


def test_channel_wise_loss_sees_places_not_amounts():
    teacher = torch.randn(1, 3, 4, 4)
    assert channel_wise_loss(teacher + torch.tensor([1., -5., 2.]).view(1, 3, 1, 1), teacher, 4).item() == (
        pytest.approx(0, abs=1e-6))
    assert channel_wise_loss(teacher.flip(3), teacher, 4).item() > 0.01


def test_maps_of_two_sizes():
    student = torch.randn(1, 2, 4, 4)
    larger = F.interpolate(student, (8, 8), mode='bilinear', align_corners=False)
    assert channel_wise_loss(student, larger, 1).item() == pytest.approx(0, abs=1e-6)
