"""Formulas as MathML, which every browser draws by itself: no script, no fonts, no network, and no TeX to install."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def spaced(formula: str) -> str:
    """With TeX's thin spaces around names of functions, which docutils leaves out: ``s cos θ`` and not ``scosθ``."""
    formula = re.sub(r"(?<=[\w})])\s*(?=\\(?:cos|sin|log|min|max)\b)", r"\\,", formula)
    return re.sub(r"(\\(?:cos|sin|log))(?=\s+\w|\\(?!,|left|[bB]igl|frac|min|max))", r"\1\\,", formula)


def inline(translator, node):
    """A formula in a sentence."""
    translator.body.append(tex2mathml(spaced(node.astext())))
    raise nodes.SkipNode


def block(translator, node):
    """A formula of its own. It scrolls where it is wider than a phone."""
    translator.body.append(f'<div class="formula">{tex2mathml(spaced(node.astext()), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    """Sphinx's hook."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
