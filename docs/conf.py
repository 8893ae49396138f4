"""How Sphinx builds these pages: ``python -m sphinx -W docs docs/_build``."""

import re
import sys
from pathlib import Path

import matplotlib
import matplotlib.animation

from pml_center import __version__

matplotlib.use("Agg")
# The buttons of an animation are icons of a font that the theme has too: the site needs no network.
matplotlib.animation.JS_INCLUDE = re.sub(r"<link[^>]*>", "", matplotlib.animation.JS_INCLUDE)
sys.path.append(str(Path(__file__).parent / "extensions"))

project = "pml-center"
author = "the authors of pml-center"
copyright = "the authors of pml-center"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "sphinx_copybutton",
    "cyclopts.ext.sphinx",
    "mathml",
    "loss_pages",
    "loss_pictures",
]
exclude_patterns = ["_build"]

html_math_renderer = "mathml"
smartquotes = False  # `--help` is no dash
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme = "pydata_sphinx_theme"
html_title = "pml-center"
html_show_sourcelink = False
html_show_copyright = False
SECTIONS = ("losses", "regularizers")  # whose pages stand beside each other; single pages stand in the header
html_sidebars = {page.stem: [] for page in Path(__file__).parent.glob("*.md") if page.stem not in SECTIONS}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "show_toc_level": 2,
    "navbar_end": ["theme-switcher"],
    "footer_end": [],
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}

myst_enable_extensions = ["attrs_block", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Links within the site are held by a test; `-b linkcheck` asks for the others, which needs a network.
linkcheck_anchors = False
linkcheck_retries = 2
linkcheck_timeout = 20

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the signature has them
autodoc_preserve_defaults = True
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of a dataclass are documented once
napoleon_use_rtype = False
SECTIONS = ["Shape", "State", "Defaults", "Gradient", "Source", "Differs"]
napoleon_custom_sections = [(name, "returns_style") for name in SECTIONS]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/plot_",
    "download_all_examples": False,
    "remove_config_comments": True,
    "image_srcset": ["2x"],
    "matplotlib_animations": (True, "jshtml"),
    "capture_repr": (),
    "show_memory": False,
    "min_reported_time": 3600,  # seconds tell of the machine that built the site
    "show_signature": False,
    "write_computation_times": False,
    "within_subsection_order": "gallery_order.position",
}


def rewrite_docstring(app, what, name, obj, options, lines):
    """Three things that our docstrings write more simply than napoleon reads.

    ``Shape: text`` is a section, whose text napoleon wants on lines of its own, and behind a colon: else what stands
    before the first colon of the text would be a type. What is said of an attribute wants that colon, too.
    ``num_classes: C.`` is a sentence, and not the third entry of a list.
    """
    if what in ("attribute", "property") and lines:
        lines[0] = f": {lines[0]}"
    rewritten = []
    for line in lines:
        section = re.fullmatch(rf"({'|'.join(SECTIONS)}): (\S.*)", line)
        line = re.sub(r"^(\s+\w+: [A-Z])\.$", r"\1", line)
        rewritten += [f"{section[1]}:", f"    : {section[2]}"] if section else [line]
    lines[:] = rewritten


def setup(app):
    """Sphinx's hook: ours comes before napoleon's."""
    app.connect("autodoc-process-docstring", rewrite_docstring, priority=100)
