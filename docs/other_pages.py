"""A hook of mkdocs: pages that lie outside of `docs` are on the site too, and links lead there as in the repository."""

from __future__ import annotations

import os
import pathlib
import posixpath
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = pathlib.Path(__file__).parents[1]
PLACES = ("CHANGELOG.md", "recipes/README.md", "results/**/*.md", "results/figures/*.png", "results/figures/*.svg")
LINK = re.compile(r"(?<=\]\()[^)\s]+|(?<=\]: )\S+")
"""Where a link leads: in the text, or where a reference is defined."""


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and their figures, each where it has its place in the repository."""
    from mkdocs.structure.files import File

    for place in PLACES:
        for path in sorted(ROOT.glob(place)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, os.fspath(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text, whose links lead from its place on the site."""
    return LINK.sub(lambda link: site_link(page.file.src_uri, link[0]), markdown)


def site_link(page: str, link: str) -> str:
    """A link of a page, which leads from its place in the repository, as one that leads from its place on the site.

    Args:
        page: The page on the site. What is in `docs` lies at the top there, and all else as in the repository.
        link: Where the page's link leads; what is no file of the repository stays as it is.
    """
    name, mark, anchor = link.partition("#")
    place = page if (ROOT / page).exists() else f"docs/{page}"
    target = posixpath.normpath(posixpath.join(posixpath.dirname(place), name))
    if not name or ":" in name or not (ROOT / target).exists():
        return link
    return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(page) or ".") + mark + anchor
