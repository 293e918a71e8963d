"""The page: a picture in; its likeliest classes, where the network looks, and how its blocks attend to each other."""

from typing import Any

import gradio  # pyright: ignore[reportMissingImports]  # an extra of its own
import numpy as np

from crosslayer.demo.look import CLASSES, Seen, look
from crosslayer.errors import FailedError, UsageError
from crosslayer.training.classifier import Classifier

_HEIGHT = 380
"""Of a picture on the page, in pixels."""


def build_page(classifier: Classifier, title: str) -> gradio.Blocks:
    """The page, not yet served: what the network has not is not on it.

    Args:
        classifier: a run's, or of a saved folder.
        title: of the page.
    """
    size = classifier.transform.view.size
    has = look(classifier, np.zeros((size, size, 3), np.uint8))
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f"# {title}\n{_about(classifier, has)}")
        with gradio.Row():
            picture = _titled("Picture", gradio.Image, type="filepath", sources=["upload", "clipboard"], height=_HEIGHT)
            ranking = _titled("Likeliest classes", gradio.Label, num_top_classes=CLASSES)
            drawn = {"visible": has.overlay is not None, "buttons": ["download", "fullscreen"], "interactive": False}
            overlay = _titled("Where it looks (Grad-CAM)", gradio.Image, height=_HEIGHT, **drawn)
        attention = _titled("How much block l attends to block m", gradio.Plot, visible=has.attention is not None)

        def show(file: dict[str, Any] | None) -> tuple[Any, ...]:
            if file is None:
                return None, None, None
            try:
                return tuple(look(classifier, file["path"]))
            except (UsageError, FailedError) as error:
                raise gradio.Error(_sentence(error, file), print_exception=False) from error

        # Unread: our own decoder knows more kinds of pictures, and says what is wrong with a damaged one.
        picture.change(show, picture, [ranking, overlay, attention], api_name="look", preprocess=False)
    return page


def _titled(title: str, kind: Any, *, visible: bool = True, **options: Any) -> Any:
    """A part of the page below its title."""
    with gradio.Column(visible=visible):
        gradio.Markdown(f"**{title}**")
        return kind(show_label=False, **options)


def _sentence(error: Exception, file: dict[str, Any]) -> str:
    """What went wrong, with the name that the user's file had."""
    return str(error).replace(file["path"], file.get("orig_name") or "the picture")


def _about(classifier: Classifier, has: Seen) -> str:
    """What the classifier is, in a line or two."""
    size, classes = classifier.transform.view.size, len(classifier.class_names)
    top1 = ((classifier.summary or {}).get("last") or {}).get("val/top1")
    accuracy = f", top-1 {top1:.2f} % on the validation split" if isinstance(top1, int | float) else ""
    lacking = "" if has.attention else " Its mechanism has no attention over layers, so there is nothing to draw."
    return f"{classes:,} classes, pictures of {size}×{size} pixels{accuracy}.{lacking}"


def serve(page: gradio.Blocks, **options: Any) -> tuple[str, str | None]:
    """Serves the page; its address here, and the public one if that was asked for and could be had.

    Args:
        page: of `build_page`.
        options: of gradio's `launch`.
    """
    theme = gradio.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    looks = {"theme": theme, "footer_links": ["api"], "ssr_mode": False, "quiet": True}  # no fonts from elsewhere
    _, here, public = page.launch(**{**looks, **options})
    return here, public
