"""Drawing: quantities as tables, figures and sliders, in one look, without a kernel or a network.

`styles` gives every method its colour, dash and marker; `tables`, `figures`, `forest`, `banner`, `tiles`, and, to be
moved, `explorer`, `questions`, `microscope`, `calculator`, `headlines` draw; `chooser` shows one of several, also by
its mark on a `plane`; `strips` moves the marks of many lines at once; `check` judges answers to exercises; `markup`
holds their pieces of HTML and SVG, `assets` their style sheets and scripts.

May import: cat_core's core and the quantities of its analysis. Free to change: look at what came of it in a browser.
"""
