"""Intervals and tests, by hand."""
import numpy as np
import pytest

from mmone.experiments import statistics
from mmone.experiments.statistics import difference, interval, mcnemar, resamples


def answers(both, first, second, neither):
    return (np.repeat([True, True, False, False], [both, first, second, neither]),
            np.repeat([True, False, True, False], [both, first, second, neither]))


@pytest.mark.parametrize('first, second, p', [
    (1, 5, 14 / 64),  # 2 (C(6, 0) + C(6, 1)) / 2⁶
    (5, 1, 14 / 64),
    (0, 5, 2 / 32),
    (3, 3, 1),
    (0, 0, 1),
])
def test_mcnemar_by_hand(first, second, p):
    for both, neither in ((0, 0), (70, 9)):  # which do not count
        found = mcnemar(*answers(both, first, second, neither))
        assert (found.first, found.second) == (first, second) and found.p == pytest.approx(p)


def test_difference_by_hand():
    firsts, seconds = np.array([1., 2, 3, 4, np.nan]), np.array([0., 0, 0, 5, 1])
    found = difference(7., 4., firsts, seconds)  # of the resamples 1, 2, 3 and −1
    assert found.value == 3 and found.p == pytest.approx(2 * (1 + 1) / (4 + 1))
    assert (found.low, found.high) == pytest.approx((-1 + 0.075 * 2, 3 - 0.075))
    assert difference(4., 7., seconds, firsts).p == found.p
    assert difference(1., 1., firsts, firsts).p == 1


def test_interval_by_hand():
    assert interval(np.arange(101.)) == pytest.approx((2.5, 97.5))
    assert interval(np.append(np.arange(101.), np.nan)) == pytest.approx((2.5, 97.5))
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_resamples_draw_as_many_images_as_there_are(monkeypatch):
    whole = np.concatenate(list(resamples(7, 50)))
    assert whole.shape == (50, 7) and (whole.sum(1) == 7).all() and (whole.std(0) > 0).all()
    monkeypatch.setattr(statistics, '_AT_ONCE', 21)
    parts = list(resamples(7, 50))
    assert [len(part) for part in parts] == [3] * 16 + [2]
    assert (np.concatenate(parts) == whole).all()


def test_the_interval_of_a_share_is_that_of_its_binomial():
    right = np.arange(400) < 300
    low, high = interval(np.concatenate([weights @ right for weights in resamples(400)]) / 400)
    spread = 1.96 * (0.75 * 0.25 / 400)**0.5
    assert (low, high) == pytest.approx((0.75 - spread, 0.75 + spread), abs=0.006)
