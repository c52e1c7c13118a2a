"""What accuracy under corruptions is summed up to, as functions of numbers.

Results are a dict of ``(corruption, severity)``, for an image without corruption ``(None, 0)``, to percent.
"""
from collections.abc import Mapping
from statistics import mean

from mmone.datasets.corrupt import CORRUPTIONS, SEVERITIES

Cell = tuple[str | None, int]
CLEAN: Cell = (None, 0)

# AlexNet's top-1 errors on ImageNet-C in percent, the mean of the five severities: the constants that come with
# AugMix's code (https://github.com/google-research/augmix), from the authors of ImageNet-C (arXiv 1903.12261).
ALEXNET = {
    'gaussian_noise': 88.6428, 'shot_noise': 89.4468, 'impulse_noise': 92.2640, 'defocus_blur': 81.9880,
    'glass_blur': 82.6268, 'motion_blur': 78.5948, 'zoom_blur': 79.8360, 'snow': 86.6816, 'frost': 82.6572,
    'fog': 81.9324, 'brightness': 56.4592, 'contrast': 85.3204, 'elastic_transform': 64.6056, 'pixelate': 71.7840,
    'jpeg_compression': 60.6500,
}
# Without corruption: torchvision's AlexNet has a top-1 of 56.522; Table 1 of the paper rounds its error to 43.5.
ALEXNET_CLEAN = 43.478


def over_severities(results: Mapping[Cell, float], corruption: str) -> float | None:
    """The mean of a corruption's severities; None if one of the five is missing."""
    cells = [results.get((corruption, severity)) for severity in SEVERITIES]
    return None if None in cells else mean(cells)  # type: ignore[type-var]


def mean_under_corruption(results: Mapping[Cell, float]) -> float | None:
    """The mean of what was evaluated of corruptions; mPC (arXiv 1907.07484, section 3.3) if all 15 were.

    None if there is none, or a corruption lacks a severity that another has: the mean would lean to one of them.
    """
    severities: dict[str, set[int]] = {}
    for corruption, severity in results:
        if corruption:
            severities.setdefault(corruption, set()).add(severity)
    if not severities or len(set(map(frozenset, severities.values()))) > 1:
        return None
    return mean(value for (corruption, _), value in results.items() if corruption)


def relative_to_clean(results: Mapping[Cell, float]) -> float | None:
    """:func:`mean_under_corruption` in percent of what it is without: rPC if all 15 were evaluated."""
    under, clean = mean_under_corruption(results), results.get(CLEAN)
    return None if under is None or not clean else 100 * under / clean


def corruption_error(top1: Mapping[Cell, float], corruption: str) -> float | None:
    r"""CE of a classifier of ImageNet, in percent of AlexNet's (arXiv 1903.12261, section 4.1).

    .. math:: CE_c = \sum_{s=1}^5 E_{s,c} \Big/ \sum_{s=1}^5 E^{AlexNet}_{s,c}

    Args:
        top1 (Mapping): Top-1 accuracies.
        corruption (str): One of the 15.

    Returns:
        float | None: None if a severity is missing.
    """
    accuracy = over_severities(top1, corruption)
    return None if accuracy is None else 100 * (100 - accuracy) / ALEXNET[corruption]


def relative_corruption_error(top1: Mapping[Cell, float], corruption: str) -> float | None:
    r"""How much a corruption adds to the error without it, in percent of what it adds to AlexNet's (section 4.1).

    .. math:: \sum_{s=1}^5 (E_{s,c} - E_{clean}) \Big/ \sum_{s=1}^5 (E^{AlexNet}_{s,c} - E^{AlexNet}_{clean})
    """
    accuracy = over_severities(top1, corruption)
    if accuracy is None or CLEAN not in top1:
        return None
    return 100 * (top1[CLEAN] - accuracy) / (ALEXNET[corruption] - ALEXNET_CLEAN)


def mce(top1: Mapping[Cell, float], relative: bool = False) -> float | None:
    """The mean of the 15 corruptions' errors, mCE or relative mCE; None if a corruption or severity is missing."""
    of = relative_corruption_error if relative else corruption_error
    errors = [of(top1, corruption) for corruption in CORRUPTIONS]
    return None if None in errors else mean(errors)  # type: ignore[type-var]
