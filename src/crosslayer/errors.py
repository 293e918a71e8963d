"""What the command line reports as one sentence, without a traceback."""


class UsageError(ValueError):
    """The user asked for something that cannot be: exit code 2."""


class FailedError(RuntimeError):
    """What was asked for went wrong on the way: exit code 1."""


def reason(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
