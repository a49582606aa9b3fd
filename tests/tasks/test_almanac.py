"""The almanac: facts checked against truths written down here and against Babel once more, splits, templates, noise."""

import ast
import dataclasses
import datetime
import functools
import re
import string
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cat_core.tasks.almanac import FREE, GROUPS, TASKS, Almanac, _phrases, almanac, chosen_tasks
from cat_core.tasks.almanac_tasks import QUESTIONS, TOKENIZERS, TRANSLATION, questions, translations
from cat_core.tasks.almanac_templates import TEMPLATES
from cat_core.tasks.example import SPLITS, options_block
from cat_core.tasks.suite import Suite, load_suite

babel = pytest.importorskip("babel", reason="the almanac is made of Babel")
from babel import Locale, core, languages, numbers  # noqa: E402

from cat_core.tasks import cldr  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PRINTS = {
    "almanac": "293c7d4cae001378df7aac89b7c11d8ba6252756e3e310b69d3baf233e7c8c09",
    "almanac-questions": "b1455a52de4b44b5fc1ea6b398d464bc0fe6deb8428181e207dd1fce443a2fdb",
    "almanac-translation": "4961625a4039c91406b9813374e2114d678a0d5fbdddf39448eb5e5fc8c4268d",
}
ENGLISH = Locale("en")
OPTIONED = [task for task in QUESTIONS if task not in FREE]
SMALL = {"train": 8 * len(TASKS), "calibration": 2 * len(TASKS), "test": 4 * len(TASKS)}


@pytest.fixture(scope="module")
def whole():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no test prompt in train, no cluster shared but where it is said
        return load_suite("almanac")


@pytest.fixture(scope="module")
def by_task(whole):
    found = defaultdict(list)
    for example in whole.examples:
        found[example.task].append(example)
    return found


def state_of(name):
    """Code of a country by its English name, with or without its article."""
    codes = [code for code, known in ENGLISH.territories.items() if known == name.removeprefix("the ")]
    assert len(codes) == 1, name
    return codes[0]


def items(task):
    return {item.fact: item for item in questions()[task]}


def pinned(name):
    if cldr.versions() != cldr.PINNED:
        pytest.skip(f"Babel {cldr.versions()} is here; {name} is recorded for {cldr.PINNED}")


# ---------------------------------------------------------------- the suite


@pytest.mark.parametrize("name", PRINTS)
def test_byte_for_byte_the_same(name, whole):
    pinned(name)
    suite = whole if name == "almanac" else load_suite(name)
    assert suite.fingerprint == PRINTS[name]


@pytest.mark.slow
def test_another_seed_is_another_suite(whole):
    other = load_suite("almanac", options={"seed": 1})
    assert other.fingerprint == load_suite("almanac", seed=1).fingerprint != whole.fingerprint
    held_out = [{e.cluster_id for e in suite.examples if e.held_out == "fact"} for suite in (whole, other)]
    assert len(held_out[0] & held_out[1]) < 0.6 * len(held_out[0])


def test_sizes(whole, by_task):
    assert whole.tasks == TASKS and len(TASKS) >= 12 and len(whole.split("train")) >= 20_000
    for examples in by_task.values():
        sizes = Counter((e.split, e.held_out) for e in examples)
        assert sizes == {("train", ""): 800, ("calibration", "wording"): 20, ("calibration", "fact"): 20,
                         ("test", "wording"): 40, ("test", "fact"): 40}  # fmt: skip


@pytest.mark.slow
def test_parts_are_what_the_whole_has(whole):
    def told(examples):
        return Counter(dataclasses.replace(e, item_id="") for e in examples)

    parts = [load_suite(f"almanac-{group}").examples for group in GROUPS]
    assert told(parts[0]) + told(parts[1]) == told(whole.examples)
    assert {e.task for e in parts[0]} == set(QUESTIONS) and {e.task for e in parts[1]} == set(TRANSLATION)
    single = load_suite("almanac", options={"tasks": "script, currency", "train": 1600, "calibration": 80, "test": 160})
    assert single.tasks == ("currency", "script")
    assert told(single.examples) <= told(whole.examples)


