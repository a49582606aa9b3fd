"""Studies: experiments with many seeds, fixed in a file beforehand, run once, read back without training.

`study` reads `data/studies/*.yaml` and what was recorded of each cell; `jobs` shares the work of a study among
processes, `record` writes what came of it, `cell_metrics` computes every number that the book says of a cell,
`cell_claims` what it says of the claims; `ablations` pairs cells that differ in one setting, `costs` says what their
training took. `command` is the command line `python -m cat_core.study`.

May import: the core, tasks, analysis, rules and training. Recorded files are evidence: whoever changes what is written
here keeps what was written before readable, bit for bit.
"""
