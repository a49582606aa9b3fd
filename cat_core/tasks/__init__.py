"""Tasks: what is learnt from and tested on.

An example is one query with its answer (`example`), a suite many of them in three splits (`suite`). Suites are built in
(`synthetic` and `mini_flan` in invented words; `almanac` in real ones: `cldr` reads names and facts out of Babel,
`almanac_tasks` makes items of them, `almanac_templates` holds their wording; `manual` is running text out of Python's
installation), described by a file of the registry, or read from JSON lines and folders in Hub layout (`sources`) or
through sacrebleu (`newstests`); what is drawn of them is drawn by `draws`, and how right an answer is says `scoring`
(with the rules of `drop`); `bag_of_words` is the yardstick of one that reads no order. The registry: what a file of
`data/tasks` may say (`entries`), what its names mean (`registry`), how rows are cleaned (`preprocessing`) and become
examples (`rendering`), whether a folder holds what it says (`check`), how to fetch it (`mirror`), all of it from a
shell (`command`; `__main__` is its door). For all rooms, `schema` reads and checks files that people write, and `shell`
ends command lines.

May import: the core. A new data set needs no code here, only a file in `data/tasks`; a change that alters an example's
text or order alters every digest after it, so it needs a reason.
"""
