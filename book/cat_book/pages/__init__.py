"""Pages: what each page of the book shows, one module a page or group of pages.

A notebook holds prose, parameters and calls; what it calls is here. `training_report` and `suite_report` serve the
pages that train (01, 04 to 06), `study_report` all that show recorded cells; the others are named after their page or a
part of it. `covers` makes what a page begins and ends with; `live` answers what a reader types; `pieces` holds what
several of them say: labels, captions, forest plots.

May import: cat_core and drawing. Free to change; no interval is made here, as numbers come from analysis and studies.
"""
