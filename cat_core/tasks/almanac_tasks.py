"""What the almanac asks: the items of each task, made of the names and facts of `cldr`.

An item is one fact as one task asks it. Its wrong answers are those that are right of other facts of the task, as often
as they are right there (so that no answer wins by being frequent), without any that could pass for right.
"""

import datetime
import functools
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from cat_core.tasks import cldr

PAIRS = (
    "cs-en", "cs-uk", "de-en", "de-fr", "en-cs", "en-de", "en-hr", "en-ja", "en-ru", "en-uk", "en-zh", "fr-de", "hr-en",
    "ja-en", "ru-en", "ru-sah", "sah-ru", "uk-cs", "uk-en", "zh-en",
)  # fmt: skip
"""The directions of WMT22 between languages of `cldr.LANGUAGES`, and hr-en."""
QUESTIONS = (
    "currency", "currency-name", "currency-country", "official-language", "language-country", "majority",
    "city-country", "country-city", "script", "calendar", "calendar-word", "word-language", "conversion", "unit-kind",
)  # fmt: skip
TRANSLATION = tuple(f"translation-{pair}" for pair in PAIRS)
TOKENIZERS = {"zh": "zh", "ja": "char"}
"""BLEU's tokenizer by target language; ja-mecab needs a package of its own, whose dictionary differs by version."""


@dataclass(frozen=True)
class Item:
    """One fact as one task asks it. fact: its name, the same in all tasks that ask it; fields: of the templates; wrong:
    (answer that may stand beside the right one, the fact that it is right of; "": of many) ((): a free answer); fame:
    `cldr.fame` of what is asked."""

    fact: str
    fields: dict[str, str]
    answer: str
    wrong: tuple[tuple[str, str], ...] = ()
    references: tuple[str, ...] = ()
    fame: float = 0.0


_MONEY_ALIKE = (
    "koruna krona krone króna", "rial riyal", "lira pound", "denar dinar", "leu lev", "som somoni",
    "rufiyaa rupee rupiah",
)  # fmt: skip
_SCALES = {  # exact by definition
    "length": "kilometer 1000 meter, meter 10 decimeter, meter 100 centimeter, meter 1000 millimeter,"
    " centimeter 10 millimeter, millimeter 1000 micrometer, micrometer 1000 nanometer, yard 3 foot,"
    " foot 12 inch, mile 1760 yard, fathom 6 foot",
    "mass": "tonne 1000 kilogram, kilogram 1000 gram, gram 1000 milligram, milligram 1000 microgram",
    "area": "square-kilometer 100 hectare, hectare 10000 square-meter, square-meter 10000 square-centimeter",
    "volume": "megaliter 1000000 liter, hectoliter 100 liter, liter 10 deciliter, liter 100 centiliter,"
    " liter 1000 milliliter, cubic-meter 1000 liter, gallon 4 quart, quart 2 pint",
    "duration": "century 100 year, decade 10 year, year 12 month, week 7 day, day 24 hour, hour 60 minute,"
    " minute 60 second, second 1000 millisecond, millisecond 1000 microsecond",
    "power": "megawatt 1000 kilowatt, kilowatt 1000 watt, watt 1000 milliwatt, gigawatt 1000 megawatt",
    "energy": "kilojoule 1000 joule, kilocalorie 1000 calorie",
    "frequency": "gigahertz 1000 megahertz, megahertz 1000 kilohertz, kilohertz 1000 hertz",
    "pressure": "hectopascal 100 pascal, kilopascal 1000 pascal, megapascal 1000 kilopascal, bar 1000 millibar",
}
_NUMBERS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20, 25, 30, 40, 50, 60, 75, 100)
_COUNTED = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
_READ_LANGUAGES, _READ_COUNTRIES = 60, 12  # whose calendar and names of countries are asked for
_KINDS = ("territory", "language", "currency", "city", "unit", "script", "month", "weekday")
"""Of a word that names two things, such as a language and its script, the first of these is what is learnt."""


def _english(kind: str, code: str) -> str:
    return cldr.names("en")[kind, code]