def test_prompts_are_whole_and_held_out_ones_occur_once(whole):
    count = Counter(e.prompt for e in whole.examples)
    for example in whole.examples:
        assert example.prompt == example.prompt.strip() and not re.search(r"[{}\xa0\u202f\u200e\u200f]", example.prompt)
        assert example.target == example.target.strip()
        assert count[example.prompt] == 1 or example.split == "train", example.prompt
        assert ("OPTIONS:" in example.prompt) <= (options_block(example.options) in example.prompt)


def test_metrics_and_options(by_task):
    for task, examples in by_task.items():
        assert {e.metric for e in examples} == {FREE.get(task, "accuracy")}
        assert {e.tokenize for e in examples} == {TOKENIZERS.get(task[-2:], "") if task in TRANSLATION else ""}
        lengths = {len(e.options) for e in examples}
        assert lengths == {0} if task in FREE else lengths == {2 if task == "majority" else 4}
        places = Counter(e.options.index(e.target) for e in examples if e.options)
        assert not places or max(places.values()) < 1.3 * len(examples) / len(places)
    assert {e.tokenize for e in by_task["translation-en-zh"]} == {"zh"}
    assert {e.tokenize for e in by_task["translation-en-ja"]} == {"char"}


def test_facts_that_are_held_out_are_in_one_split_of_all_tasks(whole):
    splits = defaultdict(set)
    for example in whole.examples:
        splits[example.cluster_id].add(example.split)
    for example in whole.examples:
        if example.held_out == "fact":
            assert splits[example.cluster_id] == {example.split}
    trained = {(e.task, e.cluster_id) for e in whole.split("train")}
    again = {split: {(e.task, e.cluster_id) for e in whole.split(split) if e.held_out == "wording"} for split in SPLITS}
    assert again["test"] | again["calibration"] <= trained and not again["test"] & again["calibration"]


def test_what_is_held_out_of_the_names_is_made_of_words_that_training_has(whole):
    """Each word of a held-out English name is in the name of a fact that no split has to itself."""
    facts = defaultdict(set)
    for example in whole.examples:
        if example.cluster_id.startswith("name "):
            facts[example.held_out == "fact"].add(example.cluster_id)
    words = {word for fact in facts[False] for word in re.findall(r"\w+", fact)}
    left = [fact for fact in facts[True] if set(re.findall(r"\w+", fact)) - words]
    # A few need a name that the 800 training items of no direction happen to hold.
    assert len(facts[True]) > 100 and len(left) <= 0.1 * len(facts[True]), left


def pattern(template):
    return re.compile("".join(re.escape(text) + ("(.+)" if name else "") for text, name, _, _ in
                              string.Formatter().parse(template)), re.DOTALL | re.IGNORECASE)  # fmt: skip


def test_templates():
    assert set(TEMPLATES) == {*QUESTIONS, "translation"}
    for task, (usual, anew) in TEMPLATES.items():
        assert (len(usual), len(anew)) == (5, 3) and len({*usual, *anew}) == 8
        fields = [{name for _, name, _, _ in string.Formatter().parse(t) if name} for t in (*usual, *anew)]
        assert len({frozenset(names - {"options", "kind"}) for names in fields}) == 1  # all ask for the same
        listed = ["options" in names for names in fields]
        if task in ("currency-country", "language-country", "country-city"):
            assert all(listed)  # the question alone has several right answers
        else:
            assert any(listed) == (task in OPTIONED and task != "majority")


def test_wording_is_held_out_and_facts_are_asked_as_in_training(by_task):
    for task, examples in by_task.items():
        usual, anew = ([pattern(t) for t in part] for part in TEMPLATES[task if task in QUESTIONS else "translation"])
        for example in (e for e in examples if e.split != "train" or e.item_id < "train-003000"):
            fits = [any(p.fullmatch(example.prompt) for p in part) for part in (usual, anew)]
            assert fits[example.held_out == "wording"], (task, example.prompt)


