"""The token microscope: pushes against autograd of the library's loss, and the widget in a real browser."""

import re

import pytest
import torch
from cat_book.drawing.microscope import HALF, REASONS, WORDS, Sentence, microscope, push

from cat_core.loss import cascade_aware_loss

HOSTILE = """</script><img src=x onerror="window.hit=1">"""
STEPS = (0, 3, 40)
TEXTS = ["a", " b", "c\n", HOSTILE, "é", "f", "g"]


def sentence(seed, length):
    v = len(TEXTS)
    g = torch.Generator().manual_seed(seed)
    logits = [torch.randn(length, v, generator=g, dtype=torch.float64).mul(2).log_softmax(-1) for _ in range(4)]
    labels = torch.randint(v, (length,), generator=g)
    return Sentence(f"prompt {seed} {HOSTILE}", labels, logits[0], dict(zip(STEPS, logits[1:])))


SENTENCES = [sentence(0, 6), sentence(1, 9), sentence(2, 1)]


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
def test_push_is_minus_the_gradient_of_the_loss(weight):
    s = sentence(3, 40)
    logits = (s.small[3] + 1.5).requires_grad_()  # logits but for a constant
    loss = cascade_aware_loss(logits, s.labels, s.large, label_weight=weight, mask="either", reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(push(s.small[3], s.large, s.labels, weight), -gradient)
    assert (gradient == 0).all(1).any() and (gradient != 0).any()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("microscope") / "page.html"
    drawn = microscope(SENTENCES, TEXTS.__getitem__, name="demo", title=HOSTILE)
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    path.write_text(f"{head}<body>{drawn}", encoding="utf-8")
    return path


def check(page, s, step, i):
    """What is shown of token i at a step, computed anew."""
    small, large, label = s.small[step], s.large, s.labels
    right = [logits.argmax(-1) == label for logits in (small, large)]
    assert page.text(".cx-said") == (
        f"S is right on {int(right[0].sum())} of {len(label)} tokens, L on {int(right[1].sum())}. "
        f"The mask drops {int((~right[0] & ~right[1]).sum())}."
    )
    seen = [t.translate({32: "␣", 10: "↵"}) for t in (TEXTS[label[i]], *(TEXTS[p[i].argmax()] for p in (small, large)))]
    kind = {(1, 1): 0, (1, 0): 1, (0, 1): 2, (0, 0): 3}[bool(right[0][i]), bool(right[1][i])]
    assert page.texts("dd") == [*seen, REASONS[kind]]
    assert page.evaluate("[...document.querySelectorAll('.cx-token')].map(e => e.getAttribute('aria-pressed'))") == [
        "true" if k == i else "false" for k in range(len(label))
    ]
    target = torch.eye(len(TEXTS), dtype=torch.float64)[label[i]]
    expected = (target - small[i].exp()) * (kind < 3)
    shown = page.evaluate(
        """[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => [...r.children].map(
           c => c.textContent.trim()).concat(['width', 'x'].map(a => +r.querySelector('rect').getAttribute(a))))"""
    )
    names = [t.translate({32: "␣", 10: "↵"}) for t in TEXTS]
    assert len(shown) == WORDS and shown[0][0] == seen[0] and {seen[1], seen[2]} <= {row[0] for row in shown}
    for word, p, q, force, width, x in shown:
        v = names.index(word)
        assert (p, q) == tuple(f"{100 * float(m[i, v].exp()):.0f} %" for m in (small, large))
        value = float(force.replace("−", "-"))
        assert abs(value - float(expected[v])) <= 0.0051
        assert width == pytest.approx(HALF * abs(value), abs=0.06)
        assert x == pytest.approx(HALF - width if value < 0 else HALF, abs=0.06)


def test_steps_sentences_and_tokens_show_what_was_computed(browser, page_file):
    with browser.open(page_file) as page:
        check(page, SENTENCES[0], 0, 0)
        page.focus("input")
        for key, step in (("ArrowRight", 3), ("End", 40), ("ArrowLeft", 3)):
            page.press(key)
            check(page, SENTENCES[0], step, 0)
            assert page.text("output") == f"{step} of 40"
        page.raw.locator(".cx-token").nth(4).click()
        check(page, SENTENCES[0], 3, 4)
        page.raw.locator("select").select_option("1")
        check(page, SENTENCES[1], 3, 0)
        page.focus(".cx-token", 7)
        page.press("Enter")
        check(page, SENTENCES[1], 3, 7)
        assert page.text(".cx-prompt") == SENTENCES[1].prompt and page.text(".cx-title") == HOSTILE
        page.raw.locator("select").select_option("2")
        check(page, SENTENCES[2], 3, 0)
        assert page.evaluate("window.hit === undefined") and page.count("img") == 0


def test_on_a_phone_and_without_script(browser, page_file):
    with browser.open(page_file, width=390, height=844) as page:
        assert page.overflow() <= 0
        height = page.evaluate("Math.min(...[...document.querySelectorAll('button')].map(e => e.offsetHeight))")
        assert height >= 24, "a finger finds a token"
    with browser.open(page_file, javascript=False) as page:
        check(page, SENTENCES[0], 0, 0)


def test_bad_input_is_named():
    one = SENTENCES[0]
    other = Sentence("p", one.labels, one.large, {0: one.small[0]})
    unordered = Sentence("p", one.labels, one.large, dict(reversed(one.small.items())))
    for given, said in (([], "at least one sentence"), ([one, other], "same training steps"), ([unordered], "rising"),
                        ([Sentence("p", one.labels[:2], one.large, one.small)], "2 labels")):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(said)):
            microscope(given, TEXTS.__getitem__, name="x", title="t")
