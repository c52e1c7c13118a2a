"""The one exception for what a user can mend, and what other libraries' exceptions say in one line."""
import re

_OPERATOR = re.compile(r"\boperat(or|ion)s?\b|\bop '|\b(aten|prim|torchvision|mmcv)::|\bPython function call '")


class InputError(ValueError):
    """A config, checkpoint or file that cannot be used as given.

    Its message is one line that says what was given, what was expected and what to do; the command
    lines print that line and exit with status 2. Anything else that is raised is a bug of ours and
    keeps its traceback.

    Args:
        message (str): The line.
        parameter (str, optional): The parameter whose other value would mend it, such as
            ``'trust'``. The line ends with it; a command line names its own flag instead.

    Attributes:
        on_all_ranks (bool): Whether every process of a distributed run raises it, so that one of them
            is enough to tell.
    """
    on_all_ranks = True

    def __init__(self, message: str, parameter: str | None = None):
        super().__init__(message)
        self.message = message
        self.parameter = parameter

    def __str__(self) -> str:
        return self.message + (f' (parameter {self.parameter!r})' if self.parameter else '')

    def __reduce__(self):  # raised in a data loader's worker, it travels by pickle
        return type(self), (self.message, self.parameter)


def cause(error: BaseException) -> str:
    """What another library's exception says is wrong, in one line.

    Messages of converters and runtimes are dumps of many lines, which end with a graph, a stack or advice.
    The cause is the first line that names an operator; where none does, the first that is no heading.
    """
    lines = [line.strip(' \t-') for line in str(error).splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    said = [line for line in lines if not line.endswith(':') or '. ' in line] or lines
    return next((line for line in said if _OPERATOR.search(line)), said[0])[:300]
