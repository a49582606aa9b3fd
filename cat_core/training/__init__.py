"""Training: from a suite to a small and a large model, and their answers as an outcome table.

`models` builds or loads the pair; `starts` says what it is trained with by the kind of its start; `teacher` keeps what
L says of the training set; `train` is the one Trainer, `side_by_side` trains several S in one step, `joint` one with
its router, on the examples of a `training_set`; `deferral` is the token by which S may say "ask L"; `tuning` trains a
part of a model, and `frozen` keeps what the rest gives; `learned` gives S the learned deferral rules. `configs` names a
model by all that its weights depend on, `obtain` makes it or finds it among the `artifacts`, and `experiment`, whose
fields `options` checks, does all of this for methods and seeds, after `plan` has said what it takes and `checks` have
tried loaded models on the task's own texts. `pairs` lists open models that go together, `fetch` gets one once into the
`model_store`; `gguf_files` reads llama.cpp's files, `tokenizer_files` tokenizers as they were written, and `depth` cuts
a small model out of a large one. `signals` asks models about held-out tokens, `next_token` makes queries of these;
`provenance` says on what a run was made, `code` by which code.

May import: the core, of shapes the cuts, tasks, analysis (the outcome table) and rules. A change here retrains models:
their names hold a digest of the code that makes them (`code.code_digests`).
"""
