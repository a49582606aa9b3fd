"""The book's own code: what only pages need. Nothing in `cat_core` imports it.

`drawing` turns quantities into tables, figures and sliders; `pages` says what each page shows; `build` runs the pages
and renders the HTML. Free to change: no recorded number depends on it.
"""
