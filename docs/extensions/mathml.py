"""Formulas as MathML, which every browser draws by itself: no script, no fonts, no network, and no TeX to install."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def spaced(formula: str) -> str:
    """With TeX's thin spaces around names of functions, which docutils leaves out: ``s cos θ`` and not ``scosθ``."""
    formula = re.sub(r"(?<=[\w})])\s*(?=\\(?:cos|sin|log|min|max)\b)", r"\\,", formula)
    return re.sub(r"(\\(?:cos|sin|log))(?=\s+\w|\\(?!,|left|[bB]igl|frac|min|max))", r"\1\\,", formula)


def mathml(formula: str, **options) -> str:
    """What docutils makes of it, but that both bars of a norm are of one height, and an index stands beside its letter.

    docutils writes ``\\hat x_i`` with the index below the letter, as if the hat were a sum.
    """
    text = tex2mathml(spaced(formula), **options)
    text = re.sub(r"<mo( [^>]*)?>‖", r'<mo\1 stretchy="false">‖', text)
    hatted = r"<munderover>\s*(<mi>\w</mi>)\s*(<mi>\w</mi>)\s*(<mo[^>]*>[ˆ˜ˉ~]</mo>)\s*</munderover>"
    return re.sub(hatted, r'<msub><mover accent="true">\1\3</mover>\2</msub>', text)


def inline(translator, node):
    """A formula in a sentence."""
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(translator, node):
    """A formula of its own. It scrolls where it is wider than a phone."""
    translator.body.append(f'<div class="formula">{mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    """Sphinx's hook."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
