"""Builds these pages as a site: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "deviceflow"
author = "The deviceflow developers"
release = version = installed_version("deviceflow")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.mermaid"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"
