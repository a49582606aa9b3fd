"""The grid is shown as the metrics hold it, C7 comes apart without remainder, and nothing recorded is no error."""

import numpy as np
import pytest
from cat_book.pages import rules_report
from small_cells import RULES, made
from small_tables import table, text_table

from cat_core.analysis import contrasts
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.saving import saving
from cat_core.ranking import Interval
from cat_core.studies import cell_claims


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "made"
    methods = ("xent", "dist", "cat-xent", "cat-dist")
    accuracy = table(methods, large_seeds=(3, 7), seeds=(0, 1, 2), n=40)
    return made(folder, "accuracy", accuracy), made(folder, "bleu", text_table())


def test_grid_has_every_rule_constant_policies_and_the_oracle(cells):
    for cell in cells:
        shown, m = rules_report.grid_table(cell), cell.metrics()
        first = [row[0] for row in shown.rows]
        assert first[:3] == ["always S (quality)", "always L (quality)", "random deferral (AUDC)"]
        assert first[-1] == "oracle" and len(first) == 4 + len(RULES)
        column = [row[1] for row in shown.rows]
        method = shown.columns[1]
        key = next(k for k in m.methods if rules_report.name(k) == method)
        assert sum(text.endswith("*") for text in column) == 1
        chosen = first[[text.endswith("*") for text in column].index(True)]
        assert chosen == rules_report.rule_name(m.rule_grid.best_on_calibration[key])
        scale = 1 if cell.name == "bleu" else 100
        row = m.methods[key]
        gap = scale * (row.oracle_audc - row.random_audc.estimate)
        assert column[-1] == f"{gap:+.2f}"
        average = scale * m.rule_grid.over_random[key]["chow_average"].estimate
        assert column[3].startswith(f"{average:+.2f}".replace("-", "\u2212"))
        assert "n = " in shown.note and "seeds of S" in shown.note and "0123456789" in shown.note
    assert "greedy" in rules_report.grid_table(cells[1]).note


def test_grid_figure_draws_the_numbers(cells):
    shown = rules_report.grid_figure(cells[0], "Figure 1")
    assert shown.png[:4] == b"\x89PNG" and shown.caption.startswith("Figure 1: what each deferral rule adds")
    assert "n = 40 test items; 3 seeds of S over 2 of L; device: a machine; commit 0123456789" in shown.caption
    assert all(rules_report.rule_name(rule) in shown.alt for rule in RULES)
    rows = {"a": [Interval(1, 0, 2), Interval(-1, -2, 3)], "b": [Interval(0.5, 0.5, 0.5), None]}
    fig = rules_report.dots_figure(["r", "$s"], rows, x_label="points", marked={("$s", "a")})
    (ax,) = fig.axes
    lines = {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}
    np.testing.assert_allclose(lines["a"].get_xdata(), [1, -1])
    np.testing.assert_allclose(lines["b"].get_xdata(), [0.5])
    np.testing.assert_allclose(lines["a"].get_ydata(), [-0.3, 0.7])
    rings = [line for line in ax.get_lines() if line.get_markersize() == 10.5]
    assert [list(ring.get_xdata()) for ring in rings] == [[-1], []]
    with pytest.raises(ValueError, match="give every method one a row"):
        rules_report.dots_figure(["r"], rows, x_label="points")


def test_choices_are_counted_in_words(cells):
    said = rules_report.best_rules(cells)
    chosen = [rule for cell in cells for rule in cell.metrics().rule_grid.best_on_calibration.values()]
    first = max(sorted(set(map(rules_report.rule_name, chosen))),
                key=[rules_report.rule_name(r) for r in chosen].count)  # fmt: skip
    assert said.startswith(f"{first} (")
    regrets = [x["chow_average"] for cell in cells for x in cell.metrics().rule_grid.regret.values()]
    better, worse = sum(x.low > 0 for x in regrets), sum(x.high < 0 for x in regrets)
    assert said.endswith(f"better than Chow-Average in {better} and worse in {worse} of {len(chosen)} cases")
    assert rules_report.best_rules([]) == "none, as nothing is recorded"


