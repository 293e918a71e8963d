"""What the page's script is given."""

import itertools
from typing import Any

from crosslayer.reports.page.contents import Contents, RunFacts
from crosslayer.reports.significance import welch


def script_data(contents: Contents) -> dict[str, Any]:
    """Every run with its curves, and a sentence for every two groups of runs that can be tested against each other."""
    groups = list(dict.fromkeys(run.group for run in contents.runs))
    return {
        "runs": [_as_data(run, groups.index(run.group)) for run in contents.runs],
        "differences": differences(contents.runs, groups),
    }


def _as_data(run: RunFacts, group: int) -> dict[str, Any]:
    """One run."""
    return {
        "path": run.path,
        "group": group,
        "metric": run.metric,
        "settings": {"recipe": run.recipe_name, **run.recipe},
        "environment": flat(run.environment),
        "rows": run.rows,
    }


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def differences(runs: list[RunFacts], groups: list[str]) -> dict[str, str]:
    """`i-j` of two groups, i < j, of one recipe → how group i's last epochs differ from group j's."""
    finished = [_finished_seeds(runs, group) for group in groups]
    sentences: dict[str, str] = {}
    for (i, ours), (j, theirs) in itertools.combinations(enumerate(finished), 2):
        if ours and theirs and comparable(ours[0], theirs[0]):
            metric = ours[0].metric
            tested = welch([run.rows[-1][metric] for run in ours], [run.rows[-1][metric] for run in theirs])
            if tested:
                sentences[f"{i}-{j}"] = f"{metric} after the last epoch: {tested}."
    return sentences


def _finished_seeds(runs: list[RunFacts], group: str) -> list[RunFacts]:
    """A group's finished runs, one of each seed: a copy of a run is no second sample."""
    done = (run for run in runs if run.group == group and run.summary and run.rows and run.last is not None)
    return list({run.recipe.get("seed", 0): run for run in done}.values())


def comparable(first: RunFacts, second: RunFacts) -> bool:
    """Whether two runs answer one question: of one recipe, on the same classes, judged by the same number."""
    return (first.recipe_name, first.classes, first.metric) == (second.recipe_name, second.classes, second.metric)
