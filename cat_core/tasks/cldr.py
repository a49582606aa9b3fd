"""Names and facts of CLDR, the Unicode Common Locale Data Repository, as the package Babel carries it.

Names of territories, languages, scripts, currencies, cities, units, months and weekdays in hundreds of languages, and
what is known of them: who pays with what, speaks and writes what, lies where. Everything comes out sorted, and the same
for the same Babel. Questions are only made of what has one right answer today, so what follows is left out: territories
that belong to another state or are claimed by several, states with two currencies, languages with two scripts, cities
whose name is also that of a state or of another city, and entries of CLDR that mislead; the constants say which.
Source: Unicode CLDR (Unicode License v3); `PINNED` are the versions that the texts of recorded suites come from.
"""

import datetime
import functools
import importlib.util
import re
import unicodedata
import warnings
from collections import Counter, defaultdict

PINNED = ("2.18.0", "47")
"""Babel and CLDR, as in constraints.txt."""

LANGUAGES = ("cs", "de", "en", "fr", "hr", "ja", "ru", "sah", "uk", "zh")
"""The languages of WMT22 that CLDR has names in (all but Livonian)."""

Key = tuple[str, str]
"""A thing that has names: its kind, such as "territory", and its code in CLDR."""

_TODAY = datetime.date(2025, 6, 1)  # a date of its own, as currencies must not change with the clock
_SECTIONS = {"territory": "territories", "language": "languages", "script": "scripts", "currency": "currency_names"}
_NAMELESS = frozenset("EZ QO UN XA XB ZZ mul und zxx Zinh Zxxx Zyyy Zzzz XTS XXX".split())  # codes for no thing

NO_STATES = frozenset(
    "AC AI AQ AS AW AX BL BM BQ BV CC CK CP CQ CW CX DG EA EH EU FK FO GF GG GI GL GP GS GU HK HM IC IM IO JE KY MF"
    " MO MP MQ MS NC NF NU PF PM PN PR PS RE SH SJ SX TA TC TF TK TW UM VG VI WF XK YT".split()
)
"""Parts of other states, and what is claimed by several: no question is asked of them."""
AMBIGUOUS_STATES = frozenset(("GE",))  # Georgia is also a state of the USA
NEW_CURRENCIES = frozenset(("BG",))  # the euro since 2026

NO_OFFICIAL = frozenset("AF BF CO ER ET KZ ME ML MU NE NI RW SS ZW".split())
"""States whose official language in CLDR is disputed or goes by another name (AF, ER, KZ, ME, MU), was given up in law
(BF, ML, NE), or is joined by others that CLDR does not list (CO, ET, NI, RW, SS, ZW)."""
_LEAST_OFFICIAL = 25.0  # per cent of the people who must speak an official language for it to be asked for

_ALIKE = (
    "bs hr sh sr", "id ms", "hi ur", "fa tg", "da nb nn no sv", "cs sk", "bg mk", "yue zh", "rn rw", "nso st tn",
    "nd nr ss xh zu", "fil tl", "be ru uk",
)  # fmt: skip
"""Languages so close that one might be taken for the other: never right and wrong answer of one question."""
MISCOUNTED = frozenset(
    "AE:ar BA:bs BH:ar BW:en BY:be CV:pt FJ:en GW:pt KI:en KW:ar LR:en ME:sr MH:en NP:hi OM:ar PK:ur QA:ar SB:en"
    " SG:en SZ:en UG:sw VU:en".split()
)
"""Shares of speakers in CLDR that count who learns or may read the language, or leave out those who came to work."""
_WORLD = frozenset("ar en es fr pt ru sw".split())  # spoken as second languages by more people than CLDR counts

_SEVERAL_SCRIPTS = frozenset("crh cu ff jv kab ks ku lad mdf pi prg rhg sat su swb tok tzm wo za".split())
"""Languages that CLDR has in one script, and that are, or were, written in others as well."""

