"""Every study by name."""

from collections.abc import Callable

from crosslayer.errors import UsageError
from crosslayer.mechanisms.registry import unknown_name
from crosslayer.reproduce import paper_studies as paper
from crosslayer.reproduce.budget_studies import BUDGET
from crosslayer.reproduce.questions import QUESTIONS
from crosslayer.reproduce.study import Study

PAPER = (
    *(paper.table1, paper.table2, paper.table3, paper.table4, paper.table5, paper.table6),
    *(paper.figure2, paper.figure4),
)
STUDIES: dict[str, Callable[[], Study]] = {build.__name__: build for build in (*PAPER, *QUESTIONS, *BUDGET)}


def find_study(name: str) -> Study:
    """The study called `name`.

    Raises:
        UsageError: there is none; the closest names are offered.
    """
    if name not in STUDIES:
        raise UsageError(unknown_name("study", name, STUDIES))
    return STUDIES[name]()
