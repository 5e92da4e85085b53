"""Pages of the site that stand at the top of the tree: CONTRIBUTING.md and CHANGELOG.md, linked as docs/ sees them."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages; MkDocs calls this when it has listed docs/."""
    top = Path(config.config_file_path).parent
    for page, source in _PAGES.items():
        text = (top / source).read_text(encoding="utf-8")
        for other, file in _PAGES.items():
            text = text.replace(f"]({file}", f"]({other}")
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    return files
