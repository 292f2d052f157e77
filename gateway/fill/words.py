"""Plausible words, numbers and times by a column's name: the tables behind the values. Pure data and a look-up.

The first row whose pattern is found in the column's name (in lower case) counts. Every table gives the same strings in every
process. `SUFFIX` in a string marks where a number goes once the strings are used up; without it, that is the end.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import TypeVar

import msgspec

Found = TypeVar("Found")

SUFFIX = "\0"
TABLE_SIZE = 4096
"""How many different strings a table has at most: enough to look real, small enough to be made at once."""
EPOCH = date(2026, 11, 1)
"""The day that rows are as old as: fixed, for the same seed must give the same rows tomorrow."""
FUTURE = date(2040, 1, 1)
"""A day that is surely yet to come, for what must lie after the time of the statement."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST = _words(
    "Ada Amir Anna Ben Carla Chen Clara Dana Diego Elena Emma Farid Felix Fiona Goran Hana Hugo Ines Ivan Jana Jonas Kaya "
    "Lara Leo Lina Luca Maja Marco Mia Milan Nadia Noah Nora Olga Omar Paul Petra Priya Rosa Sami Sara Tariq Theo Tom "
    "Vera Yuki Zoe"
)
_LAST = _words(
    "Abe Almeida Bauer Becker Brown Costa Diaz Dubois Eriksen Fischer Fofana Garcia Gruber Haas Hansen Ito Jansen Jones "
    "Kaya Keller Khan Kim Kowalski Lang Lopez Maier Martin Meyer Moreau Novak Okafor Olsen Patel Perez Popov Rossi Russo "
    "Sato Schmidt Silva Singh Smith Suzuki Tanaka Torres Weber Wolf Wong Yilmaz Zhang"
)
_MAIL = ("example.com", "example.org", "example.net", "mail.example.com")
_ADJECTIVES = _words(
    "Amber Bold Bright Calm Classic Clever Cosy Crisp Deep Early Fine Fresh Gentle Golden Grand Green Handy Light Little "
    "Lively Modern Neat Noble Plain Proud Quiet Rapid Rustic Sharp Silver Simple Sleek Smart Smooth Soft Solid Sturdy "
    "Sunny Warm Wide"
)
_MATERIALS = ("Bamboo", "Brass", "Ceramic", "Copper", "Cotton", "Glass", "Leather", "Linen", "Oak", "Steel", "Stone", "Wool")
_THINGS = _words(
    "Basket Bench Blanket Bottle Bowl Box Chair Clock Cup Desk Frame Jacket Kettle Knife Lamp Mat Mirror Mug Notebook Pan "
    "Pen Plate Rug Scarf Shelf Spoon Stool Table Tray Vase"
)
_CATEGORIES = _words(
    "Books Garden Kitchen Lighting Music Office Outdoor Pets Sports Toys Travel Bathroom Bedroom Clothing Electronics "
    "Groceries Health Beauty Shoes Tools Furniture Jewellery Games Crafts Baby Decor Fitness Cameras Phones Audio"
)
_CITIES = _words(
    "Amsterdam Athens Barcelona Berlin Bern Bogota Boston Cairo Chicago Copenhagen Dakar Dublin Geneva Hamburg Helsinki "
    "Istanbul Kyoto Lagos Lima Lisbon London Lyon Madrid Manila Milan Munich Nairobi Oslo Paris Porto Prague Quito Riga "
    "Rome Seoul Sofia Sydney Tallinn Tokyo Toronto Vienna Warsaw Zagreb Zurich"
)
_STREETS = (
    "Station Road",
    "Church Street",
    "Garden Lane",
    "Mill Road",
    "High Street",
    "Park Avenue",
    "Lake Drive",
    "Market Square",
)
_COUNTRY_NAMES = (
    "Austria",
    "Brazil",
    "Canada",
    "Denmark",
    "Egypt",
    "France",
    "Germany",
    "India",
    "Japan",
    "Kenya",
    "Norway",
    "Spain",
)
_COUNTRY_CODES = ("AT", "BR", "CA", "CH", "DE", "DK", "EG", "ES", "FR", "GB", "IN", "IT", "JP", "KE", "NL", "NO", "SE", "US")
_CURRENCIES = ("EUR", "EUR", "EUR", "USD", "USD", "GBP", "CHF", "SEK", "JPY", "PLN", "CAD", "AUD")
_LANGUAGES = ("de", "en", "es", "fr", "it", "ja", "nl", "pl", "pt", "sv")
_ZONES = ("UTC", "Europe/Berlin", "Europe/London", "Europe/Paris", "America/New_York", "Asia/Tokyo", "Africa/Nairobi")
_COLORS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
_STATES = ("active", "active", "active", "pending", "inactive", "archived")
_KINDS = ("basic", "standard", "premium", "special")
_UNITS = ("piece", "kg", "g", "l", "m", "cm", "pack", "hour")
_PLAIN = _words(
    "amber anchor apple arrow autumn bay beach bird bloom breeze bridge brook cedar cloud coast coral crane dawn delta "
    "dew dove dune echo ember fern field flame forest frost garden glade grove harbor hill island ivy jade lake lark leaf "
    "lily maple meadow mist moon moss north oak ocean olive orchid path pearl pine pond quartz rain raven reef ridge "
    "river rose sage shade shell sky snow spark spring star stone storm summer sun thorn tide trail tulip vale wave "
    "willow wind winter wood"
)
_OPENINGS = (
    "Well made and easy to care for.",
    "Comes in a recycled box.",
    "A favourite since the first day.",
    "Made by hand in small numbers.",
    "Checked twice before it leaves.",
    "Light, strong and quiet.",
    "Please call before delivery.",
    "Works the way one expects.",
)
_MIDDLES = (
    "It fits almost anywhere.",
    "The colour may differ a little from the picture.",
    "Keep it dry and out of the sun.",
    "Nothing else is needed.",
    "Customers like how long it lasts.",
    "It was ordered together with two others.",
    "The second one is half the price.",
    "Ask for the larger size.",
)
_CLOSINGS = (
    "Returns are free.",
    "Ready to use.",
    "Two years of guarantee.",
    "Arrives within days.",
    "More are on the way.",
    "Thank you.",
)
_DIGITS = tuple("0123456789")
_HEX = tuple("0123456789abcdef")
_LETTERS = tuple("ABCDEFGHJKLMNPRSTUVWXYZ")

