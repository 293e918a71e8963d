"""What the page's script is given."""

import itertools
from typing import Any

from crosslayer.reports.page.contents import Contents, RunFacts
from crosslayer.reports.significance import welch


def script_data(contents: Contents) -> dict[str, Any]:
    """Every run with its curves, and a sentence for every two groups of runs that can be tested against each other."""
    groups = list(dict.fromkeys(run.group for run in contents.runs))
    return {
        "runs": [as_data(run, groups.index(run.group)) for run in contents.runs],
        "differences": differences(contents.runs, groups),
    }


def as_data(run: RunFacts, group: int) -> dict[str, Any]:
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
    finished = {group: [run for run in runs if run.group == group and run.summary and run.rows] for group in groups}
    sentences: dict[str, str] = {}
    for (i, first), (j, second) in itertools.combinations(enumerate(groups), 2):
        ours, theirs = finished[first], finished[second]
        if ours and theirs and ours[0].recipe_name == theirs[0].recipe_name and ours[0].metric == theirs[0].metric:
            metric = ours[0].metric
            tested = welch([run.rows[-1][metric] for run in ours], [run.rows[-1][metric] for run in theirs])
            if tested:
                sentences[f"{i}-{j}"] = f"{metric} after the last epoch: {tested}."
    return sentences
