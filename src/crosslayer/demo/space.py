"""The same page as a Space of the Hugging Face Hub: a folder with the network, the program, and what it needs."""

import json
import tempfile
from pathlib import Path

from crosslayer import __version__
from crosslayer.files import write_text
from crosslayer.models.sharing import check_repository, upload_to_hub
from crosslayer.training.classifier import Classifier

_NETWORK = "network"
_PROGRAM = """import crosslayer
from crosslayer.demo.page import build_page, serve

classifier = crosslayer.load({network!r})
serve(build_page(classifier, {title!r}))
"""


def write_space(classifier: Classifier, folder: Path, title: str, name: str) -> None:
    """Writes app.py, requirements.txt, README.md with the hub's header, and the network below network/.

    Args:
        classifier: a run's, or of a saved folder.
        folder: made if it is not there; files of these names in it are replaced.
        title: of the page.
        name: of the Space.

    Raises:
        ValueError: a network that its description does not rebuild.
        FailedError: a file that could not be written.
    """
    header = {"title": name, "sdk": "gradio", "app_file": "app.py", "python_version": "3.11", "pinned": False}
    matter = "".join(f"{key}: {json.dumps(value)}\n" for key, value in header.items())  # JSON is YAML
    classifier.save_pretrained(folder / _NETWORK)
    write_text(folder / "README.md", f"---\n{matter}---\n\n# {title}\n\nWhat an image classifier sees, and where.\n")
    write_text(folder / "requirements.txt", f"crosslayer[demo]=={__version__}\n")
    write_text(folder / "app.py", _PROGRAM.format(network=_NETWORK, title=title))


def push_space(classifier: Classifier, repository: str, title: str, *, private: bool = False) -> str:
    """Puts the page on the hub as the Space OWNER/NAME, in one commit; returns the commit's address.

    Raises:
        ValueError: as `write_space`, or no OWNER/NAME; nothing was sent.
        FailedError: the hub could not be reached, or it refused.
    """
    check_repository(repository)
    with tempfile.TemporaryDirectory() as folder:
        write_space(classifier, Path(folder), title, repository.rpartition("/")[2])
        return upload_to_hub(
            Path(folder),
            repository,
            private=private,
            message="Add a page of crosslayer",
            repo_type="space",
            space_sdk="gradio",
        )
