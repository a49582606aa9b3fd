"""A Sphinx extension: each link to a term of the glossary tells on hovering what the term means."""

from docutils import nodes
from sphinx.addnodes import glossary

LONGEST = 300  # characters of a definition
SIGNS = {"\\tau": "\u03c4", "\\alpha": "\u03b1", "\\infty": "\u221e", "\\log ": "log "}
"""Of formulas, which stand here as they are written."""


def setup(app):
    app.connect("doctree-read", _gather)
    app.connect("doctree-resolved", _explain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _gather(app, doctree):
    """The definitions of the glossary by the id of their term."""
    known = _definitions(app.env)
    for item in (item for found in doctree.findall(glossary) for item in found.findall(nodes.definition_list_item)):
        text = " ".join(" ".join(part.astext() for part in item.findall(nodes.definition)).split())
        for name, sign in SIGNS.items():
            text = text.replace(name, sign)
        known |= {ident: text for term in item.findall(nodes.term) for ident in term["ids"]}


def _explain(app, doctree, name):
    for link in doctree.findall(nodes.reference):
        ident = link.get("refuri", "").rpartition("#")[2] or link.get("refid", "")
        if text := _definitions(app.env).get(ident):
            link["reftitle"] = text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " \u2026"


def _definitions(env) -> dict[str, str]:
    if not hasattr(env, "cat_terms"):
        env.cat_terms = {}
    return env.cat_terms
