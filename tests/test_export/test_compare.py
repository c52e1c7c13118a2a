"""What counts as the same answer."""
import numpy as np
import pytest

from mmone.export.compare import agreement, compare


def boxes(*rows):
    """The answer of one image: x1, y1, x2, y2, score and label of each box."""
    array = np.float32(rows).reshape(-1, 6)
    return dict(boxes=array[None, :, :5], labels=array[None, :, 5].astype(int))


A, B, C = (0, 0, 10, 10, 0.9, 1), (20, 20, 50, 60, 0.5, 0), (30, 0, 40, 20, 0.2, 2)


def test_boxes():
    same = compare('detection', [boxes(A, B, C)], [boxes(B, C, A)])
    assert same.within and same.measures == dict(boxes=3, unmatched=0, box=0, box_score=0)
    moved = compare('detection', [boxes(A, B)], [boxes((0.25, 0, 10, 10, 0.9005, 1), B)])
    assert moved.within and moved.measures['box'] == 0.25
    for other in [boxes((0.75, 0, 10, 10, 0.9, 1), B, C), boxes((0, 0, 10, 10, 0.9, 2), B, C),
                  boxes((0, 0, 10, 10, 0.89, 1), B, C), boxes(B, C), boxes(A, A, B, C),
                  boxes(A, B, C, (60, 60, 70, 70, 0.4, 0)), boxes()]:
        assert not compare('detection', [boxes(A, B, C)], [other]).within


def test_which_of_two_equals_is_the_last_box_does_not_count():
    end, other = (60, 60, 70, 70, 0.1, 0), (80, 80, 90, 90, 0.1002, 3)
    assert compare('detection', [boxes(A, B, end)], [boxes(A, B, other)]).within
    assert not compare('detection', [boxes(A, end, B)], [boxes(A, end)]).within


def test_twins_are_told_apart_by_their_scores():
    twins = [(0, 0, 10, 10, 0.9, 1), (0.1, 0, 10, 10, 0.3, 1)]
    assert compare('detection', [boxes(*twins)], [boxes(*twins[::-1])]).within


def test_scores_and_pixels():
    scores = np.float32([[0.2, 0.8]])
    assert compare('classification', [dict(scores=scores)], [dict(scores=scores + 5e-5)]).within
    assert not compare('classification', [dict(scores=scores)], [dict(scores=scores + 5e-4)]).within
    assert compare('classification', [dict(scores=scores)], [dict(scores=scores + 5e-4)], half=True).within
    labels = np.zeros((1, 100, 100), int)
    for wrong, within in ((10, True), (11, False)):
        other = labels.copy()
        other.flat[:wrong] = 1
        assert compare('segmentation', [dict(labels=labels)], [dict(labels=other)]).within is within


# Agreement of decisions

def test_agreement_of_classes():
    a = dict(scores=np.float32([[0.1, 0.9], [0.6, 0.4]]))
    b = dict(scores=np.float32([[0.2, 0.8], [0.4, 0.6]]))
    found = agreement('classification', [a], [b], 0.5)
    assert (found.measures['agreement'], found.within) == (0.5, True)
    assert found.text == '50.0% of 2 images have the same best class'
    assert not agreement('classification', [a], [b], 0.51).within


def test_agreement_of_pixels():
    a, b = (dict(labels=np.int32([[[0, 1], [2, last]]])) for last in (2, 3))
    assert agreement('segmentation', [a], [b], 1).measures['agreement'] == 0.75


@pytest.mark.parametrize('others, labels, expected', [
    ([[0, 0, 10, 10, 0.9], [20, 20, 30, 30, 0.8]], [0, 1], 1.0),
    ([[20, 20, 30, 30, 0.8], [0, 0, 10, 10, 0.9]], [1, 0], 1.0),  # in another order
    ([[0, 0, 10, 10, 0.9], [20, 20, 30, 30, 0.8]], [0, 0], 0.5),  # another class
    ([[0, 0, 10, 6, 0.9], [20, 20, 30, 24, 0.8]], [0, 1], 0.5),  # IoUs of 0.6 and 0.4
    ([[0, 0, 10, 10, 0.9], [20, 20, 30, 30, 0.2]], [0, 1], 2 / 3),  # one is not counted
    ([[0, 0, 10, 10, 0.2], [20, 20, 30, 30, 0.2]], [0, 1], 0.0),
    ([[0, 0, 10, 10, 0.9], [0, 0, 10, 9, 0.8]], [0, 0], 0.5)])  # two for one
def test_agreement_of_boxes(others, labels, expected):
    a = dict(boxes=np.float32([[[0, 0, 10, 10, 0.9], [20, 20, 30, 30, 0.8], [0, 0, 9, 9, 0.1]]]),
             labels=np.int32([[0, 1, 2]]))
    b = dict(boxes=np.float32([others]), labels=np.int32([labels]))
    assert agreement('detection', [a], [b], 0).measures['agreement'] == pytest.approx(expected)
    assert agreement('detection', [b], [a], 0).measures['agreement'] == pytest.approx(expected)


def test_two_answers_without_boxes_agree():
    none = dict(boxes=np.zeros((1, 1, 5), np.float32), labels=np.full((1, 1), -1))
    assert agreement('detection', [none], [none], 1).within
