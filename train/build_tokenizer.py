"""Train the embedded base's small byte-level BPE, in CLIP's format, on captions and a list of common words.

python -m train.build_tokenizer --output runs/tokenizer [--captions shards/captions.json]
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tokenizers import pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from acfun.descriptions import Age, Attributes, Expression, Gender, Hair, Skin
from acfun.synthetic.captions import caption

WORDS_PATH = Path(__file__).with_name("tokenizer_words.txt")
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def build_tokenizer(texts: Iterable[str], vocab_size: int = 2048, max_length: int = 32) -> CLIPTokenizer:
    """Learn merges from `texts`; any text can be encoded, since all 256 bytes are in the vocabulary twice.

    Ids are laid out as in CLIP's own tokenizer: bytes, bytes that end a word, merges in order, start and end;
    end pads too. `vocab_size` is an upper bound: merges stop where no pair occurs twice.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _learn_merges(texts, vocab_size - 2 - 2 * len(alphabet), alphabet)
    tokens = [
        *alphabet,
        *(char + END_OF_WORD for char in alphabet),
        *(first + second for first, second in merges),
    ]
    # Two different pairs can give the same token; it keeps its first id.
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*tokens, BOS, EOS]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def _learn_merges(texts: Iterable[str], num_merges: int, alphabet: list[str]) -> list[Any]:
    learner = CLIPTokenizer().backend_tokenizer
    trainer = BpeTrainer(
        vocab_size=num_merges + 2 * len(alphabet),
        min_frequency=2,
        initial_alphabet=alphabet,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(first, second) for first, second in merges[:num_merges]]


def sample_corpus(captions: Iterable[str], num_captions: int = 5_000, seed: int = 0) -> Iterator[str]:
    """Texts to learn from: the given captions, `num_captions` drawn ones and each common word thrice."""
    yield from captions
    generator = np.random.default_rng(seed)

    def draw(literal: object) -> str:
        return str(generator.choice(get_args(literal)))

    for _ in range(num_captions):
        fields = {"gender": Gender, "age": Age, "expression": Expression, "hair": Hair, "skin": Skin}
        drawn: dict[str, Any] = {name: draw(literal) for name, literal in fields.items()}
        drawn |= {name: bool(generator.integers(2)) for name in ("glasses", "beard")}
        yield caption(Attributes(**drawn), generator)
    for word in WORDS_PATH.read_text(encoding="utf-8").split():
        yield from [word] * 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write the tokenizer into")
    parser.add_argument("--captions", type=Path, help="captions.json of a shard (texts, or lists of texts)")
    parser.add_argument("--vocab-size", type=int, default=2048, help="upper bound")
    parser.add_argument("--max-length", type=int, default=32, help="tokens per prompt, start and end included")
    args = parser.parse_args()
    entries = json.loads(args.captions.read_text(encoding="utf-8")) if args.captions else []
    texts = (text for entry in entries for text in ([entry] if isinstance(entry, str) else entry))
    tokenizer = build_tokenizer(sample_corpus(texts), args.vocab_size, args.max_length)
    tokenizer.save_pretrained(args.output)
    print(f"{len(tokenizer)} tokens, {args.max_length} per prompt → {args.output}")


if __name__ == "__main__":
    main()
