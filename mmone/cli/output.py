"""What the command lines print beside plain lines."""
from collections.abc import Callable, Iterable, Sequence


def progress(description: str, total: int | None = None) -> Callable[[Iterable], Iterable]:
    """What wraps an iterable to show on stderr, if that is a terminal, how far it is."""
    from rich.console import Console
    from rich.progress import track
    console = Console(stderr=True)

    def wrap(items: Iterable) -> Iterable:
        return track(items, description, total, console=console, disable=not console.is_terminal)

    return wrap


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many texts as lines in which columns begin at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows)
