"""Build: running the notebooks of an edition, and rendering what came of it as HTML.

`editions` checks parameter files against the pages, `parameters` writes what they say of an experiment; `driver` runs
what is not up to date, each page in a process of its own (`page`), `fingerprints` says what a page rests on, `manifest`
what was run; `overlay` builds the HTML, with `terms` for the glossary, `reading` for the minutes and `slides` for a
lecture; `pdf` prints it; `bootstrap` makes the environment, `runs` is the command `python -m cat_core.runs`.

May import: the core, tasks and training. Free to change; `bootstrap` needs the standard library alone.
"""
