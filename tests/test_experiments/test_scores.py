"""Metrics of weighted images: by hand, and as pycocotools has them of images that are there twice."""
from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from mmone.experiments.comparison.scores import Areas, Hits, Matches, _coco
from mmone.experiments.comparison.test_set import Answer

ONE = np.ones((1, 2))


def annotated(truths: list[Answer], classes: int, ignore: int = 255):
    """A test set of that."""
    class Fake(SimpleNamespace):
        def __len__(self):
            return len(truths)

    return Fake(truth=lambda index: truths[index], classes=tuple(map(str, range(classes))), ignore=ignore)


# Classification


def test_hits_by_hand():
    truths = [dict(label=np.array(label)) for label in (0, 1, 5)]
    scores = [[.5, .1, .1, .1, .1, .1], [.3, .2, .1, .1, .2, .1], [.2, .2, .2, .2, .2, 0]]
    found = Hits.of(annotated(truths, 6), [dict(scores=np.array(row)) for row in scores])
    assert found.ranks.tolist() == [0, 1, 5] and found.right.tolist() == [True, False, False]
    assert found.metrics == ('top-1', 'top-5')
    weights = np.array([[1, 1, 1], [2, 1, 0], [0, 0, 3]])
    assert found.weighted(weights) == pytest.approx(100 / 3 * np.array([[1, 2], [2, 3], [0, 0]]))
    assert found.by_class() == pytest.approx([100, 0, np.nan, np.nan, np.nan, 0], nan_ok=True)


def test_of_equal_scores_the_first_is_the_answer():
    truths = [dict(label=np.array(label)) for label in (0, 1)]
    found = Hits.of(annotated(truths, 2), [dict(scores=np.array([.5, .5]))] * 2)
    assert found.right.tolist() == [True, False] and found.metrics == ('top-1', )


# Segmentation


def test_areas_by_hand():
    truths = [dict(labels=np.array([[0, 0], [1, 9]])), dict(labels=np.array([[1, 1], [1, 1]]))]
    found = Areas.of(annotated(truths, 3, ignore=9), [dict(labels=np.array([[0, 1], [1, 1]], np.uint8)),
                                                      dict(labels=np.array([[1, 1], [1, 0]], np.uint8))])
    # Class 0: 1 right of 2 true and 2 given, 1/3; class 1: 4 right of 5 and 5, 4/6; class 2 is nowhere.
    assert found.weighted(ONE) == pytest.approx(100 * np.array([[0.5, 5 / 7]]))
    assert found.by_class() == pytest.approx([100 / 3, 200 / 3, np.nan], nan_ok=True)
    # The first image alone, twice: 1/2 and 1/2, 2 of 3 pixels.
    assert found.weighted(np.array([[2, 0]])) == pytest.approx(100 * np.array([[0.5, 2 / 3]]))


# Detection


def boxes(*rows, **more):
    """Boxes of a place each, one of which overlaps no other."""
    places = np.array([row[0] for row in rows], float).reshape(-1, 1)
    return dict(boxes=np.hstack([20 * places, 0 * places, 20 * places + 10, 0 * places + 10]),
                labels=np.array([row[1] for row in rows], int), **more)


def true(*rows, crowd=()):
    return boxes(*rows, crowd=np.isin(np.arange(len(rows)), crowd))


def found_boxes(*rows):
    return boxes(*rows, scores=np.array([row[2] for row in rows], float))


def test_average_precision_by_hand():
    """Right, wrong, right: to a recall of 1/2 the precision is 1, from there on 2/3."""
    found = Matches.of(annotated([true((0, 0), (1, 0)), true((0, 0))], 2),
                       [found_boxes((0, 0, .9), (5, 0, .8), (1, 0, .7)), found_boxes((4, 1, .5))])
    first = 100 * (51 + 50 * 2 / 3) / 101
    assert found.weighted(np.array([[1, 0], [3, 0]])) == pytest.approx(np.full((2, 2), first))
    # With the second image there are 3 true boxes, of which one is never found: recalls of 1/3 and 2/3.
    both = 100 * (34 + 33 * 2 / 3) / 101
    assert found.weighted(ONE) == pytest.approx(np.full((1, 2), both))
    assert found.by_class() == pytest.approx([both, np.nan], nan_ok=True)
    assert found.weighted(np.array([[0, 1]])) == pytest.approx(np.zeros((1, 2)))


def test_nothing_found_and_nothing_there():
    empty = annotated([true(), true()], 1)
    assert np.isnan(Matches.of(empty, [found_boxes(), found_boxes((0, 0, .9))]).weighted(ONE)).all()
    assert (Matches.of(annotated([true((0, 0)), true()], 1), [found_boxes()] * 2).weighted(ONE) == 0).all()


def random_case(images=6, classes=3):
    generator = np.random.default_rng(1)
    truths, found = [], []
    for _ in range(images):
        places = generator.permutation(12)[:5]
        labels = generator.integers(0, classes, 5)
        truths.append(true(*zip(places, labels), crowd=[0] if generator.random() < .5 else []))
        shift = generator.normal(0, 1.2, (5, 4))
        one = found_boxes(*((place, label, 0) for place, label in zip(places, labels)),
                          *((place, generator.integers(0, classes), 0) for place in generator.integers(0, 12, 6)))
        one['boxes'][:5] += shift
        one['scores'] = generator.random(11)
        found.append(one)
    return truths, found


def test_as_pycocotools_of_images_that_are_there_several_times():
    truths, found = random_case()
    matches = Matches.of(annotated(truths, 3), found)
    weights = np.array([[1] * 6, [0, 2, 1, 0, 3, 0], [6, 0, 0, 0, 0, 0], [1, 0, 2, 2, 1, 0]])
    ours = matches.weighted(weights)
    for row, counts in zip(ours, weights):
        drawn = np.repeat(np.arange(6), counts)
        with redirect_stdout(StringIO()):
            evaluation = COCOeval(_coco([truths[i] for i in drawn], 3), _coco([found[i] for i in drawn], 3), 'bbox')
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert row == pytest.approx(100 * evaluation.stats[:2], abs=1e-9)
    assert len(np.unique(ours)) == 8  # none of them by chance
