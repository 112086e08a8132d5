"""A prepared corpus on disk, read through memory maps: nothing here grows with the number of passages.

corpus/
  manifest.json                 inputs' hashes, settings, counts of kept and skipped; `hash` names the content
  passages/*.arrow              id, document, title, text: for people, and for the span step
  tokens.npy                    word pieces of every passage, title then body, without special tokens
  token_offsets.npy    [N+1]    passage i is tokens[token_offsets[i]:token_offsets[i+1]]
  title_lengths.npy    [N]      its first title_lengths[i] pieces are the title
  tokenizer.json                what cut the texts into word pieces
  passage_keys.npy     [N]      equal where titles and word pieces are, in any two corpora
  documents.npy        [N]      64-bit hash of the document's id: splits are by document
  source_documents.npy [R, 4]   of every document that was read, in order: hash of its id, hash of id, title and text,
                                passages of it that are here, whether these are all, of a text with nothing changed
  sentences.npy        [S, 4]   character start, end in the text; token start, end in the body
  sentence_offsets.npy [N+1]
  near_duplicates.npy           passages that share a sentence or a long run of tokens with passage i
  near_duplicate_offsets.npy [N+1]
  spans/                        the span step's: manifest.json, span_offsets.npy [N+1] and
    spans.npy          [P, 6]   sentence in the passage, character start, end, token start, end in the body, label
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from realm_train.batch import Sequences
from realm_train.data.passage_keys import passage_keys
from realm_train.errors import BadInput

SENTENCE_COLUMNS = ("char_start", "char_end", "token_start", "token_end")
SPAN_COLUMNS = ("sentence", "char_start", "char_end", "token_start", "token_end", "label")


class Corpus:
    """Passages by number: tokens, sentences, salient spans, near duplicates, and text to show."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, kind="corpus", made_by="data_prep.passages")
        self.count: int = self.manifest["count"]
        self.hash: str = self.manifest["hash"]
        special = self.manifest["tokenizer"]
        self.cls_id, self.sep_id = special["cls"], special["sep"]
        self.mask_id, self.pad_id = special["mask"], special["pad"]
        self.tokens = self._array("tokens")
        self.token_offsets = self._array("token_offsets", rows=self.count + 1)
        self.title_lengths = self._array("title_lengths", rows=self.count)
        self.documents = self._array("documents", rows=self.count)
        self._sentences = self._array("sentences")
        self._sentence_offsets = self._array("sentence_offsets", rows=self.count + 1)
        self._near = self._array("near_duplicates")
        self._near_offsets = self._array("near_duplicate_offsets", rows=self.count + 1)

    def __len__(self) -> int:
        return self.count

    def __reduce__(self):
        return Corpus, (self.folder,)  # a worker process opens the maps itself: nothing is copied

    @cached_property
    def word_starts(self) -> np.ndarray:
        """Whether a word piece begins a word: [V] bool."""
        return word_starts(self.tokenizer)

    @cached_property
    def tokenizer(self):
        """The `tokenizers.Tokenizer` that made the tokens."""
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        if not path.exists():
            raise BadInput(f"{path}: not found; prepare the corpus again")
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()  # MiniLM's pads every text to 128 pieces
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def passage_keys(self) -> np.ndarray:
        """Content keys, different for any two passages of a corpus, equal for equal ones of two corpora: [N]."""
        if (self.folder / "passage_keys.npy").exists():
            return self._array("passage_keys", rows=self.count)
        return passage_keys(self.tokens, self.token_offsets, self.title_lengths)  # prepared before they were stored

    @cached_property
    def source_documents(self) -> np.ndarray:
        """What was read, columns as told above: [R, 4]."""
        return self._array("source_documents", rows=self.manifest["documents"])

    def decode(self, pieces: Sequence[int]) -> str:
        """Word pieces as text, special tokens included."""
        return self.tokenizer.decode([int(piece) for piece in pieces], skip_special_tokens=False)

    def _array(self, name: str, rows: int | None = None) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"{path}: cannot be read ({error}); prepare the corpus again") from error
        if rows is not None and len(array) != rows:
            raise BadInput(f"{path}: got {len(array)} rows, expected {rows}; prepare the corpus again")
        return array

    def body(self, passage: int) -> np.ndarray:
        """Word pieces of the passage's text, without its title: [T]."""
        start = self.token_offsets[passage] + self.title_lengths[passage]
        return self.tokens[start : self.token_offsets[passage + 1]]

    def title(self, passage: int) -> np.ndarray:
        """Word pieces of the passage's title: [T]."""
        start = self.token_offsets[passage]
        return self.tokens[start : start + self.title_lengths[passage]]

    def sentences(self, passage: int) -> np.ndarray:
        """[S, 4], columns as SENTENCE_COLUMNS."""
        return self._sentences[self._sentence_offsets[passage] : self._sentence_offsets[passage + 1]]

    def sentence_counts(self) -> np.ndarray:
        """Sentences of every passage: [N]."""
        return np.diff(self._sentence_offsets)

    def near_duplicates(self, passage: int) -> np.ndarray:
        """Other passages that share a sentence or a long run of tokens with this one: [E]."""
        return self._near[self._near_offsets[passage] : self._near_offsets[passage + 1]]

    @cached_property
    def span_manifest(self) -> dict:
        """What the span step wrote about itself; raises BadInput if it has not run on this very corpus."""
        manifest = read_manifest(self.folder / "spans", kind="spans", made_by="data_prep.spans")
        if manifest["corpus"] != self.hash:
            raise BadInput(
                f"{self.folder / 'spans'}: made for corpus {manifest['corpus']}, but this one is {self.hash};"
                f" run python -m data_prep.spans corpus={self.folder}"
            )
        return manifest

    @cached_property
    def _span_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        self.span_manifest  # noqa: B018 - refuses spans of another corpus
        return self._array("spans/spans"), self._array("spans/span_offsets", rows=self.count + 1)

    def spans(self, passage: int) -> np.ndarray:
        """Salient spans of the passage: [P, 6], columns as SPAN_COLUMNS."""
        spans, offsets = self._span_arrays
        return spans[offsets[passage] : offsets[passage + 1]]

    def span_counts(self) -> np.ndarray:
        """Salient spans of every passage: [N]."""
        return np.diff(self._span_arrays[1])

    def span_keys(self, key: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """`key` of the word pieces [P, R] of every salient span, called once for each length R: [P]."""
        spans, offsets = self._span_arrays
        starts = self.token_offsets[:-1] + self.title_lengths
        starts = np.repeat(starts, np.diff(offsets)) + spans[:, 3]
        lengths = spans[:, 4] - spans[:, 3]
        keys = np.zeros(len(spans), dtype=np.int64)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            keys[rows] = key(self.tokens[starts[rows, None] + np.arange(length)])
        return keys

    def bodies(self, ids: np.ndarray, max_length: int) -> tuple[Int[torch.Tensor, "N T"], Int[torch.Tensor, " N"]]:
        """Padded word pieces of many bodies, cut to `max_length`, with their lengths; MISSING gives an empty row."""
        ids = np.asarray(ids, dtype=np.int64)
        safe = np.maximum(ids, 0)
        starts = self.token_offsets[safe] + self.title_lengths[safe]
        lengths = np.where(ids < 0, 0, np.minimum(self.token_offsets[safe + 1] - starts, max_length))
        columns = np.arange(lengths.max(initial=0))
        inside = columns < lengths[:, None]
        gathered = self.tokens[np.where(inside, starts[:, None] + columns, 0)]
        padded = np.where(inside, gathered, self.pad_id).astype(np.int64)
        return torch.from_numpy(padded), torch.from_numpy(lengths.astype(np.int64))

    def sequences(self, ids: np.ndarray, max_length: int) -> Sequences:
        """The passage tower's input `[CLS] title [SEP] body [SEP]`, at most `max_length` long; MISSING is the null
        passage `[CLS] [SEP] [SEP]`. Title first: the body is what is cut."""
        ids = np.asarray(ids, dtype=np.int64)
        safe = np.maximum(ids, 0)
        starts = self.token_offsets[safe]
        titles = np.where(ids < 0, 0, np.minimum(self.title_lengths[safe].astype(np.int64), max_length - 3))
        bodies = self.token_offsets[safe + 1] - starts - self.title_lengths[safe]
        bodies = np.where(ids < 0, 0, np.minimum(bodies, max_length - 3 - titles))
        body_starts = starts + self.title_lengths[safe]
        lengths = titles + bodies + 3
        columns = np.arange(lengths.max(initial=0))[None, :]
        titles, bodies = titles[:, None], bodies[:, None]
        in_title = (columns >= 1) & (columns <= titles)
        in_body = (columns >= titles + 2) & (columns < titles + 2 + bodies)
        where = np.where(in_title, starts[:, None] + columns - 1, 0)
        where = np.where(in_body, body_starts[:, None] + columns - titles - 2, where)
        padded = np.where(in_title | in_body, self.tokens[where], self.pad_id).astype(np.int64)
        padded[:, 0] = self.cls_id
        rows = np.arange(len(ids))
        padded[rows, titles[:, 0] + 1] = self.sep_id
        padded[rows, lengths - 1] = self.sep_id
        return Sequences(
            ids=torch.from_numpy(padded),
            lengths=torch.from_numpy(lengths.astype(np.int64)),
            second=torch.from_numpy(titles[:, 0] + 2),
        )

    @cached_property
    def table(self):
        """The passages as a `pyarrow.Table`, row i passage i; its Arrow files stay on disk."""
        import pyarrow  # not datasets, which takes half a second to import

        shards = sorted((self.folder / "passages").glob("*.arrow"))
        if not shards:
            raise BadInput(f"{self.folder / 'passages'}: no Arrow table; prepare the corpus again")
        maps = [pyarrow.memory_map(str(shard)) for shard in shards]
        return pyarrow.concat_tables([pyarrow.ipc.open_stream(one).read_all() for one in maps])

    def passage(self, passage: int) -> dict:
        """`id`, `document`, `title`, `text` of one passage."""
        return self.table.slice(int(passage), 1).to_pylist()[0]

    def passages(self, first: int, last: int) -> dict[str, list]:
        """The same of passages first … last-1, a list for each column; many at once are read much faster."""
        return self.table.slice(int(first), int(last) - int(first)).to_pydict()


def word_starts(tokenizer) -> np.ndarray:
    """Whether each of a `tokenizers.Tokenizer`'s pieces begins a word: [V] bool. Where a space is part of the pieces
    (byte-level BPE, SentencePiece), so does a punctuation mark, and the first piece of a text may begin one without."""
    model = json.loads(tokenizer.to_str())["model"]
    inside = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
    starts = np.ones(tokenizer.get_vocab_size(with_added_tokens=True), dtype=bool)
    for piece, number in tokenizer.get_vocab(with_added_tokens=False).items():
        spaced = piece.startswith(("Ġ", "▁")) or not piece[:1].isalnum()
        starts[number] = not piece.startswith(inside) if inside else spaced
    return starts


def read_manifest(folder: Path, *, kind: str, made_by: str) -> dict:
    """The manifest of a prepared folder; raises BadInput if it is missing, broken, or of another kind."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; make it with python -m {made_by}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); make it again with python -m {made_by}") from error
    if manifest.get("kind") != kind:
        raise BadInput(f"{path}: got a manifest of kind {manifest.get('kind')!r}, expected {kind!r}")
    return manifest