Parts = tuple[tuple[str, ...], ...]


def _lower(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word.lower() for word in words)


_PERSON: Parts = (_FIRST, (" ",), _LAST)
_SENTENCES: Parts = (_OPENINGS, (" ",), _MIDDLES, (" ",), _CLOSINGS)
_PRODUCT: Parts = (_ADJECTIVES, (" ",), _MATERIALS, (" ",), _THINGS)
_SLUG: Parts = (_lower(_ADJECTIVES), ("-",), _lower(_THINGS))
_PLAIN_PAIR: Parts = (_PLAIN, (" ",), _PLAIN)

TEXTS: tuple[tuple[str, Parts], ...] = (
    (r"e_?mail", (_lower(_FIRST), (".",), _lower(_LAST), (SUFFIX,), ("@",), _MAIL)),
    (r"user_?name|login|handle|nick", (_lower(_FIRST), ("_",), _lower(_PLAIN))),
    (r"first_?name|given_?name", (_FIRST,)),
    (r"last_?name|sur_?name|family_?name", (_LAST,)),
    (r"full_?name|customer_?name|contact_?name|author|recipient", _PERSON),
    (r"company|organi[sz]ation|employer|vendor|supplier|merchant|payee", (_LAST, (" & ",), _LAST)),
    (r"password|_hash$|^hash|token|secret|digest|checksum", (*((_HEX,) * 12), ("9f",), *((_HEX,) * 4))),
    (r"phone|mobile|^fax|tel(ephone)?$", (("+49", "+33", "+44", "+1"), tuple("123456789"), *((_DIGITS,) * 8))),
    (r"user_?agent", (("Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (Macintosh)"), (" ",), ("Firefox/140.0", "Safari/605.1"))),
    (r"ur[il]$|ur[il]_|website|homepage|link|avatar|image|photo", (("https://example.com/",), _lower(_THINGS), ("/",), _PLAIN)),
    (r"currency", (_CURRENCIES,)),
    (r"country_?code", (_COUNTRY_CODES,)),
    (r"country|nation", (_COUNTRY_NAMES,)),
    (r"locale|lang(uage)?", (_LANGUAGES,)),
    (r"time_?zone|^tz$", (_ZONES,)),
    (r"city|town|place|location|destination|origin", (_CITIES,)),
    (r"zip|post(al)?_?code", (tuple("123456789"), *((_DIGITS,) * 4))),
    (r"street|address", (_STREETS, (" ",), tuple(str(number) for number in range(1, 120)))),
    (r"colou?r", (_COLORS,)),
    (r"slug", _SLUG),
    (
        r"sku|barcode|serial|(^|_)code$|reference|(^|_)ref$|(_|^)number$|_no$|iban",
        (*((_LETTERS,) * 3), ("-",), *((_DIGITS,) * 4)),
    ),
    (r"status|state$|phase|stage", (_STATES,)),
    (r"type$|kind|tier|level|plan", (_KINDS,)),
    (r"unit", (_UNITS,)),
    (r"mime|content_type", (("text/plain", "image/png", "image/jpeg", "application/pdf"),)),
    (r"descri|comment|note|bio|body|content|text|summary|message|review|reason|details|remark|abstract", _SENTENCES),
    (r"category|tag|genre|department|topic", (_CATEGORIES,)),
    (r"title|subject|headline|label|name", _PRODUCT),
)