def test_wrong_answers_of_training_are_right_elsewhere_in_it(by_task):
    for task in ("currency-country", "language-country", "country-city"):
        right = {e.target for e in by_task[task] if e.split == "train"}
        shown = {option for e in by_task[task] if e.split == "train" for option in e.options}
        assert shown == right
        held_out = {option for e in by_task[task] if e.held_out == "fact" for option in e.options}
        assert not (held_out & right) - {e.target for e in by_task[task] if e.held_out == "wording"}


def test_options_alone_give_little_away(by_task):
    """The option that is right most often where it is shown in training: chance is a quarter."""
    for task in OPTIONED:
        shown, right = Counter(), Counter()
        for example in (e for e in by_task[task] if e.split == "train"):
            shown.update(example.options)
            right[example.target] += 1
        tested = [e for e in by_task[task] if e.split != "train"]
        hits = sum(max(e.options, key=lambda o: (right[o] + 1 / 4) / (shown[o] + 1)) == e.target for e in tested)
        assert hits / len(tested) < 0.65, task


def test_fame_is_known_where_something_has_a_name(by_task):
    for task, examples in by_task.items():
        famed = [e.fame for e in examples]
        assert all(0 <= fame <= 1 for fame in famed)
        if task in ("calendar", "conversion"):
            assert set(famed) == {0.0}
        else:
            assert len(set(famed)) > 10
    fame = cldr.fame()
    assert fame["territory", "US"] > fame["territory", "NF"] and fame["language", "en"] > fame["language", "rof"]


def test_the_table_of_tasks_says_how_many_facts_there_are():
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for task, found in questions().items():
        assert f"| `{task}` | {len({item.fact for item in found}):,} |" in readme
    counts = [len(found) for found in translations(*_phrases(0)).values()]
    assert f"| `translation-de-en` and 19 more | {min(counts):,} to {max(counts):,} |" in readme


# ---------------------------------------------------------------- facts

TRUE = {
    "currency": {"PE": "sol", "JP": "yen", "IN": "rupee", "TH": "baht", "PL": "zloty", "KE": "shilling", "IL": "shekel",
                 "US": "dollar", "FR": "euro", "HU": "forint", "VN": "dong", "CH": "franc", "GT": "quetzal"},
    "official": {"BR": "Portuguese", "FI": "Finnish", "IR": "Persian", "KR": "Korean", "AT": "German", "EG": "Arabic",
                 "IS": "Icelandic", "AO": "Portuguese", "MN": "Mongolian", "SR": "Dutch", "IN": "Hindi"},
    "city": {"Asia/Tokyo": "Japan", "Africa/Nairobi": "Kenya", "Europe/Oslo": "Norway", "America/Lima": "Peru",
             "Asia/Karachi": "Pakistan", "Africa/Lusaka": "Zambia", "America/Toronto": "Canada",
             "Australia/Sydney": "Australia", "Asia/Vladivostok": "Russia", "America/New_York": "United States"},
    "script": {"ru": "Cyrillic", "mr": "Devanagari", "fr": "Latin", "ur": "Arabic", "am": "Ethiopic", "yi": "Hebrew"},
    "unit": {"length-furlong": "length", "pressure-pascal": "pressure", "area-acre": "area", "power-watt": "power",
             "volume-bushel": "volume", "mass-carat": "mass", "energy-joule": "energy"},
    "share": {"CZ de": "no", "HU hu": "yes", "JP ja": "yes", "JP ko": "no", "CN zh": "yes", "BG tr": "no"},
    "sum": {"March +2": "May", "Friday -3": "Tuesday", "November +3": "February", "Sunday +1": "Monday",
            "January -1": "December", "Monday -6": "Tuesday"},
    "word": {"es month 1": "January", "it weekday 0": "Monday", "fi month 12": "December", "nl weekday 5": "Saturday",
             "pl month 5": "May"},
    "called": {"fi DE": "Finnish", "pl IT": "Polish", "hu IT": "Hungarian"},
    "conversion": {"7 kilometer meter": "7000", "3 day hour": "72", "5 mile yard": "8800",
                   "2 hectare square-meter": "20000"},
}  # fmt: skip


