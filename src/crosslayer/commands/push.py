import dataclasses
from typing import Annotated

import tyro

from crosslayer.console import console
from crosslayer.errors import UsageError
from crosslayer.models.sharing import push_to_hub
from crosslayer.options import parse_options
from crosslayer.training.classifier import Classifier, load, title_of
from crosslayer.training.trained import Which


@dataclasses.dataclass(frozen=True)
class Options:
    """Put a run's network on the Hugging Face Hub: weights, what rebuilds it, and a model card of its summary.

    Log in first (`hf auth login`), or set HF_TOKEN.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory of a classifier."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """Repository; made if it is not there."""
    checkpoint: Which = "last"
    """Which checkpoint."""
    space: bool = False
    """Put `crosslayer demo`'s page there as a Space, with the network, instead of the network alone."""
    private: bool = False
    """Of a repository that is made: hide it."""


def run(words: list[str]) -> None:
    """Crosslayer push RUN OWNER/NAME [OPTION …]."""
    options = parse_options(Options, words, "crosslayer push")
    classifier = load(options.run, checkpoint=options.checkpoint)
    try:
        place = _pushed_space(classifier, options) if options.space else _pushed_network(classifier, options)
    except ValueError as error:
        raise UsageError(str(error)) from error
    console.print(f"pushed to {options.repository}: {place}")


def _pushed_network(classifier: Classifier, options: Options) -> str:
    return push_to_hub(classifier.network, options.repository, private=options.private, **classifier.facts())


def _pushed_space(classifier: Classifier, options: Options) -> str:
    from crosslayer.demo.space import push_space  # brings what draws

    return push_space(classifier, options.repository, title_of(options.run), private=options.private)