_NAMES: tuple[tuple[str, Parts], ...] = (
    (r"user|customer|person|people|account|author|actor|employee|member|contact|patient|student|staff", _PERSON),
    (r"categor|tag|genre|department|topic|collection", (_CATEGORIES,)),
    (r"cit(y|ies)|town|place", (_CITIES,)),
    (r"compan|organi[sz]|supplier|vendor|brand|shop|store", (_LAST, (" & ",), _LAST)),
    (r"budget|plan", (_CATEGORIES, (" ",), ("January", "March", "June", "September", "Monthly", "Yearly"))),
)
"""What a column that is just called `name` (or `title`) holds, by its table's name."""


class NumberRange(msgspec.Struct, frozen=True):
    """Numbers from `low` to `high`, both inclusive; a `skew` above 1 makes low ones more frequent."""

    low: str
    high: str
    skew: float = 1.0


NUMBERS: tuple[tuple[str, NumberRange], ...] = (
    (r"price|amount|total|cost|fee|balance|revenue|salary|sum$|value|paid|budget", NumberRange("1", "1999.99", 2.5)),
    (r"quantity|qty|pieces", NumberRange("1", "20", 2.0)),
    (r"stock|inventory|available", NumberRange("0", "500", 1.5)),
    (r"rating|score|stars", NumberRange("1", "5")),
    (r"year", NumberRange("1990", "2026")),
    (r"month", NumberRange("1", "12")),
    (r"(^|_)age$", NumberRange("18", "90")),
    (r"percent|discount|tax|vat|rate$", NumberRange("0", "30")),
    (r"lat(itude)?$", NumberRange("-60", "70")),
    (r"(lng|lon|long|longitude)$", NumberRange("-170", "170")),
    (r"position|rank|order|priority|level|index", NumberRange("0", "100")),
    (r"(^|_)id$", NumberRange("1", "1000000")),
)
ANY_NUMBER = NumberRange("0", "9999")


class DateRange(msgspec.Struct, frozen=True):
    """Days from `first` to `last`, both inclusive."""

    first: date
    last: date


TIMES: tuple[tuple[str, DateRange], ...] = (
    (r"birth|dob|born", DateRange(date(1950, 1, 1), date(2006, 12, 31))),
    (r"expir|due|valid_(un)?til|(^|_)ends?(_|$)|until|next|renew|deadline", DateRange(EPOCH, date(2028, 10, 31))),
    (r"updated|modified|changed", DateRange(date(2026, 5, 1), EPOCH)),
)
LAST_TWO_YEARS = DateRange(date(2024, 11, 1), EPOCH)

