"""What an inspection finds, and how it is told."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEVELS = ('error', 'warning', 'note')


@dataclass(frozen=True)
class Finding:
    """Something about a config and its data.

    Attributes:
        level (str): ``'error'`` for what stops a training or spoils what it learns, ``'warning'`` for what
            probably is no intention, ``'note'`` for what is good to know.
        text (str): One line that names the file or the key of the config, and says what to do.
    """
    level: str
    text: str

    def __str__(self) -> str:
        return f'{self.level}: {self.text}'


def error(text: str) -> Finding:
    return Finding('error', text)


def warning(text: str) -> Finding:
    return Finding('warning', text)


def note(text: str) -> Finding:
    return Finding('note', text)


def by_level(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first; each level in the order it was found in, and nothing twice."""
    return sorted(dict.fromkeys(findings), key=lambda finding: LEVELS.index(finding.level))


def some(names: Iterable, most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    names = list(map(str, names))
    more = len(names) - most
    return ', '.join(names[:most]) + (f' and {more} more' if more > 0 else '')


def count(number: int, what: str, plural: str = '') -> str:
    """A number of things, in words that fit it."""
    return f'{number:,} {what if number == 1 else plural or what + "s"}'


def sampled(items: Sequence, most: int) -> list:
    """At most so many of some items, taken evenly over all."""
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]