def _in_text(country: str) -> str:
    """A country as a sentence names it: "the Netherlands"."""
    articled = "^(United|Central|Dominican)|(Islands|Bahamas|Gambia|Maldives|Netherlands|Philippines)$"
    return f"the {country}" if re.search(articled, country) else country


def _country(state: str) -> str:
    return _english("territory", state)


def _fame(kind: str, code: str) -> float:
    return round(cldr.fame().get((kind, code), 0.0), 4)


def _same_money(one: str, two: str) -> bool:
    return one == two or any({one, two} <= set(group.split()) for group in _MONEY_ALIKE)


@functools.cache
def questions() -> dict[str, list[Item]]:
    """Task -> its items, of all tasks that ask questions; sorted, and the same for the same version of Babel."""
    return _currency_items() | _language_items() | _city_items() | {
        "script": _script_items(), "calendar": _calendar_items(), "calendar-word": _calendar_words(),
        "word-language": _language_words(), "conversion": _conversions(), "unit-kind": _unit_items(),
    }  # fmt: skip


def _currency_items() -> dict[str, list[Item]]:
    unit_of = {state: cldr.currency_unit(code) for state, code in cldr.currencies().items()}
    what, name, where = [], [], []
    for state, unit in unit_of.items():
        fact, fame, country = f"currency {state}", _fame("territory", state), _country(state)
        others = [other for other in unit_of if not _same_money(unit_of[other], unit)]
        fields = {"country": _in_text(country)}
        full = _english("currency", cldr.currencies()[state])
        references = (full,) if full.lower() != unit else ()
        what.append(Item(fact, fields, unit, tuple((unit_of[s], f"currency {s}") for s in others), fame=fame))
        name.append(Item(fact, fields, unit, references=references, fame=fame))
        wrong = tuple((_country(s), f"currency {s}") for s in others)
        where.append(Item(fact, {"unit": unit}, country, wrong, fame=fame))
    return {"currency": what, "currency-name": name, "currency-country": where}


def _language_items() -> dict[str, list[Item]]:
    official, what, where, most = cldr.official_languages(), [], [], []

    def may_be(language: str, state: str) -> bool:
        return any(cldr.alike(language, other) for other in cldr.spoken(state))

    for state, language in official.items():
        fact, fame = f"official {state}", _fame("territory", state)
        country, name = _country(state), _english("language", language)
        languages = tuple(
            (_english("language", other), f"official {s}") for s, other in official.items() if not may_be(other, state)
        )
        countries = tuple((_country(s), f"official {s}") for s in official if not may_be(language, s))
        what.append(Item(fact, {"country": _in_text(country)}, name, languages, fame=fame))
        where.append(Item(fact, {"language": name}, country, countries, fame=fame))
    for (state, language), right in cldr.majorities().items():
        fields = {"country": _in_text(_country(state)), "language": _english("language", language)}
        answer, wrong = ("yes", "no") if right else ("no", "yes")
        most.append(Item(f"share {state} {language}", fields, answer, ((wrong, ""),), fame=_fame("language", language)))
    return {"official-language": what, "language-country": where, "majority": _balanced(most)}


def _balanced(items: list[Item]) -> list[Item]:
    """As many items of each answer, of those that there are too many of the best known, in turn."""
    by_answer: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: (-item.fame, item.fact)):
        by_answer[item.answer].append(item)
    return [item for turn in zip(*(by_answer[answer] for answer in sorted(by_answer))) for item in turn]


def _city_items() -> dict[str, list[Item]]:
    cities, where, which = cldr.cities(), [], []
    tongue = {}
    for state in cldr.states():
        official = (language for language, (_, status) in cldr.spoken(state).items() if status.endswith("official"))
        tongue[state] = next(official, "")
    colonial = {"en", "es", "fr", "pt"}  # of states whose places are often namesakes of each other's

    asked = {s for s in cities.values() if s not in cldr.SETTLED and tongue[s] not in colonial}

    def no_namesake(zone: str, state: str) -> bool:
        """Whether a city is hardly also the name of a place in this state, as their languages and distance say."""
        home = cities[zone]
        own, other = tongue[home], tongue[state]
        if own == other or {own, other} <= colonial or {home, state} <= cldr.SETTLED:
            return False
        far = zone.split("/")[0] in ("Africa", "Asia") and zone not in cldr.FAR_NAMESAKES
        if state in cldr.SETTLED:
            return far and own not in colonial
        return home not in cldr.SETTLED or other not in colonial

    for zone, state in cities.items():
        fact, fame, city = f"city {zone}", _fame("city", zone), _english("city", zone)
        countries = tuple((_country(s), f"city {z}") for z, s in cities.items()
                          if s != state and no_namesake(zone, s))  # fmt: skip
        where.append(Item(fact, {"city": city}, _country(state), countries, fame=fame))
        if state in asked:
            places = tuple((_english("city", z), f"city {z}") for z, s in cities.items()
                           if s in asked and s != state and no_namesake(z, state))  # fmt: skip
            which.append(Item(fact, {"country": _in_text(_country(state))}, city, places, fame=fame))
    return {"city-country": where, "country-city": which}


