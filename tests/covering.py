"""Cases for tests of many parameters: every pair of their values, not every combination."""
import itertools


def covering(*parameters, strength=2):
    """A covering array: cases in which every two parameters take all pairs of their values.

    Chosen greedily, the same every time. A fault that shows with certain values of up to two parameters is
    found by a few of all combinations.

    Args:
        *parameters (Sequence): The values of each, hashable.
        strength (int): 3 for all triples of values, and so on. Defaults to 2.

    Returns:
        list[tuple]: The cases.
    """
    covers = {case: set(itertools.combinations(enumerate(case), strength))
              for case in itertools.product(*parameters)}
    missing, chosen = set().union(*covers.values()), []
    while missing:
        chosen.append(max(covers, key=lambda case: len(covers[case] & missing)))
        missing -= covers[chosen[-1]]
    return chosen
