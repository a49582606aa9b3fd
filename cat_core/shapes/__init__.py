"""Configurations of transformers models as shapes, the sizes that decide what a query costs; and their caches.

`layers`           a layer and a whole model as costs of a token, of a query-key pair, of a logit row
`fields`           reading a configuration: what a formula reads, what changes no count, and refusing the rest
`decoders`         families that read prompt and answer in one row
`linear`           families with layers of linear attention, whose state has one size
`encoder_decoders` families that read the prompt in an encoder
`passes`           what a pass of tokens through a shape costs
`measured`         costs counted over a model's own passes, where there is no formula
`caches`           padding, where to cut rows so that little is computed, and caches, whose rows can be chosen
`trial`            whether a family without a formula answers in a batch as it does alone
`families`         model type -> family, and `shape_of`, which all FLOPs start from

May import: torch, transformers, numpy and the standard library. The core imports from here (`cat_core.flops` is the
door of costs), and training the cuts. A family goes in with its test against PyTorch's counter.
"""
