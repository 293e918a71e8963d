"""What the documentation site makes of a repository's links: the pages above docs/ join it, at the same places."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[1]
_PAGES = ("README.md", "CONTRIBUTING.md", "results/**/*.md", "results/**/*.png")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that live above docs/."""
    for pattern in _PAGES:
        for path in sorted(_ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(_ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page with links as the site has them, where docs/ is the root, and fences without the tests' marks."""
    markdown = re.sub(r"^```python file=(\S+)$", r'```python title="\1"', markdown, flags=re.MULTILINE)
    markdown = re.sub(r"^```python notest$", "```python", markdown, flags=re.MULTILINE)
    above = (_ROOT / page.file.src_uri).exists()
    return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown) if above else markdown.replace("](../", "](")
