"""Rules: deferral rules that are learned, on calibration rows, one file a rule.

`features` says what they may look at, `fitting` how a small network is fitted, cross-fitted, saved and loaded; `edge`,
`posthoc` and `prompts` (which look at the prompt alone) are the rules. Rules that need no learning are in the core
(`confidence`); all of them are named in `methods.RULES`, with what each needs, what it costs and where it comes from.

May import: the core. A new rule is a new file and one line in `methods.RULES`; it must see calibration rows only.
"""
