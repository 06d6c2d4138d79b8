"""The embedded base's tokenizer: small, in CLIP's format, at a loss for no text."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from train.build_tokenizer import BOS, EOS, WORDS_PATH, build_tokenizer, sample_corpus

TEXTS = [
    "a photo of a smiling young woman",
    "ünïcödé",
    "画像 🎨 👩‍🎨",
    "日本語",
    "<style> & $%€",
    "s*",
    "ﷺ",
    "ἀρχή",
    "\x07",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(sample_corpus(["a zigzag of a woman"] * 3, num_captions=300)).save_pretrained(directory)
    loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(directory)
    return loaded


def test_size_and_special_tokens(tokenizer: CLIPTokenizer) -> None:
    assert 1500 <= len(tokenizer) <= 2048
    assert tokenizer.model_max_length == 32
    last = len(tokenizer) - 1
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (last - 1, last, last)
    assert (tokenizer.bos_token, tokenizer.eos_token) == (BOS, EOS)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[:-1]
    decoded = str(tokenizer.decode(ids, skip_special_tokens=True))
    assert decoded.replace(" ", "") == text.replace(" ", "")


def test_words_of_captions_are_one_token(tokenizer: CLIPTokenizer) -> None:
    text = "a photo of a smiling young woman with dark hair and glasses"
    assert tokenizer.tokenize(text) == [f"{word}</w>" for word in text.split()]
    assert tokenizer.tokenize("zigzag") == ["zigzag</w>"]


def test_common_words_are_short(tokenizer: CLIPTokenizer) -> None:
    words = WORDS_PATH.read_text(encoding="utf-8").split()
    assert sum(len(tokenizer.tokenize(word)) for word in words) / len(words) < 1.2


def test_same_texts_give_the_same_tokenizer(tmp_path: Path) -> None:
    first, second = (build_tokenizer(["a man", "a woman"] * 4) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert first("a man in a storm").input_ids == second("a man in a storm").input_ids