_NO_CITIES = frozenset(
    "Africa/Ceuta America/Grenada America/Indiana/Tell_City America/Indiana/Vevay America/Indiana/Winamac"
    " America/Nassau America/North_Dakota/Beulah America/North_Dakota/New_Salem America/Argentina/La_Rioja"
    " America/Bahia America/Bahia_Banderas America/Noronha Asia/Famagusta Asia/Jerusalem Asia/Kamchatka"
    " Asia/Sakhalin Australia/Lindeman Australia/Lord_Howe Europe/Simferopol".split()
)  # regions, islands, and claimed by several
_TOWNS_AT_SEA = frozenset(
    "Atlantic/Reykjavik Indian/Antananarivo Pacific/Apia Pacific/Auckland Pacific/Honolulu Pacific/Port_Moresby".split()
)  # of these oceans' zones, the others are named after islands
_NAMESAKES = frozenset(
    "America/Argentina/Cordoba America/Argentina/San_Juan America/Argentina/San_Luis America/Argentina/Jujuy"
    " America/Creston America/Dawson America/Halifax America/Kentucky/Monticello America/La_Paz America/Merida"
    " America/Matamoros America/Regina America/Santarem America/Santiago America/Vancouver Africa/Tripoli Asia/Hovd"
    " America/Indiana/Petersburg America/Indiana/Vincennes America/North_Dakota/Center America/Argentina/Mendoza"
    " America/Indiana/Marengo America/Indiana/Knox Asia/Nicosia Asia/Oral Europe/Busingen Europe/Kirov".split()
)  # cities of the same name elsewhere, or words that mean more than the city
SETTLED = frozenset("AU BR CA JM MX NZ US ZA".split())
"""States where many places are named after places elsewhere."""
FAR_NAMESAKES = frozenset(
    "Africa/Algiers Africa/Cairo Africa/Casablanca Africa/Johannesburg Africa/Lagos Asia/Aden Asia/Baghdad"
    " Asia/Beirut Asia/Colombo Asia/Damascus Asia/Manila Asia/Shanghai".split()
)
"""Cities of Africa and Asia after which places in `SETTLED` are named."""

UNIT_KINDS = {
    "angle": "angle", "area": "area", "digital": "data", "duration": "time", "energy": "energy",
    "frequency": "frequency", "length": "length", "mass": "mass", "power": "power", "pressure": "pressure",
    "speed": "speed", "temperature": "temperature", "volume": "volume",
}  # fmt: skip
_UNCLEAR_UNITS = frozenset(
    "angle-degree area-dunam duration-night duration-quarter energy-foodcalorie length-earth-radius"
    " length-mile-scandinavian length-point length-solar-radius mass-grain mass-ounce mass-pound mass-stone mass-ton"
    " pressure-gasoline-energy-density speed-beaufort speed-light-speed temperature-generic volume-cup volume-dram"
    " volume-drop volume-jigger volume-pinch".split()
)  # words of several meanings, or none without their context


def _babel():
    """The package Babel, with the modules used here."""
    try:
        import babel.core
        import babel.dates
        import babel.localedata
        import babel.numbers
    except ImportError:
        raise ImportError(
            f"almanac: names and facts need the package Babel (extra 'book'): pip install babel=={PINNED[0]}"
        ) from None
    return babel


@functools.cache
def versions() -> tuple[str, str]:
    """Versions of Babel and of its CLDR; warns once where these are not `PINNED`, as the texts may then be others."""
    found = (_babel().__version__, _babel().core.get_cldr_version())
    if found != PINNED:
        said = [f"Babel {babel} with CLDR {cldr}" for babel, cldr in (found, PINNED)]
        warnings.warn(f"names and facts are those of {said[0]}; recorded suites have those of {said[1]}", stacklevel=2)
    return found


def _clean(text: str) -> str:
    """In NFC, plain blanks alone, no marks for the direction of writing."""
    return " ".join(re.sub("[\u200e\u200f]", "", unicodedata.normalize("NFC", text)).split())


@functools.cache
def _global(section: str) -> dict:
    return _babel().core.get_global(section)


@functools.cache
def _localedata():
    """The module babel.localedata once more, with a cache of its own that nobody else reads through.

    Languages share what they inherit in Babel's cache, and reading it resolves references to other parts in place: the
    names of months that a language inherits by reference are then those of whichever language was read first.
    """
    shared = _babel().localedata
    spec = importlib.util.find_spec(shared.__name__)
    own = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own)
    own.Alias = shared.Alias  # the class that the data files name
    return own


def _data(language: str) -> dict:
    """What CLDR says in and of a language, as nested dictionaries; references are left as they are."""
    return _localedata().load(language)


@functools.cache
def base_languages() -> tuple[str, ...]:
    """The languages that CLDR has data in, without variants by territory or script."""
    return tuple(sorted(i for i in _babel().localedata.locale_identifiers() if "_" not in i and i != "root"))


@functools.cache
def _zones() -> dict[str, tuple[str, ...]]:
    """Time zone -> the names that locales may have it under: its own and older ones."""
    aliases = sorted(_global("zone_aliases").items())
    zones = (z for z in sorted(_global("zone_territories")) if z.split("/")[0] not in ("Etc", "Antarctica"))
    return {zone: (zone, *(old for old, new in aliases if new == zone)) for zone in zones}


