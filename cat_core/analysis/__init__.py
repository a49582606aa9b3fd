"""Analysis: from an outcome table to numbers.

The table has one row for every item, model, method and seed (`outcomes`); a `comparison` of methods reads it: curves,
`intervals` by `resampling`, `estimates` of a `saving` and their `pooling`, `operating_points`, corpus metrics by
`corpus`, others that are no mean by `classes`, what a task reports beside its metric by `further`, and more by
`contrasts`, `decomposition`, `limits`, `literature` and `rivals`. What comes out are `quantities`, declared in
`metrics`, judged in `claims` and `verdicts` unless one of the `guards` forbids it, written by `publish`; `checksums`
find what has changed in files since.

May import: the core and tasks. No model is run here, torch is not needed, and nothing knows HTML. The rules of claims
and verdicts are fixed before results are seen; whoever changes one says so in the book.
"""