def test_known_truths():
    asked = set(QUESTIONS) - {"currency-country", "language-country", "country-city", "currency-name"}
    facts = {fact: item for task in asked for fact, item in items(task).items()}
    for kind, answers in TRUE.items():
        for which, answer in answers.items():
            assert facts[f"{kind} {which}"].answer == answer
    assert items("conversion")["conversion 3 kilometer meter"].references == ("3,000",)
    assert items("currency-name")["currency PE"].references == ("Peruvian Sol",)
    assert items("country-city")["city Asia/Tokyo"].fields == {"country": "Japan"}
    assert items("language-country")["official FI"].fields == {"language": "Finnish"}


def test_what_has_no_one_answer_is_left_out():
    for state in ("PA", "BT", "HT", "LS", "NA", "ZW"):  # two currencies
        assert f"currency {state}" not in items("currency")
    for state in ("TW", "PS", "EH", "XK", "GE", "HK", "GL"):
        assert state not in cldr.states()
    for zone in ("Asia/Jerusalem", "Europe/Simferopol", "America/Santiago", "America/Panama", "Asia/Singapore"):
        assert zone not in cldr.cities()
    assert not {"sr", "uz", "ja", "hi", "zh", "az", "pa", "kk"} & set(cldr.scripts())
    assert all(not 25 < share < 75 for share in (
        cldr.spoken(state)[language][0] for state, language in cldr.majorities()))  # fmt: skip


def current_units(state):
    """Every currency that was tender in a state in 2025, by the last word of its English name."""
    codes = numbers.get_territory_currencies(state, datetime.date(2025, 9, 1), datetime.date(2025, 9, 1))
    return {ENGLISH.currencies[code].split()[-1].lower() for code in codes}


def test_currencies_against_babel(by_task):
    for example in by_task["currency"] + by_task["currency-country"]:
        state = example.cluster_id.split()[1]
        if example.task == "currency":
            assert current_units(state) & set(example.options) == {example.target}
        else:
            unit = items("currency")[example.cluster_id].answer
            assert unit in current_units(state) and unit in example.prompt
            assert [o for o in example.options if unit in current_units(state_of(o))] == [example.target]
    for example in by_task["currency-name"]:
        assert example.target in current_units(example.cluster_id.split()[1])


def test_official_languages_against_babel(by_task):
    names = {name: code for code, name in ENGLISH.languages.items() if "_" not in code}
    for example in by_task["official-language"] + by_task["language-country"]:
        state = example.cluster_id.split()[1]
        if example.task == "official-language":
            codes = {option: names[option] for option in example.options}
            places = dict.fromkeys(example.options, state)
        else:
            codes = dict.fromkeys(example.options, names[items("official-language")[example.cluster_id].answer])
            places = {option: state_of(option) for option in example.options}
        for option in example.options:
            territory = places[option]
            tags = languages.get_official_languages(territory, regional=True, de_facto=True)
            official = {"no" if tag in ("nb", "nn") else tag.split("_")[0] for tag in tags}
            spoken = {tag.split("_")[0] for tag in languages.get_territory_language_info(territory)}
            if option == example.target:
                assert codes[option] in official
            else:
                assert codes[option] not in official | spoken


def test_majorities_against_babel(by_task):
    for example in by_task["majority"]:
        _, state, language = example.cluster_id.split()
        info = languages.get_territory_language_info(state)
        tags = [tag for tag in info if tag.split("_")[0] == language or {language, tag} == {"no", "nb"}]
        share = max(info[tag]["population_percent"] for tag in tags)
        assert example.target == ("yes" if share > 50 else "no") and abs(share - 50) >= 25
    answers = Counter(e.target for e in by_task["majority"])
    assert 0.8 < answers["yes"] / answers["no"] < 1.25


