"""What measurements say of the paper's claims: one panel for each machine and setting, and its claims in words.

A claim is the paper's, so that it *held* where the user's own figures agree. The bounds between verdicts are the
constants below, and the report states them.
"""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

from mmone.lab import paper
from mmone.lab.statistics import Correlation, dominators, spearman
from mmone.lab.store import Machine, Measurement, Setting

ABLATION = 'ablation'  # the family of the 30-layer networks, which are compared with each other only
OURS = 'mobileone'  # the family that the claims are about
FEWEST = 8  # networks that a claim about all of them needs
LIKE = 0.15  # latencies that differ by at most this part of MobileOne's are alike
WEAK, STRONG = 0.5, 0.8  # below the one ρ says little, from the other on it says nearly all
SAME_RATE = 0.1  # rates that differ by less than this part are the same
MANY = 3  # times the latency of ReLU
HIDDEN = 1.05  # times the latency that the multiply-adds account for, from which on there is a cost that they hide

VERDICTS = HELD, PARTLY, FAILED = 'held', 'held in part', 'did not hold'


class Title(NamedTuple):
    """What a claim is called, in a sentence and at the head of a column."""
    title: str
    column: str


CLAIMS = dict(
    multiply_adds=Title('Multiply-adds say little about latency', 'multiply-adds say little'),
    parameters=Title('Parameters say little about latency', 'parameters say little'),
    front=Title('MobileOne is on the Pareto front of published top-1 and latency', 'on the Pareto front'),
    like=Title('Of networks of like latency, MobileOne is the most accurate', 'best of like latency'),
    rate=Title('MobileOne computes its multiply-adds faster than other networks do', 'higher rate'),
    activation=Title('ReLU is the cheapest activation, and dynamic ones cost many times more', 'ReLU is cheapest'),
    block=Title('Squeeze-excite, skip connections and branches cost more time than multiply-adds account for',
                'blocks cost more'),
)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and what one panel says of it."""
    key: str
    verdict: str
    words: str

    @property
    def title(self) -> str:
        return CLAIMS[self.key].title


@dataclass(frozen=True)
class Panel:
    """All measurements of one machine with one setting, the fastest first."""
    machine: Machine
    setting: Setting
    networks: tuple[Measurement, ...]  # the study's
    ablation: tuple[Measurement, ...]

    @property
    def ours(self) -> list[Measurement]:
        return [one for one in self.networks if one.model.family == OURS]

    @cached_property
    def published(self) -> list[Measurement]:
        """Those whose accuracy is known."""
        return [one for one in self.networks if one.model.top1 is not None]

    @cached_property
    def dominators(self) -> dict[str, list[Measurement]]:
        """By the name of each network of known accuracy: those that are faster and at least as accurate, or as fast
        and more accurate."""
        found = dominators([one.latency.median for one in self.published],
                           [one.model.top1 or 0 for one in self.published])
        return {one.model.name: [self.published[index] for index in indices]
                for one, indices in zip(self.published, found)}

    @property
    def front(self) -> list[Measurement]:
        """The Pareto front: each the most accurate that its latency buys."""
        return [one for one in self.published if not self.dominators[one.model.name]]

    def correlation(self, count: str) -> Correlation | None:
        """Of latency with ``'multiply_adds'`` or ``'parameters'``."""
        counted = [one for one in self.networks if getattr(one.model, count)]
        return spearman([getattr(one.model, count) for one in counted], [one.latency.median for one in counted])

    def like(self, one: Measurement) -> list[Measurement]:
        """Networks of other families, of known accuracy, whose latency is like that of one."""
        return [other for other in self.published if other.model.family != OURS
                and abs(other.latency.median - one.latency.median) <= LIKE * one.latency.median]

    def claims(self) -> list[Claim]:
        """What is said of each claim that there are measurements for."""
        found = (_correlated(self, 'multiply_adds'), _correlated(self, 'parameters'), _on_front(self), _beside(self),
                 _rates(self), _activations(self), _blocks(self))
        return [claim for claim in found if claim]


def panels(measurements: Iterable[Measurement]) -> list[Panel]:
    """One for each machine and setting, in the order of their first measurements."""
    groups: dict[tuple[str, Setting], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.machine.key, one.setting), []).append(one)
    return [_panel(sorted(group, key=lambda one: (one.latency.median, one.model.name))) for group in groups.values()]


def _panel(group: Sequence[Measurement]) -> Panel:
    ablation = tuple(one for one in group if one.model.family == ABLATION)
    return Panel(group[0].machine, group[0].setting, tuple(one for one in group if one not in ablation), ablation)


def rate(one: Measurement) -> float | None:
    """Multiply-adds a second, in billions, over the whole batch."""
    if not one.model.multiply_adds:
        return None
    return one.model.multiply_adds * one.setting.batch / one.latency.median / 1e6


def listed(items: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = items
    return f'{", ".join(most)} and {last}' if most else last


def milliseconds(value: float) -> str:
    """Three digits that count, with the unit."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f'{value:.{digits}f} ms'


def probability(p: float) -> str:
    return 'p < 0.001' if p < 0.001 else f'p = {p:.3f}'


def described(found: Correlation) -> str:
    rho, low, high = map(signed, (found.rho, found.low, found.high))
    return f'ρ = {rho} ({probability(found.p)}, 95% interval {low} to {high})'


def signed(value: float, form: str = '.2f') -> str:
    """A number with a minus that is no hyphen, and none of zero."""
    text = f'{value:{form}}'
    return text.replace('-', '−') if float(text) else text.replace('-', '')