_MOSTLY_NULL = re.compile(r"delet|archiv|cancel|remov|suspend|banned|revoked|closed|merged")
_MOSTLY_TRUE = re.compile(r"active|enabled|visible|public|verified|confirmed")
_MOSTLY_FALSE = re.compile(r"delet|archiv|cancel|hidden|default|admin|banned|locked|blocked|spam")


def words_for(column: str, table: str) -> tuple[str, ...] | None:
    """The strings that a text column of this name may hold, or None where the name tells nothing."""
    name = column.lower()
    parts = _find(_NAMES, table.lower()) if name in ("name", "title", "label", "display_name") else None
    parts = parts or _find(TEXTS, name)
    return None if parts is None else strings(parts)


def any_words() -> tuple[tuple[str, ...], ...]:
    """Tables for a column whose name tells nothing, longer strings first."""
    return strings(_PLAIN_PAIR), strings((_PLAIN,))


def sentences(least: int, most: int) -> tuple[str, ...]:
    """Running text of `least` to `most` characters."""
    source = strings(_SENTENCES)
    found: list[str] = []
    for start in range(64):
        text = source[start]
        following = start
        while len(text) < least:
            following += 1
            text = f"{text} {source[following % len(source)]}"
        found.append(text[:most].rstrip() if len(text[:most].rstrip()) >= least else text[:most])
    return tuple(dict.fromkeys(found))


def objects_for(column: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    """JSON objects as pairs of a key and a value that is JSON already."""
    if re.search(r"address", column.lower()):
        return tuple(
            (("city", f'"{city}"'), ("street", f'"{street} {number}"'), ("country", f'"{country}"'))
            for city, street, number, country in zip(_CITIES * 8, _STREETS * 44, range(1, 353), _COUNTRY_CODES * 20, strict=False)
        )
    return tuple(
        (("color", f'"{color}"'), ("size", f'"{size}"'), ("weight_grams", str(weight)), ("fragile", fragile))
        for color in _COLORS
        for size in ("S", "M", "L", "XL")
        for weight in range(100, 1100, 50)
        for fragile in ("true", "false")
    )


def number_range_for(column: str) -> NumberRange:
    """The numbers that a column of this name plausibly holds."""
    return _find(NUMBERS, column.lower()) or ANY_NUMBER


def date_range_for(column: str) -> DateRange:
    """The days that a column of this name plausibly holds."""
    return _find(TIMES, column.lower()) or LAST_TWO_YEARS


def null_share(column: str) -> float:
    """Which part of a nullable column's values is NULL, unless something else decides."""
    return 0.85 if _MOSTLY_NULL.search(column.lower()) else 0.1


def truth_share(column: str) -> tuple[str, ...]:
    """ "t" and "f", as often as a boolean of that name has them."""
    name = column.lower()
    if _MOSTLY_FALSE.search(name):
        return ("f",) * 9 + ("t",)
    return ("t",) * 9 + ("f",) if _MOSTLY_TRUE.search(name) else ("t", "f")


@lru_cache(maxsize=256)
def strings(parts: Parts) -> tuple[str, ...]:
    """Up to `TABLE_SIZE` different strings, one word of each part joined, spread over all that the parts could give."""
    total = 1
    for words in parts:
        total *= len(words)
    count = min(total, TABLE_SIZE)
    step = total // count
    found: list[str] = []
    for number in range(count):
        rest = number * step + number % step
        picked: list[str] = []
        for words in parts:
            rest, digit = divmod(rest, len(words))
            picked.append(words[digit])
        found.append("".join(picked))
    return tuple(found) if total <= TABLE_SIZE else tuple(dict.fromkeys(found))


def _find(table: tuple[tuple[str, Found], ...], name: str) -> Found | None:
    return next((value for pattern, value in table if re.search(pattern, name)), None)
