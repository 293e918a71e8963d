import dataclasses
import threading
from importlib.util import find_spec
from typing import Annotated

import tyro

from crosslayer.console import console, errors
from crosslayer.errors import FailedError, UsageError
from crosslayer.options import parse_options
from crosslayer.training.classifier import load, title_of
from crosslayer.training.trained import Which


@dataclasses.dataclass(frozen=True)
class Options:
    """Open a page on this machine that shows what a classifier sees in a picture, and where it looks."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory of a classifier, a folder that save_pretrained wrote, or OWNER/NAME on the Hugging Face Hub."""
    port: int | None = None
    """Port of the page [default: the first free one from 7860 on]."""
    share: bool = False
    """Give the page a public address too, for three days, through gradio's servers."""
    browser: bool = True
    """Open the page in a browser."""
    checkpoint: Which = "last"
    """Which checkpoint."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def run(words: list[str]) -> None:
    """Crosslayer demo RUN [OPTION …]."""
    options = parse_options(Options, words, "crosslayer demo")
    if options.port is not None and not 0 < options.port < 1 << 16:
        raise UsageError(f"--port is {options.port}; it must be from 1 to 65535")
    if find_spec("gradio") is None:
        raise UsageError("demo needs gradio: pip install 'crosslayer[demo]'")
    from crosslayer.demo.page import build_page, serve

    try:
        classifier = load(options.run, checkpoint=options.checkpoint, device=options.device)
    except ValueError as error:
        raise UsageError(str(error)) from error
    page = build_page(classifier, title_of(options.run))
    try:
        here, public = serve(
            page, server_port=options.port, share=options.share, inbrowser=options.browser, prevent_thread_lock=True
        )
    except OSError as error:
        raise FailedError(f"--port {options.port or 7860}: the page cannot be served there; it may be taken") from error
    console.print(f"{options.run}: {here} (Ctrl-C ends it)")
    if options.share:
        errors.print(f"public for three days: {public}" if public else "--share: no public address could be had")
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)