def test_choice_is_read_from_the_regrets(cells):
    shown = rules_report.choice_table(cells)
    assert len(shown.rows) == 6
    m = cells[0].metrics().rule_grid
    for row, (method, best) in zip(shown.rows, m.best_on_calibration.items()):
        regret = {rule: v.estimate for rule, v in m.regret[method].items()}
        lost = min(regret.values())
        assert row[1] == rules_report.rule_name(best)
        assert row[3] == "it is the best" if lost == 0 else row[3].startswith(f"\u2212{-100 * lost:.2f}")


def test_c7_comes_apart_without_remainder(cells):
    found = {cell.name: cell.metrics().contrasts for cell in cells}
    for cell in cells:
        parts = found[cell.name]
        for rule in ("edge", "chow_quantile_0"):
            whole, training, own, same = (parts[f"{p} {rule}"].estimate for p in ("whole", "training", "rule", "same"))
            assert whole == pytest.approx(training + own, abs=1e-12)
            change, after, before = (parts[f"{p} {rule}"].estimate for p in ("change", "cat-dist", "dist"))
            assert change == pytest.approx(after - before, abs=1e-12)
            assert same == pytest.approx(training + change, abs=1e-12)
            row = next(r for r in cell.metrics().claims if r.measure.endswith(rules_report.rule_name(rule)))
            c = cell.comparison()
            wanted = saving(c, "cat-dist", "dist", "chow_average", rule)
            assert row.number == (wanted if isinstance(wanted, Undefined) else wanted.number)
    assert len(rules_report.apart_table(cells, found).rows) == 4
    assert [row[0] for row in rules_report.learned_table(cells, found).rows] == [
        f"{cell}, {rule}" for cell in ("accuracy", "bleu") for rule in ("Post-Hoc-Quantile", "EdgeInference")
    ]
    assert "of 4 cases" in rules_report.learned_help(found)
    c = cells[0].comparison(methods=("xent", "dist"))
    assert contrasts.rule_contrasts(c, ["edge"]) == {} == contrasts.rule_contrasts(cells[0].comparison(), [])


def test_claim_table_follows_the_ledger(cells):
    shown, said = rules_report.claim_table(cells)
    assert len(shown.rows) == 4 and said.startswith("C7, ") and f"{said}. " in shown.note
    shown, said = rules_report.claim_table(cells[:1])
    assert {row[0] for row in shown.rows} == {"accuracy"}
    assert all(row.claim == "C7" for row in cell_claims.baseline_claims(cells[0].comparison(), None))


def test_factors(cells):
    found = {cell.name: cell.metrics().factors for cell in cells}
    c = cells[0].comparison()
    by_method = [np.mean([c.audc(m, r).estimate for r in RULES]) for m in c.methods]
    assert found["accuracy"]["training"].spread == pytest.approx(np.std(by_method, ddof=1), abs=1e-12)
    over = [np.mean([c.over_random(m, r).estimate for r in RULES]) for m in c.methods]
    assert found["accuracy"]["training, over random"].spread == pytest.approx(np.std(over, ddof=1), abs=1e-12)
    assert len(rules_report.factors_table(cells, found).rows) == 8
    assert "in " in rules_report.larger_factor(found) and "of 2 cells" in rules_report.larger_factor(found)
    assert found["accuracy"]["rule"].best in RULES
    few = contrasts.rule_effects(c, c.methods, RULES[:1])
    assert isinstance(few, Undefined)
    assert len(rules_report.factors_table(cells[:1], {"accuracy": few}).rows) == 1
    assert "(8 of" not in rules_report.best_rules(cells) and "of 6)" in rules_report.best_rules(cells)


def test_nothing_recorded_is_said():
    for shown in (
        rules_report.choice_table(()), rules_report.claim_table(())[0], rules_report.apart_table((), {}),
        rules_report.factors_table((), {}), rules_report.learned_table((), {}),
    ):  # fmt: skip
        assert shown.rows[0][0] == "none"
    assert "not testable" in rules_report.claim_table(())[1]
    for words in (rules_report.best_rules(()), rules_report.larger_factor({}), rules_report.learned_help({})):
        assert "recorded" in words
