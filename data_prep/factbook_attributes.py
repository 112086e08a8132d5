"""What can be asked of a country: attributes of the Factbook, how their answers are read, and how one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from data_prep.factbook_readers import (
    clause,
    clauses,
    composer,
    currency,
    currency_code,
    date,
    entries,
    first,
    height,
    holiday,
    holiday_date,
    largest_city,
    lyricist,
    measure,
    native_name,
    official,
    person,
    place,
    ruler,
    voting_age,
    with_translation,
)

Reader = Callable[[str], list[str]]


class Attribute(NamedTuple):
    """One kind of fact: its name, the labels that lead to it, its reader, and ways to ask `{name}`, the country."""

    name: str
    path: str
    read: Reader
    phrasings: tuple[str, ...]


ATTRIBUTES = (
    Attribute("capital", "Government/Capital/name", entries, (
        "What is the capital of {name}?", "Which city is the capital of {name}?",
        "What is the capital city of {name}?")),
    Attribute("largest_city", "People and Society/Major urban areas - population", largest_city, (
        "What is the largest city of {name}?", "Which city of {name} has the most inhabitants?")),
    Attribute("currency", "Economy/Exchange rates/Currency", currency, (
        "What currency is used in {name}?", "What is the currency of {name}?", "With what does one pay in {name}?")),
    Attribute("currency_code", "Economy/Exchange rates/Currency", currency_code, (
        "What is the three-letter code of the currency of {name}?", "Which currency code does {name} use?")),
    Attribute("official_language", "People and Society/Languages", official, (
        "What is an official language of {name}?", "Which language is official in {name}?",
        "Name an official language of {name}.")),
    Attribute("religion", "People and Society/Religions", first, (
        "What is the most common religion in {name}?", "Which faith do most people of {name} belong to?")),
    Attribute("neighbour", "Geography/Land boundaries/border countries", entries, (
        "Which country has a land border with {name}?", "Name a country that borders {name}.",
        "What is a neighbouring country of {name}?")),
    Attribute("region", "Geography/Map references", entries, (
        "In which part of the world is {name}?", "On a map of which region is {name} found?")),
    Attribute("highest_point", "Geography/Elevation/highest point", place, (
        "What is the highest point of {name}?", "What is the highest mountain of {name}?",
        "Which place in {name} is the highest?")),
    Attribute("height", "Geography/Elevation/highest point", height, (
        "How high is the highest point of {name}?", "What is the elevation of the highest place in {name}?")),
    Attribute("lowest_point", "Geography/Elevation/lowest point", place, (
        "What is the lowest point of {name}?", "Which place in {name} is the lowest?")),
    Attribute("area", "Geography/Area/total", measure, (
        "What is the area of {name}?", "What is the total area of {name}?")),
    Attribute("coastline", "Geography/Coastline", measure, (
        "How long is the coastline of {name}?", "What is the length of the coast of {name}?")),
    Attribute("borders_length", "Geography/Land boundaries/total", measure, (
        "How long are the land borders of {name}?", "What is the total length of the land boundaries of {name}?")),
    Attribute("natural_resource", "Geography/Natural resources", entries, (
        "What is a natural resource of {name}?", "Name a natural resource that is found in {name}.")),
    Attribute("population", "People and Society/Population/total", measure, (
        "How many people live in {name}?", "What is the population of {name}?")),
    Attribute("median_age", "People and Society/Median age/total", measure, (
        "What is the median age in {name}?", "How old is the median inhabitant of {name}?")),
    Attribute("life_expectancy", "People and Society/Life expectancy at birth/total population", measure, (
        "What is the life expectancy at birth in {name}?", "How long do people in {name} live on average?")),
    Attribute("nationality", "People and Society/Nationality/adjective", entries, (
        "What is the adjective for the people of {name}?", "What is a person from {name} said to be?")),
    Attribute("head_of_state", "Government/Executive branch/chief of state", person, (
        "Who is the head of state of {name}?", "Who is the chief of state of {name}?")),
    Attribute("head_of_government", "Government/Executive branch/head of government", person, (
        "Who is the head of government of {name}?", "Who leads the government of {name}?")),
    Attribute("government_type", "Government/Government type", clause, (
        "What form of government does {name} have?", "What type of government has {name}?")),
    Attribute("legislature", "Government/Legislative branch/legislature name", with_translation, (
        "What is the legislature of {name} called?", "What is the name of the parliament of {name}?")),
    Attribute("voting_age", "Government/Suffrage", voting_age, (
        "At what age may one vote in {name}?", "How old must voters be in {name}?")),
    Attribute("long_name", "Government/Country name/conventional long form", clause, (
        "What is the official long name of {name}?", "What is {name} called in full?")),
    Attribute("native_name", "Government/Country name/local short form", native_name, (
        "What is {name} called in its own language?", "What do locals call {name}?")),
    Attribute("former_name", "Government/Country name/former", entries, (
        "What was {name} formerly called?", "What is a former name of {name}?")),
    Attribute("independence_date", "Government/Independence", date, (
        "When did {name} become independent?", "On what date did {name} gain independence?")),
    Attribute("independence_from", "Government/Independence", ruler, (
        "From whom did {name} gain independence?", "Which country did {name} become independent from?")),
    Attribute("national_holiday", "Government/National holiday", holiday, (
        "What is the national holiday of {name} called?", "Which national holiday does {name} celebrate?")),
    Attribute("holiday_date", "Government/National holiday", holiday_date, (
        "On what day of the year is the national holiday of {name}?", "When is the national holiday of {name}?")),
    Attribute("national_symbol", "Government/National symbol(s)", entries, (
        "What is a national symbol of {name}?", "Name a national symbol of {name}.")),
    Attribute("national_colour", "Government/National color(s)", entries, (
        "What is a national color of {name}?", "Which colors are the national ones of {name}?")),
    Attribute("anthem", "Government/National anthem(s)/title", with_translation, (
        "What is the national anthem of {name} called?", "What is the title of the anthem of {name}?")),
    Attribute("anthem_words", "Government/National anthem(s)/lyrics/music", lyricist, (
        "Who wrote the words of the national anthem of {name}?", "By whom are the lyrics of the anthem of {name}?")),
    Attribute("anthem_music", "Government/National anthem(s)/lyrics/music", composer, (
        "Who composed the national anthem of {name}?", "By whom is the music of the anthem of {name}?")),
    Attribute("heritage_site", "Government/National heritage/selected World Heritage Site locales", clauses, (
        "What is a World Heritage Site in {name}?", "Name a World Heritage Site of {name}.")),
    Attribute("agriculture", "Economy/Agricultural products", entries, (
        "What is an important agricultural product of {name}?", "Name something that farmers in {name} produce.")),
    Attribute("export", "Economy/Exports - commodities", entries, (
        "What does {name} export?", "Name one of the main exports of {name}.")),
    Attribute("import", "Economy/Imports - commodities", entries, (
        "What does {name} import?", "Name one of the main imports of {name}.")),
    Attribute("export_partner", "Economy/Exports - partners", first, (
        "Which country buys the most from {name}?", "What is the largest export partner of {name}?")),
    Attribute("import_partner", "Economy/Imports - partners", first, (
        "Which country sells the most to {name}?", "What is the largest import partner of {name}?")),
    Attribute("internet_domain", "Communications/Internet country code", entries, (
        "What is the internet domain of {name}?", "Which internet country code does {name} have?")),
    Attribute("aircraft_prefix", "Transportation/Civil aircraft registration country code prefix", entries, (
        "What is the registration prefix of aircraft from {name}?", "How do aircraft registrations of {name} begin?")),
    Attribute("port", "Transportation/Ports/key ports", entries, (
        "What is a key port of {name}?", "Name an important port of {name}.")),
)  # fmt: skip
