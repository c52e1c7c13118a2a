"""What accuracies under corruptions are summed up to, computed by hand."""
import pytest

from mmone.datasets.corrupt import CORRUPTIONS, SEVERITIES
from mmone.experiments.corruption_error import (
    ALEXNET,
    ALEXNET_CLEAN,
    CLEAN,
    corruption_error,
    mce,
    mean_under_corruption,
    relative_corruption_error,
    relative_to_clean,
)

# Severities 1 to 5 of two corruptions: means 30 and 60.
TABLE = {CLEAN: 80.0, **{('fog', severity): value for severity, value in zip(SEVERITIES, (50, 40, 30, 20, 10))},
         **{('snow', severity): value for severity, value in zip(SEVERITIES, (70, 70, 60, 50, 50))}}


def test_mean_performance_under_corruption():
    assert mean_under_corruption(TABLE) == 45
    assert relative_to_clean(TABLE) == 56.25
    assert mean_under_corruption({cell: value for cell, value in TABLE.items() if cell[1] in (0, 1)}) == 60
    assert mean_under_corruption({CLEAN: 80.0}) is None


def test_a_mean_that_would_lean_is_none():
    assert mean_under_corruption({cell: value for cell, value in TABLE.items() if cell != ('fog', 5)}) is None
    assert relative_to_clean({cell: value for cell, value in TABLE.items() if cell != CLEAN}) is None


def test_corruption_error():
    """Of fog AlexNet's error is 81.9324, of snow 86.6816, without 43.478."""
    assert corruption_error(TABLE, 'fog') == pytest.approx(85.4363, abs=1e-4)  # 70 / 81.9324
    assert corruption_error(TABLE, 'snow') == pytest.approx(46.1459, abs=1e-4)  # 40 / 86.6816
    assert relative_corruption_error(TABLE, 'fog') == pytest.approx(130.0241, abs=1e-4)  # 50 / 38.4544
    assert relative_corruption_error(TABLE, 'snow') == pytest.approx(46.2924, abs=1e-4)  # 20 / 43.2036
    assert corruption_error({**TABLE, ('fog', 6): 0.0}, 'frost') is None
    assert mce(TABLE) is None


def test_alexnet_has_an_mce_of_100():
    alexnet = {CLEAN: 100 - ALEXNET_CLEAN,
               **{(name, severity): 100 - ALEXNET[name] for name in CORRUPTIONS for severity in SEVERITIES}}
    assert mce(alexnet) == pytest.approx(100) and mce(alexnet, relative=True) == pytest.approx(100)
    assert mce({cell: value for cell, value in alexnet.items() if cell != CLEAN}, relative=True) is None

