"""Cases for tests of many parameters: every pair of values, not every combination."""
import itertools


def pairwise(*parameters):
    """Cases in which every two parameters take all pairs of their values, chosen greedily.

    What it takes one value or two together to get wrong is found by few of all combinations.

    Args:
        *parameters (Sequence): The values of each, hashable.

    Returns:
        list[tuple]: The cases, the same every time.
    """
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in itertools.product(*parameters)}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        chosen.append(max(pairs, key=lambda case: len(pairs[case] & missing)))
        missing -= pairs[chosen[-1]]
    return chosen