@functools.cache
def names(language: str) -> dict[Key, str]:
    """Every name that a language has in CLDR: territory, language, script, currency, city, unit, month and weekday.

    Cities by time zone; English takes the zone's own name where it says nothing. Months 1 to 12, weekdays 0 (Monday)
    to 6, as they stand alone. Units in the plural of a list ("kilometers").
    """
    data, found = _data(language), {}
    for kind, section in _SECTIONS.items():
        for code, name in data.get(section, {}).items():
            if code not in _NAMELESS and code != name:
                found[kind, code] = _clean(name)
    inherited, zones = _data("root")["time_zones"], data.get("time_zones", {})
    for zone, listed in _zones().items():
        given = [(zones.get(z, {}).get("city"), inherited.get(z, {}).get("city")) for z in listed]
        city = next((own for own, root in given if own and (own != root or language == "en")), None)
        if city or language == "en":
            found["city", zone] = _clean(city or zone.split("/")[-1].replace("_", " "))
    for unit, forms in data.get("unit_display_names", {}).items():
        if name := _long(language, forms):
            found["unit", unit] = _clean(name)
    for kind, section in (("month", "months"), ("weekday", "days")):
        nobodys = _data("root")[section]["format"]["wide"]
        for number, name in _standing_alone(data[section]).items():
            if name != nobodys.get(number) and not re.search(r"\d", name):
                found[kind, str(number)] = _clean(name)
    return dict(sorted(found.items()))


def _standing_alone(forms: dict) -> dict[int, str]:
    """Names of months or weekdays as they stand alone, which are those of dates as far as a language has no others."""
    alone, usual = forms["stand-alone"]["wide"], forms["format"]["wide"]
    if isinstance(alone, tuple):  # a reference to those of dates, and what differs
        return usual | alone[1]
    return alone if isinstance(alone, dict) else usual


def _long(language: str, forms) -> str | None:
    """The written-out form; Chinese and Japanese leave it out where it is the short one."""
    name = (forms or {}).get("long")
    if name is None and language in ("ja", "zh"):
        name = (forms or {}).get("short")
        name = None if name is None or re.search("[A-Za-z°]", name) else name
    return name if isinstance(name, str) else None


def date(language: str, day: datetime.date, style: str) -> str:
    """A date as the language writes it; style: "long" ("March 5, 2023") or "full", with the weekday."""
    return _clean(_babel().dates.format_date(day, style, locale=language))


def amount(language: str, number: int, unit: str) -> str | None:
    """A number below 1,000 of units in words, with the plural that the language asks for; None where CLDR has none."""
    form = _babel().core.Locale(language).plural_form(number)
    patterns = _data(language).get("unit_patterns", {}).get(unit) or {}
    by_length = {length: (patterns.get(length) or {}).get(form) for length in ("long", "short")}
    pattern = _long(language, by_length)
    return pattern and _clean(pattern.format(number))


@functools.cache
def fame() -> dict[Key, float]:
    """In how large a share of all languages of CLDR a thing has a name, in (0, 1]; months and weekdays are left out."""
    counts: Counter[Key] = Counter()
    for language in base_languages():
        counts.update(key for key in names(language) if key[0] not in ("month", "weekday"))
    return {key: count / len(base_languages()) for key, count in sorted(counts.items())}


# ---------------------------------------------------------------- facts


@functools.cache
def states() -> tuple[str, ...]:
    """Codes of the states that questions are about: with a name of one form, and one meaning."""
    named = {code: name for (kind, code), name in names("en").items() if kind == "territory"}
    left_out = NO_STATES | AMBIGUOUS_STATES | {code for code, name in named.items() if re.search(r"\(| - ", name)}
    return tuple(sorted(code for code in _global("territory_languages") if code in set(named) - left_out))


@functools.cache
def currencies() -> dict[str, str]:
    """State -> code of the one currency that is legal tender there."""
    found = {}
    for state in states():
        tender = _babel().numbers.get_territory_currencies(state, _TODAY, _TODAY, tender=True, non_tender=False)
        if len(tender) == 1 and state not in NEW_CURRENCIES:
            found[state] = tender[0]
    return found


def currency_unit(code: str) -> str:
    """The last word of a currency's English name, in small letters: "sol" of "Peruvian Sol"."""
    return names("en")["currency", code].split()[-1].lower()


