"""Questions that the paper leaves open, as studies on CIFAR-100 with ResNet-20 and ResNet-56."""

from crosslayer.reproduce.paper_studies import cifar100_cell
from crosslayer.reproduce.study import Study

DEPTHS = (20, 56)
Variants = dict[str, tuple[str, tuple[str, ...]]]
"""Name → mechanism and its options; the first is the baseline."""
HOW_TO_READ = (
    "Every variant is compared with `{baseline}` of its network by Welch's test over seeds; the interval is the 95 % "
    "confidence interval of the difference of the means. Two seeds can show large differences only; the paper's "
    "margins, a few tenths of a point, need five or more."
)


def question(name: str, title: str, text: str, variants: Variants) -> Study:
    """Every variant at every depth, against the first."""
    cells = tuple(
        cifar100_cell(depth, mechanism, variant, options=options)
        for depth in DEPTHS
        for variant, (mechanism, options) in variants.items()
    )
    baseline = next(iter(variants))
    return Study(name, title, f"{text}\n\n{HOW_TO_READ.format(baseline=baseline)}", cells, baseline)


def context() -> Study:
    """First-sample context."""
    return question(
        "context",
        "Does the released first-sample context change the accuracy?",
        "The released code refreshes every image of a batch with the context of the batch's first image, in training "
        "and in evaluation; the paper's equations give every image its own. Everything else is the same. The released "
        "variant's accuracy depends on which images are evaluated together: here in batches of the recipe's size, in "
        "the data set's order.",
        {
            "own context": ("dla_l", ()),
            "first sample's context": ("dla_l", ("context=first_sample",)),
        },
    )


def cell() -> Study:
    """Cell."""
    return question(
        "cell",
        "The paper's cell or the released one?",
        "The DSU as printed squeezes the context and the input together (about 5c²/r parameters for c channels); the "
        "released one has a squeeze net for each and adds them (about 8c²/r). Of the printed one, r = 2 "
        "more parameters than the released one has with r = 4, and r = 4 fewer: a difference that is due to size alone "
        "shows between these two.",
        {
            "released, r = 4": ("dla_l", ("cell=released", "reduction=4")),
            "printed, r = 4": ("dla_l", ("cell=paper", "reduction=4")),
            "printed, r = 2": ("dla_l", ("cell=paper", "reduction=2")),
        },
    )


def stage_convolution() -> Study:
    """Stage convolution."""
    return question(
        "stage_convolution",
        "What does the extra stage convolution do?",
        "The released DLA-L adds to what a block carries on its depth-wise 3×3 convolution, with one kernel for all "
        "blocks of a stage, of which the paper says nothing. MRLA-L, which has none, stands beside both.",
        {
            "with (released)": ("dla_l", ()),
            "without (printed)": ("dla_l", ("stage_convolution=false",)),
            "MRLA-L": ("mrla_l", ()),
        },
    )


def dynamic() -> Study:
    """Equal parameters."""
    return question(
        "dynamic",
        "Static or dynamic, at equal parameters?",
        "DLA-L of the paper has 1.7 times the parameters of MRLA-L on ResNet-20, all of them in its cell. MRLA has no "
        "part that could be widened by as much without becoming another mechanism, so the cell is narrowed instead: "
        "with r = 256 its squeeze nets have one channel, and without the stage convolution nothing but the cell "
        "distinguishes DLA-L from MRLA-L. That adds 6,278 parameters to a network (2.5 % of ResNet-20 with MRLA-L). "
        "If layer attention gains by being dynamic, the narrow DLA-L beats MRLA-L; if by its size, only the wide one.",
        {
            "MRLA-L (static)": ("mrla_l", ()),
            "DLA-L, r = 256, no stage convolution": ("dla_l", ("reduction=256", "stage_convolution=false")),
            "DLA-L, r = 256": ("dla_l", ("reduction=256",)),
            "DLA-L, r = 4 (published)": ("dla_l", ()),
        },
    )


def norm_start() -> Study:
    """Start."""
    return question(
        "norm_start",
        "Should the merge's normalisation start at one or at zero?",
        "The light forms add BN(z) to a block's output. Published, the scale of that normalisation starts at 1, so "
        "that random values are added from the first step on; at 0 every block starts as the plain network's and "
        "the merge grows as far as it helps.",
        {
            "DLA-L, from one (published)": ("dla_l", ()),
            "DLA-L, from zero": ("dla_l", ("norm_start=0",)),
            "MRLA-L, from one (published)": ("mrla_l", ()),
            "MRLA-L, from zero": ("mrla_l", ("norm_start=0",)),
        },
    )


QUESTIONS = (context, cell, stage_convolution, dynamic, norm_start)
