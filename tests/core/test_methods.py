"""Names of methods and rules: one table each, and what is computed are the rules that it names."""

import torch

from cat_core.confidence import answer_confidence, option_confidence
from cat_core.inference import EXACT_RULES
from cat_core.methods import METHODS, RULES, name, rule_name
from cat_core.rules.posthoc import FITTED
from cat_core.rules.prompts import BEFORE


def test_rules_that_need_no_learning_are_those_that_confidence_computes():
    rows, mask = torch.tensor([[-0.1, -2.0]]), torch.ones(1, 2, dtype=torch.bool)
    made = {*answer_confidence(rows, -rows, -rows, mask), *option_confidence(rows)}
    assert made == {key for key, rule in RULES.items() if not rule.learned}
    assert {*FITTED, *BEFORE, "joint_router", "call_token"} == {key for key, rule in RULES.items() if rule.learned}
    assert set(BEFORE) == {key for key, rule in RULES.items() if rule.before}
    assert set(EXACT_RULES) == {"chow_sum", "chow_quantile_0"}


def test_every_entry_can_be_shown():
    assert all(rule.label and rule.needs and rule.cost and rule.source for rule in RULES.values())
    assert all(method.label for method in METHODS.values())
    for table, named in ((RULES, rule_name), (METHODS, name)):
        assert len({named(key) for key in table}) == len(table) and named("one's own") == "one's own"