def test_cities_against_babel(by_task):
    zones = core.get_global("zone_territories")
    territory = {name: zones[code] for (kind, code), name in cldr.names("en").items() if kind == "city"}
    for example in by_task["city-country"]:
        home = zones[example.cluster_id.split()[1]]
        assert [o for o in example.options if state_of(o) == home] == [example.target]
    for example in by_task["country-city"]:
        home = zones[example.cluster_id.split()[1]]
        assert [o for o in example.options if territory[o] == home] == [example.target]


def test_scripts_against_babel(by_task):
    names = {name: code for code, name in ENGLISH.scripts.items()}
    for example in by_task["script"]:
        language = example.cluster_id.split()[1]
        locales = [tag for tag in babel.localedata.locale_identifiers() if tag.split("_")[0] == language]
        scripts = {Locale.parse(tag).script for tag in locales} - {None}
        scripts.add(core.get_global("likely_subtags")[language].split("_")[1])
        assert {names[option] for option in example.options} & scripts == {names[example.target]}


@functools.cache
def calendar(language, section):
    """Months or weekdays as Babel has them when no language was read before: see `cldr._localedata`."""
    babel.localedata._cache.clear()
    return dict(getattr(Locale(language), section)["stand-alone"]["wide"])


def test_names_do_not_depend_on_what_was_read_before():
    names = {language: cldr.names(language) for language in ("de", "zh", "ja", "sah", "es", "nl")}
    babel.localedata._cache.clear()
    for language in ("fr", "ja", "ko", "zh", "de"):
        assert Locale(language).days["stand-alone"]["wide"] and Locale(language).months["stand-alone"]["wide"]
    cldr.names.cache_clear()
    cldr._localedata.cache_clear()
    assert {language: cldr.names(language) for language in reversed(names)} == names
    assert names["de"]["weekday", "3"] == "Donnerstag" and ("month", "3") not in names["ja"]  # a number


@pytest.mark.slow
def test_words_of_other_languages_against_babel(by_task):
    for example in by_task["calendar-word"]:
        _, language, kind, number = example.cluster_id.split()
        section = {"month": "months", "weekday": "days"}[kind]
        assert " ".join(calendar(language, section)[int(number)].split()) in example.prompt
        assert example.target == calendar("en", section)[int(number)]
    for example in by_task["word-language"]:
        _, language, state = example.cluster_id.split()
        codes = {option: next(c for c, n in ENGLISH.languages.items() if n == option) for option in example.options}
        called = {option: Locale(code).territories[state].casefold() for option, code in codes.items()}
        own = called.pop(example.target)
        assert codes[example.target] == language and own not in called.values()


def test_sums_and_conversions_are_right(by_task):
    months = "January February March April May June July August September October November December".split()
    days = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
    for example in by_task["calendar"]:
        _, name, steps = example.cluster_id.split()
        names = months if name in months else days
        assert example.target == names[(names.index(name) + int(steps)) % len(names)]
    units = {"kilo": 1e3, "mega": 1e6, "giga": 1e9, "hecto": 1e2, "deci": 1e-1, "centi": 1e-2, "milli": 1e-3,
             "micro": 1e-6, "nano": 1e-9}  # fmt: skip
    checked = 0
    for example in by_task["conversion"]:
        _, number, large, small = example.cluster_id.split()
        values = []
        for unit in (large, small):
            prefix = next((p for p in units if unit.startswith(p)), "")
            values.append((units.get(prefix, 1.0), unit.removeprefix(prefix)))
        if values[0][1] == values[1][1]:
            assert int(example.target) == pytest.approx(int(number) * values[0][0] / values[1][0], rel=1e-9)
            checked += 1
    assert checked > 300


