"""A study's results as a table: Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from crosslayer.reports.paper import Printed
from crosslayer.reproduce import attention, significance
from crosslayer.reproduce.results import Line, Spread
from crosslayer.reproduce.study import Study

HEADINGS = (
    *("network", "variant", "metric", "ours, last epoch", "ours, best epoch", "paper", "difference", "seeds"),
    *("params (10⁶)", "MACs (10⁹)", "verdict"),
)
NOTE = (
    "Ours: mean ± sample standard deviation over seeds. Difference: last epoch less the paper's. Verdict: within one "
    "std if the difference is at most √(our std² + the paper's std²), as far as these are known; parameters and "
    "multiply-accumulates (MACs, one image) are counted, the paper's in brackets."
)


def banner(reduced: str) -> str:
    """What must be said of results that were not made as the paper's were; empty for those that were."""
    return f"REDUCED: not the paper's training, not comparable with its figures. Changed: {reduced}." if reduced else ""


def texts(line: Line, reduced: str) -> tuple[str, ...]:
    """A line's cells as text, under `HEADINGS`."""
    verdict = line.verdict or "no figure in the paper"
    return (
        line.cell.network,
        line.cell.variant,
        line.metric.name,
        shown(line.last),
        shown(line.best),
        shown(line.metric.printed),
        "–" if line.difference is None else f"{line.difference:+.2f}",
        f"{len(line.finished)} of {line.planned}",
        counted(line.mean_of("parameters_m"), line.cell.parameters, 3),
        counted(line.mean_of("macs_g"), line.cell.macs, 4),
        f"{verdict} (reduced)" if reduced and verdict in ("within one std", "above", "below") else verdict,
    )


def shown(spread: Spread | Printed | None) -> str:
    """Mean ± standard deviation."""
    if spread is None:
        return "–"
    return f"{spread.mean:.2f}" + ("" if spread.std is None else f" ± {spread.std:.2f}")


def counted(ours: float | None, printed: float | None, digits: int) -> str:
    """A count, the paper's in brackets."""
    return " ".join(
        filter(None, ["–" if ours is None else f"{ours:.{digits}f}", "" if printed is None else f"({printed:g})"])
    )


def as_markdown(study: Study, lines: Sequence[Line], reduced: str, spread: Sequence[tuple[str, ...]] = ()) -> str:
    """A page with the tables; `spread` is how attention is spread, in studies that look at it."""
    table = _piped([HEADINGS, ("---",) * 3 + ("--:",) * 7 + ("---",), *(texts(line, reduced) for line in lines)])
    answered = significance.answer_rows(study, lines)
    parts = [f"# {study.title}", f"**{banner(reduced)}**" if reduced else "", study.text, table, NOTE]
    if answered:
        rows = _piped([significance.HEADINGS, ("---",) * len(significance.HEADINGS), *answered])
        parts += [f"## {significance.caption(study)}", rows, significance.NOTE]
    if spread:
        parts += [f"## {attention.CAPTION}", _piped([attention.HEADINGS, ("---",) * 4, *spread]), attention.NOTE]
    return "\n\n".join(filter(None, parts)) + "\n"


def _piped(rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown has them."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


FIELDS = (
    *("network", "variant", "mechanism", "options", "metric", "last_mean", "last_std", "best_mean", "best_std"),
    *("paper_mean", "paper_std", "difference", "combined_std", "seeds", "seeds_planned"),
    *("parameters_m", "paper_parameters_m", "macs_g", "paper_macs_g", "images_per_second", "verdict", "reduced"),
)


def as_csv(lines: Sequence[Line], reduced: str) -> str:
    """One row per line, unrounded; what is not known is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(FIELDS)
    for line in lines:
        cell, printed = line.cell, line.metric.printed
        writer.writerow(
            [
                *(cell.network, cell.variant, cell.mechanism, " ".join(cell.options), line.metric.key),
                *(*pair(line.last), *pair(line.best), *pair(printed), line.difference, line.combined_std),
                *(len(line.finished), line.planned, line.mean_of("parameters_m"), cell.parameters),
                *(line.mean_of("macs_g"), cell.macs, line.mean_of("images_per_second"), line.verdict, reduced),
            ]
        )
    return buffer.getvalue()


def pair(spread: Spread | Printed | None) -> tuple[float | None, float | None]:
    """Mean and standard deviation."""
    return (None, None) if spread is None else (spread.mean, spread.std)


SPECIAL = {
    **{"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "–": "--", "−": "$-$", "²": "$^2$"},
    **{"⁶": "$^6$", "⁹": "$^9$", "√": r"$\surd$"},
    **{"$": r"\$", "{": r"\{", "}": r"\}", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"},
    **{"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}


def as_latex(study: Study, lines: Sequence[Line], reduced: str) -> str:
    """A table for `booktabs`."""
    body = [f"{' & '.join(map(escaped, texts(line, reduced)))} \\\\" for line in lines]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{escaped(' '.join(filter(None, [study.title + '.', banner(reduced), NOTE])))}}}",
            r"\begin{tabular}{lllrrrrrrrl}",
            r"\toprule",
            f"{' & '.join(map(escaped, HEADINGS))} \\\\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text as LaTeX takes it."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)