def _script_items() -> list[Item]:
    """Every language with a script but Latin, and as many of the best-known Latin ones."""
    script_of = cldr.scripts()
    known = sorted(script_of, key=lambda language: (-_fame("language", language), language))
    latin = [language for language in known if script_of[language] == "Latn"]
    chosen = sorted({*latin[: len(script_of) - len(latin)], *(set(script_of) - set(latin))})
    items = []
    for language in chosen:
        fields = {"language": _english("language", language)}
        others = (other for other in chosen if script_of[other] != script_of[language])
        wrong = tuple((_english("script", script_of[other]), f"script {other}") for other in others)
        answer, fame = _english("script", script_of[language]), _fame("language", language)
        items.append(Item(f"script {language}", fields, answer, wrong, fame=fame))
    return items


def _calendar_items() -> list[Item]:
    items = []
    for kind, numbers in (("month", range(1, 13)), ("weekday", range(7))):
        named = [_english(kind, str(number)) for number in numbers]
        for start, name in enumerate(named):
            for steps in range(1, len(named)):
                for direction, sign in (("after", 1), ("before", -1)):
                    span = f"{_COUNTED[steps - 1]} {kind.removeprefix('week')}{'s' if steps > 1 else ''}"
                    fields = {"kind": kind, "span": span, "direction": direction, "name": name}
                    answer = named[(start + sign * steps) % len(named)]
                    items.append(Item(f"sum {name} {sign * steps:+d}", fields, answer))
    return items


@functools.cache
def _read_languages() -> tuple[str, ...]:
    """The best-known languages beside those of translation, with a calendar of their own words in CLDR."""
    own = [
        language for language in cldr.base_languages()
        if language not in cldr.LANGUAGES and ("language", language) in cldr.names("en")
        and sum(kind in ("month", "weekday") for kind, _ in cldr.names(language)) == 19
    ]  # fmt: skip
    return tuple(sorted(own, key=lambda language: (-_fame("language", language), language))[:_READ_LANGUAGES])


def _calendar_words() -> list[Item]:
    items = []
    for language in _read_languages():
        names = cldr.names(language)
        for kind in ("month", "weekday"):
            codes = [code for k, code in names if k == kind]
            english = [_english(kind, code) for code in codes]
            words = [names[kind, code] for code in codes]
            for word, meaning, code in zip(words, english, codes):
                if words.count(word) == 1 and word.casefold() != meaning.casefold():
                    fields = {"kind": kind, "word": word, "language": _english("language", language)}
                    wrong = tuple((other, "") for other in english if other != meaning)
                    fame = _fame("language", language)
                    items.append(Item(f"word {language} {kind} {code}", fields, meaning, wrong, fame=fame))
    return items


def _language_words() -> list[Item]:
    """Names of the best-known countries that only one of the languages uses."""
    known = sorted(cldr.states(), key=lambda state: (-_fame("territory", state), state))[:_READ_COUNTRIES]
    items = []
    for state in known:
        names = {language: cldr.names(language).get(("territory", state)) for language in _read_languages()}
        called = {language: name for language, name in names.items() if name}
        same = defaultdict(list)
        for language, name in {"en": _country(state), **called}.items():
            same[name.casefold()].append(language)
        for language, name in called.items():
            if same[name.casefold()] == [language]:
                fields = {"country": _in_text(_country(state)), "word": name}
                wrong = tuple((_english("language", other), f"called {other} {state}") for other in called
                              if not cldr.alike(other, language))  # fmt: skip
                fame = _fame("language", language)
                answer = _english("language", language)
                items.append(Item(f"called {language} {state}", fields, answer, wrong, fame=fame))
    return items


