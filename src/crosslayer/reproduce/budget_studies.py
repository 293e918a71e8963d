"""Studies that two cores can do: mechanisms by the recipe `cifar100_budget`, and how that recipe was chosen."""

from crosslayer.reproduce.questions import HOW_TO_READ
from crosslayer.reproduce.study import Cell, Study

_RECIPE = "cifar100_budget"
_TABLE_1 = ("none", "se", "eca", "dianet", "mrla_b", "mrla_l", "dla_b", "dla_l")
_ALONG_DEPTH = (
    *("none", "mrla_l", "dla_l", "kcla", "attnres", "delta_attnres", "xattnres", "denseformer"),
    *("hc", "mhc", "mhc_lite", "laurel", "ddl"),
)
_INGREDIENTS = {
    "the recipe": (),
    "rate halved": ("lr=0.1",),
    "rate doubled": ("lr=0.4",),
    "cosine": ("schedule=cosine",),
    "weight decay 2e-4": ("weight_decay=2e-4",),
    "weight decay 1e-3": ("weight_decay=1e-3",),
    "weight decay on vectors": ("decay_vectors=true",),
    "no label smoothing": ("label_smoothing=0.0",),
    "no Nesterov": ("nesterov=false",),
    "batches of 64": ("batch_size=64",),
    "batches of 256": ("batch_size=256",),
}
"""What the recipe is compared with: one thing changed at a time."""


def _cell(depth: int, mechanism: str, variant: str, settings: tuple[str, ...] = ()) -> Cell:
    return Cell(f"ResNet-{depth}, CIFAR-100", variant, _RECIPE, f"cifar_resnet{depth}", mechanism, settings=settings)


def budget() -> Study:
    """Table 1's mechanisms in a short training."""
    text = (
        "The mechanisms of Table 1 on CIFAR-100 by a recipe that was chosen on the plain network and is the same for "
        "all. Runs of one seed see the same images in the same order, augmented alike. A short training says what a "
        "mechanism is worth in a short training: the paper's has fifteen times as many epochs."
    )
    cells = tuple(_cell(20, mechanism, mechanism) for mechanism in _TABLE_1)
    return Study("budget", "Layer attention in a short training", text, cells, pairwise=True)


def budget_recipe() -> Study:
    """What each ingredient of the short recipe gains."""
    text = (
        "The plain ResNet-20 by the recipe `cifar100_budget` with one thing changed at a time, validated on a tenth of "
        "the training images, which is held out; the test images are not looked at."
    )
    held = ("val_split=0.1",)
    cells = tuple(_cell(20, "none", variant, (*held, *settings)) for variant, settings in _INGREDIENTS.items())
    baseline = "the recipe"
    return Study(
        "budget_recipe",
        "What each ingredient of the short recipe gains",
        f"{text}\n\n{HOW_TO_READ.format(baseline=baseline)}",
        cells,
        baseline,
    )


def depth() -> Study:
    """Everything that flows along depth."""
    text = (
        "Mechanisms that hand something from block to block, by one recipe that was chosen on the plain network. "
        "Parameters differ as the mechanisms do; the pictures show accuracy against them and against the throughput."
    )
    shallow = tuple(_cell(20, name, name) for name in _ALONG_DEPTH if name != "xattnres")  # it needs three blocks
    cells = (*shallow, *(_cell(56, name, name) for name in _ALONG_DEPTH))
    return Study("depth", "What flows along depth, by one recipe", f"{text}\n\n{HOW_TO_READ.format(baseline='none')}",
                 cells, "none")  # fmt: skip


BUDGET = (budget, budget_recipe, depth)