@functools.cache
def spoken(state: str) -> dict[str, tuple[float, str]]:
    """Language -> (per cent of the people who use it, its status in CLDR or ""), without scripts, the largest first."""
    found: dict[str, tuple[float, str]] = {}
    for tag, entry in _global("territory_languages")[state].items():
        language = {"nb": "no"}.get(tag.split("_")[0], tag.split("_")[0])
        share, status = found.get(language, (0.0, ""))
        found[language] = (max(share, entry["population_percent"]), status or entry["official_status"] or "")
    return dict(sorted(found.items(), key=lambda item: (-item[1][0], item[0])))


def alike(one: str, two: str) -> bool:
    """Whether two languages are the same, or close enough to be taken for each other."""
    return one == two or any({one, two} <= set(group.split()) for group in _ALIKE)


@functools.cache
def official_languages() -> dict[str, str]:
    """State -> the official language that most people there use."""
    found = {}
    for state in states():
        for language, (share, status) in spoken(state).items():
            if status == "official":
                if share >= _LEAST_OFFICIAL and state not in NO_OFFICIAL and ("language", language) in names("en"):
                    found[state] = language
                break
    return found


@functools.cache
def majorities() -> dict[tuple[str, str], bool]:
    """(state, language) -> whether more than half of the people use it: three quarters at least, or a quarter at most.

    Only languages at home in another state are denied, and none that has a status there.
    """
    found = {}
    for state in states():
        shares = spoken(state)
        first = next(iter(shares))
        for language, (share, status) in shares.items():
            if ("language", language) not in names("en") or f"{state}:{language}" in MISCOUNTED:
                continue
            if share >= 75 and status == "official":
                found[state, language] = True
            elif share <= 25 and not status and not alike(language, first) and language not in _WORLD:
                home = _home(language)
                if home != state and home in states():
                    found[state, language] = False
    return found


@functools.cache
def _home(language: str) -> str:
    """The territory where CLDR supposes a language to be spoken, "" where it does not say."""
    return _global("likely_subtags").get(language, "").split("_")[-1]


@functools.cache
def scripts() -> dict[str, str]:
    """Language -> the script that it is written in, of languages that CLDR has data in, where it knows of one script
    only and does not call it the same."""
    english, likely = names("en"), _global("likely_subtags")
    spoken_tags = (tag for tags in _global("territory_languages").values() for tag in tags)
    tags = [*_babel().localedata.locale_identifiers(), *likely, *spoken_tags]
    written = defaultdict(set)
    for tag in tags:
        language, _, rest = tag.replace("-", "_").partition("_")
        if re.fullmatch("[A-Z][a-z]{3}", script := rest.split("_")[0]):
            written[language].add(script)
    written_today = set(base_languages()) - _SEVERAL_SCRIPTS
    found = {}
    for kind, language in english:
        if kind == "language" and language in written_today and likely.get(language, "").count("_") == 2:
            script = likely[language].split("_")[1]
            called = english.get(("script", script), "")
            han = script in ("Hans", "Hant")  # called by their forms alone
            if written[language] <= {script} and called and not han and called not in english[kind, language]:
                found[language] = script
    return found


@functools.cache
def cities() -> dict[str, str]:
    """Zone -> state, of zones named after a city whose name says nothing of the state, and is not that of another."""
    english = names("en")
    twice = Counter(name for (kind, _), name in english.items() if kind == "city")
    states_named = {name for (kind, _), name in english.items() if kind == "territory"}
    found = {}
    for zone, state in sorted(_global("zone_territories").items()):
        ocean = zone.split("/")[0] in ("Atlantic", "Indian", "Pacific", "Arctic")
        if ("city", zone) not in english or zone in _NO_CITIES | _NAMESAKES or (ocean and zone not in _TOWNS_AT_SEA):
            continue
        city = english["city", zone]
        leaks = state in states() and (_stem(city) in _plain(english["territory", state]) or
                                       _stem(english["territory", state]) in _plain(city))  # fmt: skip
        if state in states() and twice[city] == 1 and city not in states_named and not leaks:
            found[zone] = state
    return found


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text.lower()) if c.isalpha())


def _stem(text: str) -> str:
    """The first five letters, without accents: enough to see that Tunis is in Tunisia."""
    return _plain(text)[:5]


@functools.cache
def unit_kinds() -> dict[str, str]:
    """Unit -> what it measures, in a word of `UNIT_KINDS`."""
    units = (code for kind, code in names("en") if kind == "unit" and code not in _UNCLEAR_UNITS)
    return {code: UNIT_KINDS[kind] for code in units if (kind := code.split("-")[0]) in UNIT_KINDS}
