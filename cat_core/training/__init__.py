"""Training: from a suite to a small and a large model, and their answers as an outcome table.

`models` builds or loads the pair; `teacher` keeps what L says of the training set; `train` is the one Trainer,
`side_by_side` trains several S in one step, `joint` one with its router, on the examples of a `training_set`. `configs`
names a model by all that its weights depend on, `obtain` makes it or finds it among the `artifacts`, and `experiment`
does all of this for methods and seeds. `signals` asks models about held-out tokens; `provenance` says on what a run was
made, `code` by which code.

May import: the core, tasks, analysis (the outcome table) and rules. A change here retrains models: their names hold a
digest of the code that makes them (`code.code_digests`).
"""