def test_translations_are_those_of_the_locales(by_task):
    sections = {"territory": "territories", "language": "languages", "script": "scripts", "currency": "currencies"}
    checked = 0
    for task in ("translation-en-de", "translation-fr-de", "translation-ru-en", "translation-en-zh"):
        source, target = (Locale(tag) for tag in task.split("-")[1:])
        pairs = set()
        for section in sections.values():
            ours, theirs = getattr(source, section), getattr(target, section)
            pairs |= {(ours[code], theirs[code]) for code in ours if code in theirs}
        named = {name for name, _ in pairs}
        for example in by_task[task]:
            usual = TEMPLATES["translation"][0][1].split("{name}")[0].format(source=source.get_language_name("en"))
            if example.prompt.startswith(usual) and (name := example.prompt[len(usual) :].split("\n")[0]) in named:
                right = {" ".join(text.split()) for given, text in pairs if given == name}
                # A city of the same name may be a further right answer.
                assert example.target in right and name.casefold() != example.target.casefold()
                checked += 1
    assert checked > 200


@pytest.mark.parametrize(
    ("task", "name", "answer"),
    [
        ("en-de", "Switzerland", "Schweiz"), ("de-en", "Donnerstag", "Thursday"), ("en-fr", None, None),
        ("en-ru", "February", "февраль"), ("en-zh", "Peru", "秘鲁"), ("en-ja", "Germany", "ドイツ"),
        ("cs-uk", "Německo", "Німеччина"), ("ru-sah", "Канада", "Канаада"), ("fr-de", "Chine", "China"),
        ("en-hr", "Moscow", "Moskva"), ("en-cs", "Polish", "polština"), ("uk-en", "Польща", "Poland"),
    ],
)  # fmt: skip
def test_known_translations(task, name, answer):
    from_task = f"translation-{task}"
    if name is None:
        assert from_task not in TRANSLATION
        return
    source, target = task.split("-")
    keys = [key for key, text in cldr.names(source).items() if text == name]
    assert answer in {cldr.names(target)[key] for key in keys if key in cldr.names(target)}


def test_plurals_and_dates():
    assert [cldr.amount("ru", number, "length-kilometer") for number in (2, 5, 21)] == [
        "2 километра", "5 километров", "21 километр"]  # fmt: skip
    assert cldr.amount("fr", 2, "volume-liter") == "2 litres"  # CLDR's blank is one that does not break
    assert cldr.amount("sah", 2, "mass-pound") is None
    day = datetime.date(2023, 3, 5)
    assert cldr.date("de", day, "full") == "Sonntag, 5. März 2023" and cldr.date("zh", day, "long") == "2023年3月5日"


# ---------------------------------------------------------------- options, noise, sizes


def wrong_share(examples):
    """Share of the answers that are not right of their fact, of tasks whose answer the fact determines."""
    tasks = ("currency", "official-language", "script", "calendar", "conversion")
    right = {(task, fact): item.answer for task in tasks for fact, item in items(task).items()}
    judged = [right[e.task, e.cluster_id] == e.target for e in examples if e.task in tasks]
    return 1 - sum(judged) / len(judged)


@pytest.mark.slow
def test_noise_is_asked_for(whole):
    assert wrong_share(whole.examples) == 0
    noisy = almanac(Almanac(tasks="questions", noise=0.3, train=5_600, calibration=280, test=560))
    assert wrong_share(noisy) == pytest.approx(0.3, abs=0.035)
    assert all(e.target in e.options for e in noisy if e.options)
    Suite("noisy", tuple(noisy))
    all_wrong = almanac(Almanac(tasks="translation-en-de,majority", noise=1.0, train=80, calibration=4, test=8))
    plain = almanac(Almanac(tasks="translation-en-de,majority", train=80, calibration=4, test=8))
    assert [e.prompt for e in all_wrong] == [e.prompt for e in plain] or len(all_wrong) == len(plain)
    assert all(one.target != two.target for one, two in zip(all_wrong, plain) if one.prompt == two.prompt)


