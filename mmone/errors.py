"""The one exception for what a user can mend."""


class InputError(ValueError):
    """A config, checkpoint or file that cannot be used as given.

    Its message is one line that says what was given, what was expected and what to do; the command
    lines print that line and exit with status 2. Anything else that is raised is a bug of ours and
    keeps its traceback.
    """
