"""Engines: whatever answers queries and says how probable each token was.

`contract` says what an engine is and holds what all have in common; `stops` what ends an answer; `local` has
transformers and vLLM on this machine, and the cascade over two engines; `server` any server with OpenAI's completions
endpoint, whose replies `completions` reads; `threshold` keeps a calibrated threshold with what it holds for; `command`
is the command line `python -m cat_core.cascade`.

May import: the core, tasks and training. Free to change, as long as the contract's tests hold for every engine; what an
engine does not tell is left out, never guessed.
"""