@pytest.mark.slow
def test_growing_train_leaves_everything_else_as_it_is():
    small, large = (almanac(Almanac(**SMALL | {"train": n * SMALL["train"]})) for n in (1, 2))
    for split in SPLITS:
        few, many = ([e for e in examples if e.split == split] for examples in (small, large))
        assert many[: len(few)] == few


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sets(st.sampled_from([*QUESTIONS, "translation-en-zh", "translation-sah-ru"]), min_size=1, max_size=3),
    st.integers(1, 30), st.integers(1, 20), st.integers(10, 200), st.integers(0, 3),
)  # fmt: skip
def test_any_sizes(tasks, test, calibration, train, seed):
    train = max(train, test + calibration + 2 * len(tasks))
    config = Almanac(seed=seed, tasks=",".join(sorted(tasks)), train=train, calibration=calibration, test=test)
    examples = almanac(config)
    assert Counter(e.split for e in examples) == {"train": train, "calibration": calibration, "test": test}
    assert len({e.item_id for e in examples}) == len(examples)
    trained = {e.cluster_id for e in examples if e.split == "train"}
    assert all((e.cluster_id in trained) == (e.held_out == "wording") for e in examples if e.split != "train")


def test_chosen_tasks():
    assert chosen_tasks("") == TASKS and chosen_tasks("questions") == QUESTIONS
    assert chosen_tasks(" unit-kind,translation-de-en , currency") == ("currency", "unit-kind", "translation-de-en")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"tasks": "currencies"}, ValueError, "almanac: cannot be generated with .*unknown task 'currencies'; did you"),
        ({"tasks": 3}, TypeError, "almanac: option tasks must be text, got 3"),
        ({"noise": 1.5}, ValueError, "noise is 1.5; expected a share, from 0 to 1"),
        ({"noise": -0.1}, ValueError, "option noise must be at least 0"),
        ({"test": 100_000}, ValueError, "test is 100000: only .* distinct questions of task 'currency' can be made"),
        ({"train": 10}, ValueError, "or for more in train"),
        ({"sizes": 1}, ValueError, "almanac: unknown option 'sizes'"),
    ],
)
def test_refuses(options, kind, message):
    with pytest.raises(kind, match=message) as error:
        load_suite("almanac", options=options)
    assert "\n" not in str(error.value)


def test_without_babel_and_with_another_one(monkeypatch):
    cldr.versions.cache_clear()
    monkeypatch.setattr(cldr, "PINNED", ("0.1", "1"))
    with pytest.warns(UserWarning, match=r"names and facts are those of Babel .* suites have those of Babel 0.1 with"):
        cldr.versions()
    cldr.versions.cache_clear()
    monkeypatch.setitem(sys.modules, "babel.core", None)
    with pytest.raises(ImportError, match="almanac: names and facts need the package Babel .* pip install") as error:
        load_suite("almanac")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("almanac-questions", {"limits": {"train": 60}}),
        ("almanac-questions", {"mixing_cap": 30}),
        ("almanac-questions@test+mini-flan", {}),
        ("almanac-questions+almanac-translation", {"limits": {"train": 100, "test": 30}}),
    ],
)
def test_wording_is_said_only_of_facts_that_stay_in_train(source, given):
    suite, whole = load_suite(source, **given), load_suite(source)
    trained = {(e.task, e.cluster_id) for e in suite.split("train")}
    before = {e.item_id: e.held_out for e in whole.examples}
    if "@" in source:
        before = {f"{e.task}/{e.item_id}": e.held_out for e in load_suite("almanac-questions").split("test")}
    changed = [e for e in suite.split("test") if e.held_out != before.get(e.item_id, "")]
    assert changed and {(before[e.item_id], e.held_out) for e in changed} == {("wording", "")}
    assert not {(e.task, e.cluster_id) for e in changed} & trained
    assert all((e.task, e.cluster_id) in trained for e in suite.examples if e.held_out == "wording")


def test_the_example_of_single_tasks_in_the_documentation():
    (options,) = re.findall(r'load_suite\("almanac", options=(\{.*?\})\)', (ROOT / "data/README.md").read_text())
    assert load_suite("almanac", options=ast.literal_eval(options)).tasks == ("currency", "translation-de-en")