def _conversions() -> list[Item]:
    items = []
    for kind, scale in _SCALES.items():
        for large, factor, small in (pair.split() for pair in scale.split(",")):
            names = {"large": _english("unit", f"{kind}-{large}"), "small": _english("unit", f"{kind}-{small}")}
            for number in _NUMBERS:
                answer = number * int(factor)
                references = (f"{answer:,}",) if answer >= 1000 else ()
                fields = names | {"number": str(number)}
                items.append(Item(f"conversion {number} {large} {small}", fields, str(answer), references=references))
    return items


def _unit_items() -> list[Item]:
    kinds = cldr.unit_kinds()
    return [
        Item(f"unit {unit}", {"unit": _english("unit", unit)}, kind,
             tuple((k, f"unit {u}") for u, k in kinds.items() if k != kind), fame=_fame("unit", unit))
        for unit, kind in kinds.items()
    ]  # fmt: skip


# ---------------------------------------------------------------- translation


def translations(days: Iterable[datetime.date], amounts: Iterable[tuple[int, str]]) -> dict[str, list[Item]]:
    """Task of `TRANSLATION` -> its items: every name that both languages have, the days, and the amounts.

    A fact is named by its English name, so that it is the same in all directions. Names that are the same in both
    languages are left out, as are dated ones ("(1863-1965)"). A name that two things share has two right answers.
    """
    texts = {language: _names_and_phrases(language, days, amounts) for language in cldr.LANGUAGES}
    return {f"translation-{pair}": _direction(*pair.split("-"), texts) for pair in PAIRS}


def _names_and_phrases(language: str, days, amounts) -> dict[cldr.Key, str]:
    names = {key: name for key, name in cldr.names(language).items() if not re.search(r"[\d(（]", name)}
    ordered = {key: names[key] for key in sorted(names, key=lambda key: (_KINDS.index(key[0]), key[1]))}
    for number, day in enumerate(days):
        style = ("long", "full")[number % 2]
        ordered["date", f"{day} {style}"] = cldr.date(language, day, style)
    for number, unit in amounts:
        if text := cldr.amount(language, number, unit):
            ordered["amount", f"{number} {unit}"] = text
    return ordered


def _direction(source: str, target: str, texts: dict[str, dict[cldr.Key, str]]) -> list[Item]:
    right: dict[str, dict[str, cldr.Key]] = {}
    for key, name in texts[source].items():
        translated = texts[target].get(key)
        if translated and key in texts["en"] and translated.casefold() != name.casefold():
            right.setdefault(name, {}).setdefault(translated, key)
    languages = {"source": _english("language", source), "target": _english("language", target)}
    items = []
    for name, answers in right.items():
        (first, (kind, code)), *_ = answers.items()
        group = kind if kind in ("date", "amount") else "name"
        fame = _fame("unit", code.split()[1]) if kind == "amount" else _fame(kind, code)
        fact = f"{group} {texts['en'][kind, code].casefold()}"
        items.append(Item(fact, languages | {"name": name}, first, references=tuple(answers)[1:], fame=fame))
    return items


def amount_units() -> list[str]:
    """The units that amounts are given in: those with words in English."""
    return [code for kind, code in cldr.names("en") if kind == "unit" and cldr.amount("en", 2, code)]


def composed(facts: Iterable[str]) -> list[str]:
    """Of facts that are names, those of two words and more which all occur in other names: what can be put together.

    So many of them that every word stays in one that is not among them; in the order given.
    """
    words = {fact: set(re.findall(r"\w+", fact.removeprefix("name "))) for fact in facts}
    left: dict[str, int] = defaultdict(int)
    for found in words.values():
        for word in found:
            left[word] += 1
    chosen = []
    for fact, found in words.items():
        if len(found) > 1 and all(left[word] > 1 for word in found):
            chosen.append(fact)
            for word in found:
                left[word] -= 1
    return chosen
