"""How the answers in a field of the Factbook are read.

A reader takes the plain text of a field and returns short answers, which stand in that text as they are; none where it
says none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
DAY = re.compile(rf"\b\d{{1,2}} (?:{MONTHS})\b")
DATE = re.compile(rf"{DAY.pattern} \d{{4}}\b")
MEASURE = re.compile(r"^[\d,.]+(?: (?:million|billion))?(?: (?:sq )?(?:km|m|years)\b)?")
PARENTHESIS = re.compile(r"\([^()]*\)")
SHARE = re.compile(r"(?:^|\s+)(?:(?:less|more) than )?[<~]?\d[\d.,-]*\s*%?(?:\s*km)?$")  # of an entry of a list
NOTE = re.compile(r"\bnotes?\b[^:;]{0,12}:.*")
NOTHING = re.compile(r"\W*|n/?a|none\b.*|other\b.*|unknown|unspecified.*|various|unnamed\b.*", re.IGNORECASE)
TITLE = re.compile(
    r"^(?:(?:acting|interim|transitional|supreme leader|(?:co-)?prince|president|(?:prime|chief|first) minister|king|"
    r"queen|emperor|sultan|amir|grand duke|pope|premier|chancellor|governor(?:[- ]general)?|administrator|"
    r"chief executive|crown|sheikh|general|(?:Sr\. |Lt\. |Maj\. |Brig\. )?Gen\.|Col\.|Dr\.|Sir|Dame|\(\w+\.\))\s+)+",
    re.IGNORECASE,
)
SURNAME = re.compile(r"[^\W\d_a-z]{2,}")  # the Factbook writes surnames in capitals
LONGEST = 8  # words


def entries(text: str) -> list[str]:
    """The entries of a list, without numbers at their ends."""
    return short(SHARE.sub("", part) for part in parts(text, r"[,;]|\bor\b(?= [A-Z])"))


def parts(text: str, separator: str) -> list[str]:
    """A text cut at a separator, without what stands in parentheses."""
    while PARENTHESIS.search(text):
        text = PARENTHESIS.sub(" ", text)
    return [" ".join(part.split()) for part in re.split(separator, NOTE.sub("", text.partition("(")[0]))]


def short(answers: Iterable[str]) -> list[str]:
    """Those that are an answer: not nothing, of few words, and without a share inside of them."""
    kept = [answer.strip(' "') for answer in answers]
    fit = [answer for answer in kept if "%" not in answer and len(answer.split()) <= LONGEST]
    return [answer for answer in fit if not NOTHING.fullmatch(answer)]


def first(text: str) -> list[str]:
    """The first entry of a list: the largest, where the Factbook orders by size."""
    return entries(text)[:1]


def clause(text: str) -> list[str]:
    """What stands before the first semicolon or parenthesis."""
    return short([re.split(r"[;(]", NOTE.sub("", text))[0].strip()])


def clauses(text: str) -> list[str]:
    """The entries between semicolons; commas and numbers are part of an entry."""
    return short(parts(text, ";"))


def with_translation(text: str) -> list[str]:
    """A name, and the same in parentheses in another language: "Parliament (Seimas)"."""
    head = re.split(r"[;]| - ", NOTE.sub("", text))[0]
    return short([head.partition("(")[0], *(found[1:-1] for found in PARENTHESIS.findall(head)[:1])])


def official(text: str) -> list[str]:
    """The languages that are said to be official."""
    found = re.findall(r"([^,;()]+?)(?:\s[\d.]+%)?\s*\(official\b[^()]*\)", text)
    return short(SHARE.sub("", language.strip()).removeprefix("and ") for language in found)


def place(text: str) -> list[str]:
    """A place before its height: "Tahat 2,908 m"."""
    return short([re.split(r"\s-?[\d,.]+ m\b|[;(]", text)[0].strip()])


def height(text: str) -> list[str]:
    """The height of a place."""
    found = re.search(r"-?\d[\d,.]* m\b", text)
    return [found[0]] if found else []


def measure(text: str) -> list[str]:
    """A number with its unit at the start of the text; a zero says nothing."""
    found = MEASURE.match(text)
    return [found[0].rstrip(",.")] if found and re.search("[1-9]", found[0]) else []


def currency(text: str) -> list[str]:
    """The currency of an exchange rate: "Algerian dinars (DZD) per US dollar -"."""
    return short(re.split(r"\s*\(|\s+per US dollar", text)[0].split(" or "))


def currency_code(text: str) -> list[str]:
    """The code of that currency."""
    return re.findall(r"\(([A-Z]{3})\)", text)[:1]


def person(text: str) -> list[str]:
    """A name, and the same with its titles: "President Patrice TALON (since 6 April 2016)"."""
    titled = re.split(r"[;(]|\bsince\b", text)[0].strip(" ,")
    name = TITLE.sub("", titled)
    known = SURNAME.search(name) and not re.match(r"of\b|the\b", name, re.IGNORECASE) and " and " not in name
    return short(dict.fromkeys([name, titled])) if known else []


def lyricist(text: str) -> list[str]:
    """Who wrote the words: before the slash."""
    return authors(text.partition("/")[0])


def composer(text: str) -> list[str]:
    """Who wrote the music: after the slash, or before it where there is none."""
    return authors(text.rpartition("/")[2])


def authors(text: str) -> list[str]:
    """The persons that "and" joins."""
    names = re.split(r"\band\b|[,;]", re.sub(r"\([^)]*\)?|\[[^\]]*\]?", " ", NOTE.sub("", text)))
    return short(" ".join(name.split()) for name in names if SURNAME.search(name))


def date(text: str) -> list[str]:
    """The first full date, where there is no other."""
    found = DATE.findall(text)
    return found if len(found) == 1 else []


def ruler(text: str) -> list[str]:
    """Whom a country became independent from: "5 July 1962 (from France)"."""
    found = re.findall(r"\(from (?:the )?([A-Z][^();,:]*?)\)", text)
    return short(found) if len(found) == 1 else []


def holiday(text: str) -> list[str]:
    """The names of holidays: "Independence Day, 5 July (1962); Revolution Day, 1 November (1954)"."""
    return short(re.split(r"[,(]", part)[0].strip() for part in re.split(r";", NOTE.sub("", text)) if DAY.search(part))


def holiday_date(text: str) -> list[str]:
    """The days of the year of holidays."""
    return list(dict.fromkeys(DAY.findall(NOTE.sub("", text))))


def largest_city(text: str) -> list[str]:
    """The city with the largest number before it: "2.902 million ALGIERS (capital), 936,000 Oran (2022)"."""
    found = re.findall(r"([\d.,]*\d)( million)? ([^\d,;()]+)", text)
    sized = [(float(n.replace(",", "")) * (1e6 if million else 1), city) for n, million, city in found]
    return short([max(sized)[1].strip()]) if sized else []


def voting_age(text: str) -> list[str]:
    """The age, in years and as a bare number."""
    found = re.match(r"(\d\d) years of age", text)
    return [found[0], found[1]] if found else []


def native_name(text: str) -> list[str]:
    """Names in the languages of the country: "Soomaaliya (Somali)/ As Sumal (Arabic)"."""
    return short(parts(text, "[;/]"))