# The claims


def _correlated(panel: Panel, count: str) -> Claim | None:
    found = panel.correlation(count)
    if found is None or found.count < FEWEST:
        return None
    verdict = HELD if found.rho < WEAK else FAILED if found.rho >= STRONG else PARTLY
    name = 'the number of parameters' if count == 'parameters' else 'multiply-adds'
    relation = {HELD: f'does not follow {name}', PARTLY: f'follows {name} in part', FAILED: f'follows {name}'}[verdict]
    theirs = {device: ranks[count].rho for device, ranks in paper.CORRELATIONS.items()}
    return Claim(count, verdict, (
        f'Latency {relation} here: {described(found)} over {found.count} networks. The paper has '
        + listed(f'{rho:.2f} ({device})' for device, rho in theirs.items()) + '.'))


def _on_front(panel: Panel) -> Claim | None:
    ours = [one for one in panel.ours if one.model.top1 is not None]
    if not ours or len(panel.published) < FEWEST:
        return None
    words, on_front = [], 0
    for one in ours:
        better = panel.dominators[one.model.name]
        on_front += not better
        name = one.model.name
        words.append(f'{name} is on it' if not better else f'{name} is not: {_named(better)} '
                     f'{"is" if len(better) == 1 else "are"} at least as fast and as accurate')
    verdict = HELD if on_front == len(ours) else PARTLY if on_front else FAILED
    return Claim('front', verdict, f'{on_front} of {len(ours)} on the front. {"; ".join(words)}.')


def _named(networks: Sequence[Measurement], most: int = 4) -> str:
    """The most accurate of some networks by their names, and how many others there are."""
    best = sorted(networks, key=lambda one: -(one.model.top1 or 0))
    names = [one.model.name for one in best[:most]]
    return listed([*names, f'{len(best) - most} more'] if len(best) > most else names)


def _beside(panel: Panel) -> Claim | None:
    compared, best, words = 0, 0, []
    for one in panel.ours:
        others = panel.like(one)
        if one.model.top1 is None or not others:
            continue
        compared += 1
        above = [other for other in others if (other.model.top1 or 0) > one.model.top1]
        best += not above
        count = f'{len(others)} other{"s" if len(others) > 1 else ""}'
        words.append(f'{one.model.name} is behind {_named(above)}, of {count}' if above else
                     f'{one.model.name} is more accurate than {count}')
    if not compared:
        return None
    verdict = HELD if best == compared else PARTLY if best else FAILED
    return Claim('like', verdict, f'Within {LIKE:.0%} of its latency: {"; ".join(words)}.')


def _rates(panel: Panel) -> Claim | None:
    ours = [found for one in panel.ours if (found := rate(one))]
    others = [(found, one.model.name) for one in panel.networks if one.model.family != OURS and (found := rate(one))]
    if not ours or len(ours) + len(others) < FEWEST:
        return None
    us, them = median(ours), median(found for found, _ in others)
    verdict = HELD if us > them * (1 + SAME_RATE) else FAILED if us < them * (1 - SAME_RATE) else PARTLY
    fastest, name = max(others)
    return Claim('rate', verdict, (
        f'MobileOne computes {us:.1f} billion multiply-adds a second (median of {len(ours)}), other networks '
        f'{them:.1f} (median of {len(others)}; the most, {name}, {fastest:.1f}).'))


def _times(panel: Panel, names: Iterable[str],
           count: Callable[[Measurement], float | None] = lambda one: one.latency.median) -> dict[str, float]:
    """How many times the latency, or another count, of the plain network with ReLU those with these names have."""
    counts = {one.model.name: found for one in panel.ablation if (found := count(one))}
    base = counts.get(paper.PLAIN)
    return {name: counts[name] / base for name in names if name in counts} if base else {}


def _activations(panel: Panel) -> Claim | None:
    theirs = {name: ms / paper.ACTIVATIONS[paper.PLAIN] for name, ms in paper.ACTIVATIONS.items()
              if name != paper.PLAIN}
    times = _times(panel, theirs)
    dynamic = [factor for name, factor in times.items() if 'dynamic' in name]
    if not dynamic:
        return None
    cheapest = min(times.values()) >= 1
    verdict = HELD if cheapest and min(dynamic) >= MANY else PARTLY if min(dynamic) > 1 else FAILED
    words = listed(f'{short(name)} {factor:.2f} (paper {theirs[name]:.2f})' for name, factor in times.items())
    return Claim('activation', verdict, f'Times the latency with ReLU: {words}.')


def _blocks(panel: Panel) -> Claim | None:
    names = [one.model.name for one in panel.ablation if one.model.name.startswith(f'{ABLATION}-block-')]
    times, sums = _times(panel, sorted(names)), _times(panel, names, lambda one: one.model.multiply_adds)
    known = {name: factor for name, factor in times.items() if name in sums}
    if not known:
        return None
    hidden = [factor > HIDDEN * sums[name] for name, factor in known.items()]
    verdict = HELD if all(hidden) else PARTLY if any(hidden) else FAILED
    words = listed(f'{short(name)} {factor:.2f} ({sums[name]:.2f})' for name, factor in known.items())
    return Claim('block', verdict, f'Times the latency of the plain chain, and its multiply-adds in brackets: {words}.')


def short(name: str) -> str:
    """What distinguishes a 30-layer network, from its name."""
    return name.removeprefix(f'{ABLATION}-').removeprefix('block-')
