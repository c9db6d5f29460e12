"""Builds these pages as a site: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from deviceflow.core import diagram

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "deviceflow"
author = project_copyright = "The deviceflow developers"
release = version = installed_version("deviceflow")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_design"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "deviceflow"
html_theme_options = {
    "announcement": "1.0.0rc1 is not released yet: where a page has <code>pip install"
    " deviceflow</code>, write the path of a clone."
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"


def setup(app: Sphinx) -> None:
    """Have the diagrams drawn while the pages are read."""
    app.connect("source-read", _draw_diagrams)


def _draw_diagrams(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Replace each Mermaid diagram, which only a script could draw, by an SVG."""
    for machine in diagram.DRAWINGS.values():
        begin, end = map(re.escape, machine.marks)
        source[0] = re.sub(
            f"{begin}.*?{end}",
            lambda _: f"```{{raw}} html\n{_svg(diagram.dot(machine))}\n```",  # noqa: B023
            source[0],
            flags=re.DOTALL,
        )


def _svg(graph: str) -> str:
    """Draw a graph with Graphviz, in the colours of the page."""
    looks = ["-Gbgcolor=transparent", "-Nfontname=sans-serif", "-Efontname=sans-serif"]
    colours = [f"-{part}{name}=#000001" for part in "NE" for name in ("color", "fontcolor")]
    drawn = subprocess.run(  # noqa: S603
        ["dot", "-Tsvg", *looks, *colours, "-Efontsize=11"],  # noqa: S607
        input=graph,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    drawn = drawn[drawn.index("<svg") :].replace("#000001", "currentColor")
    return f'<div class="diagram">{drawn}</div>'
