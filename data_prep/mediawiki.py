"""A MediaWiki XML dump, such as Wikipedia's pages-articles: streamed page by page, wikitext to plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from xml.etree.ElementTree import ParseError, iterparse

from data_prep.compressed import opened
from data_prep.sources import BREAK, Document, Source
from data_prep.step import fingerprint
from realm_train.errors import BadInput

LIST_TITLE = r"^(List of|Lists of|Index of|Outline of)\b|\(disambiguation\)$"  # as ORQA's preprocessing drops them
UNREADABLE = {"ref", "table", "gallery", "math", "timeline", "imagemap", "score", "syntaxhighlight", "hiero"}
NAMESPACE_LINK = re.compile(r"^\s*:?[^\W\d_]+(?: talk)?:\S", re.UNICODE)
BOLD_OR_ITALIC = re.compile(r"'{2,}")
LIST_MARKS = ("*", "#", ";", ":")
LIST_MARK = "•"  # no wikitext, so it survives until the lines are told apart
NO_PROSE = "•|{}="  # what a line that is left of a list, a table or a template begins with


@dataclass
class Mediawiki(Source):
    """Articles (namespace 0) of a dump, .bz2, .gz or plain; redirects and lists are counted and left out."""

    path: str
    skip_titles: str = LIST_TITLE
    unit: ClassVar[str] = "bytes"

    def __post_init__(self) -> None:
        parser()  # a missing package should be known before a dump of many gigabytes is hashed

    def inputs(self) -> list[dict]:
        if not Path(self.path).is_file():
            raise BadInput(f"{self.path}: no such file; give source.path= a MediaWiki XML dump")
        return [fingerprint(self.path)]

    def __iter__(self) -> Iterator[Document]:
        path = Path(self.path)
        self.total = path.stat().st_size
        dropped = re.compile(self.skip_titles)
        with opened(path) as (stream, raw):
            for page in pages(stream, path=path):
                self.done = raw.tell()
                reason = why_not(page, dropped=dropped)
                if reason:
                    self.skipped[reason] += 1
                else:
                    yield Document(id=page["id"], title=page["title"], text=page["text"])

    def clean(self, text: str) -> str:
        return plain_text(text)


def pages(stream, *, path: Path) -> Iterator[dict]:
    """`id`, `title`, `ns`, `redirect` and `text` of every page, one in memory at a time."""
    root = None
    try:
        for event, element in iterparse(stream, events=("start", "end")):
            root = element if root is None else root
            if event == "end" and local(element) == "page":
                yield page_of(element)
                root.clear()  # or the tree of all pages so far stays in memory
    except ParseError as error:
        line = error.position[0]
        raise BadInput(f"{path}:{line}: not well-formed XML ({error}); download the dump again") from error


def page_of(element) -> dict:
    fields = {local(child): child for child in element}
    texts = [child for child in element.iter() if local(child) == "text"]
    value = {name: fields[name].text or "" if name in fields else "" for name in ("id", "title", "ns")}
    return {**value, "redirect": "redirect" in fields, "text": (texts[-1].text or "") if texts else ""}


def why_not(page: dict, *, dropped: re.Pattern) -> str | None:
    """The reason to leave a page out, or None."""
    if page["ns"] not in ("", "0"):
        return "other_namespace"
    if page["redirect"] or page["text"].lstrip()[:9].lower() == "#redirect":
        return "redirect"
    return "list_title" if dropped.search(page["title"]) else None


def local(element) -> str:
    """The element's name without the dump's XML namespace."""
    return element.tag.rpartition("}")[2]


def plain_text(wikitext: str) -> str:
    """Prose of an article: no templates, tables, references, files, categories, headings or lists of links."""
    code = parser().parse(wikitext, skip_style_tags=True)
    for node in code.filter(recursive=True, forcetype=None):
        with suppress(ValueError):  # it stood inside a node that is gone already
            if getattr(node, "wiki_markup", None) in LIST_MARKS:
                code.replace(node, LIST_MARK)
            elif unreadable(node):
                code.remove(node)
    text = BOLD_OR_ITALIC.sub("", code.strip_code(normalize=True, collapse=True))
    paragraphs = (line.strip() for line in text.split("\n"))
    return BREAK.join(line for line in paragraphs if line and line[0] not in NO_PROSE)


def unreadable(node) -> bool:
    """Whether a node of the parsed page holds no prose."""
    kind = type(node).__name__
    if kind == "Tag":
        return str(node.tag).strip().lower() in UNREADABLE
    return kind == "Heading" or (kind == "Wikilink" and bool(NAMESPACE_LINK.match(str(node.title))))


def parser():
    """The module mwparserfromhell, or BadInput that names the extra."""
    try:
        import mwparserfromhell
    except ImportError as error:
        raise BadInput(
            "reading wikitext needs a package that is missing: pip install 'realm-train[mediawiki]'"
        ) from error
    return mwparserfromhell
