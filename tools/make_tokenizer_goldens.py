#!/usr/bin/env python3
"""Makes the golden files of the tokenizer tests from the Hugging Face tokenizers library, the oracle.

    python3 tools/make_tokenizer_goldens.py                  # rewrites tests/formats/data
    python3 tools/make_tokenizer_goldens.py --stream FILE    # prints the token stream's count and hash of a text file

Needs `pip install tokenizers`; the committed files were made with version 0.23.3 on Python 3.11 (whose Unicode 14
decides from which characters the random texts are drawn). Everything else is fixed: the training text is below, the
seed is SEED, so a second run gives the same bytes.

Written files:
  tokenizer_<name>.json        a small trained tokenizer in the style of a published one
  tokenizer_texts.json         the texts that all of them encode
  tokenizer_<name>_cases.json  "encode": for text i its ids, or runs [[id, count], ...] where the list is long, and the
                               decoded text where it is not the text itself; "decode": ids, and the text without and
                               with special tokens
  pre_tokenizer_cases.json     pre-tokenizers of every kind and behavior, and the words they give, in byte symbols
  normalizer_cases.json        normalizers, texts and results
"""

import argparse
import json
import pathlib
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "formats" / "data"
SEED = 20240611
VOCAB_SIZE = 600

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
GLM = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
DEEPSEEK_DIGITS = r"\p{N}{1,3}"
DEEPSEEK_CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
DEEPSEEK = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")

TRAINING_TEXT = """
The harbour was quiet when the first boats came in, and the women who waited on the stones didn't speak. They'd seen
the weather turn before; they knew that it wasn't the wind that mattered but the water under it. "We'll wait," said the
oldest of them, "and they'll come, or they won't." It's a hard thing to say, but she'd said it every winter for forty
years, and I've never heard anyone answer her. You're free to try. The children were counting: 1, 2, 3, 10, 25, 100,
1000, 1234, 2024, 31415 and 65536, and when they had counted the gulls they started again with the clouds.
In the house there was bread, there were apples, and there was the other thing that nobody would name. The father of the
house had written everything down: the days, the hours, the height of the tide, the colour of the sky in the morning.
def count(items):\n    total = 0\n    for item in items:\n        total += item.value\n    return total\n\n
if (x != y && x->next == nullptr) {\n\t\treturn f(x, y) / 2;\n\t}\n\n\n#include <vector>\n// the end of the file\n
Zażółć gęślą jaźń. Über den Flüssen liegt der Nebel, größer als gestern. L'été dernier, nous étions à la mer; où
étiez-vous? El niño comió piñas y mañana será otro día. Привет, мир! Как дела? Всё хорошо, спасибо.
今天天气很好，我们去公园散步。中国的首都是北京。他们在学校学习中文，学习数学，学习历史。
これは日本語の文章です。私は毎日コーヒーを飲みます。東京タワーはとても高いです。カタカナとひらがな。
안녕하세요, 만나서 반갑습니다. 오늘은 날씨가 좋네요. مرحبا بالعالم. שלום עולם. नमस्ते दुनिया।
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa aaaaaaaa aaaa aa ---- -------- ==== ======== ......  \t\t\t\t    \n\n\n\n
"""


def special(content):
    return AddedToken(content, special=True, normalized=False)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(pattern, behavior, invert)


def plain_byte_level():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def train(pre_tokenizer, normalizer, added, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TRAINING_TEXT], trainer)
    tokenizer.add_tokens(added)
    return tokenizer


def make_tokenizers():
    marks = [special(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im|>")]
    tools = [AddedToken(t, special=False, normalized=False) for t in ("<tool_call>", "</tool_call>", "<think>")]
    glm = [special(t) for t in ("<|endoftext|>", "[gMASK]", "[MASK]", "<sop>", "<|user|>", "<|assistant|>")]
    deepseek = [special(t) for t in ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
                                     "<|endoftext|>")]
    deepseek.append(AddedToken("<\uff5cUser\uff5c>", special=False, normalized=False))
    odd = [
        special("<|endoftext|>"),
        AddedToken("<left>", special=True, normalized=False, lstrip=True),
        AddedToken("<right>", special=True, normalized=False, rstrip=True),
        AddedToken("<both>", special=False, normalized=False, lstrip=True, rstrip=True),
        AddedToken("word", special=False, normalized=False, single_word=True),
        AddedToken("caf\u00e9", special=False, normalized=True),
        AddedToken("\ufb01n", special=False, normalized=True),  # the ligature: normalized to "fin"
        AddedToken("a b", special=False, normalized=True),
        AddedToken("a b c", special=False, normalized=True),
        AddedToken("\u00e9\u00e8", special=False, normalized=False),  # byte symbols only, so decoded as two raw bytes
    ]
    sequence = pre_tokenizers.Sequence
    return {
        "qwen": train(sequence([split(Regex(QWEN)), plain_byte_level()]), normalizers.NFC(), marks + tools),
        "glm": train(sequence([split(Regex(GLM)), plain_byte_level()]), None, glm),
        "deepseek": train(sequence([split(Regex(DEEPSEEK_DIGITS)), split(Regex(DEEPSEEK_CJK)), split(Regex(DEEPSEEK)),
                                    plain_byte_level()]), normalizers.Sequence([]), deepseek),
        "digits": train(sequence([pre_tokenizers.Digits(individual_digits=True),
                                  pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)]),
                        normalizers.Sequence([normalizers.NFKC(), normalizers.NFC()]), odd, ignore_merges=True),
    }


WHITE_SPACE = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u180e" + "".join(map(chr, range(0x2000, 0x200c))) + \
    "\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"


def fixed_texts():
    texts = ["", " ", "a", "Hello world", "The quick brown fox jumps over the lazy dog.", " leading", "trailing ", "  two  "]
    texts += ["don't I'll we've they're it's I'd I'm", "DON'T I'LL WE'VE THEY'RE IT'S I'D I'M", "Don'T i'lL wE'vE",
              "'s't're've'm'll'd", "'S'T'RE'VE'M'LL'D", "x'\u017f x'\u017fa 'RE\u0301 '\u212a", "rock'n'roll o'clock ''ll",
              "don\u2019t we\u2019ll"]
    texts += ["1 12 123 1234 12345 1234567890", "3.14159 1,000,000 -42 1e10 0x1F", "\u0661\u0662\u0663\u0664 \u0967\u0968",
              "\u2167 \u00bd \u00b2\u00b3 \u2460\u2461 \u3007\u4e00\u4e8c \u32ce", "a1b22c333d4444", "v1.2.3-rc4+build.567"]
    texts += ["今天天气很好，我们去公园。", "我有3个苹果和12345个梨", "漢字かな交じり文、カタカナ。ｱｲｳ ー゠ヿゟ", "東京tower東京", "龥龦㐀𠀀𪚥一",
              "こんにちは世界 これはtestです", "한국어 텍스트 각각", "中文English混合123テスト"]
    texts += ["\U0001F600 \U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466 \U0001F3F3\ufe0f\u200d\U0001F308",
              "\U0001F44D\U0001F3FD ok \u2764\ufe0f", "a\U0001F600b", "\U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7",
              "1\ufe0f\u20e3 \U000E0041"]
    texts += ["caf\u00e9 cafe\u0301 \u00e9\u00e8", "\u1ea5 a\u0302\u0301 a\u0301\u0302", "\u212b \u00c5 A\u030a", "o\u0308\u0323 \u0323\u0308o",
              "\ufb01n fin \ufb03 \u2126 \uff21\uff22\uff11 \u3392", "\u1112\u1161\u11ab \ud55c", "\u0301 start", " \u0301x", "e\u0301" * 20,
              "\u0344 \u0f73 \u2adc \ufb1d", "a\u1ace\u0334 \u0eba\u0334 \u08d0\u0301",  # marks newer than the oracle's Unicode 9 tables
              "Zażółć gęślą jaźń", "l'\u00e9t\u00e9 o\u00f9"]
    texts += [WHITE_SPACE, "x".join(WHITE_SPACE), "".join(" " + c + "a" for c in WHITE_SPACE),
              "".join(c + c + "\n" for c in WHITE_SPACE)]
    texts += ["\n", "\n\n", "\n\n\n a", "a\n\n\n\nb", " \n \n ", "a \n b", "a\r\nb\r\n\r\n", "\t\tif x:\n\t\t\ty = 1\n", "a  b   c    d",
              "x    \n    y", "end.\n\n\nStart", "!?\n\n...\r\n--\n", "\u2028\u2028a\u2029", "a\u000b\u000bb", "a\u0085\u0085b \u0085", "\u3000\u3000全角"]
    texts += ["\0", "a\0b\0\0", "\x01\x02\x7f\x80\x9f", "\x1b[31mred\x1b[0m", "\u200b\u200e\u202e\u2066 x", "\ufffd \ufffe \uffff \U0010ffff",
              "\ue000\U000f0000"]
    texts += ["<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>", "<|endoftext", "<|endoftext|", "<|<|endoftext|>|>",
              "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n</think>", "<|im|><|im_<|im_start|", "<tool_call>{\"a\": 1}</tool_call>",
              "[gMASK]<sop><|user|>\nHi<|assistant|>\n", "[MASK][gMASK][gMAS", "[gMASK]<so<sop>", "[[MASK]]", " <|user|> x <pad>",
              "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>Hi<\uff5cend\u2581of\u2581sentence\uff5c>", "<\uff5cbegin\u2581of"]
    texts += ["a  <left>  b", "a  <right>  b", "a \n<both>\u3000 b", "<right>  <left>  <both>  <right> <right>", "  <left>", "<right>  ",
              "<right> \n <right>x", "word words sword word. wordword (word) \u00e9word word\u0301 word_ word-word word1 1word",
              "password word", "a b", "a b c", "a b ca b", "xa b cx a bb", "caf\u00e9s cafe\u0301s", "the \ufb01nal final fin",
              "\u00e9\u00e8\u00e9 e\u0301e\u0300"]
    texts += ["for (int i = 0; i < n; ++i) { a[i] += b[i] * c; }", "https://example.org/a/b?c=d&e=%20f#g", "user@example.com C:\\dir\\file.txt",
              "**bold** _it_ `code` ~~no~~ | a | b |", "!@#$%^&*()_+-=[]{};':\",./<>?\\|`~", "=====-----.....", "a_b_c_d __init__ $x ^y",
              "{\"key\": [1, 2.5, null, \"\\u00e9\"]}", "\u00bfQu\u00e9? \u00a1Hola! \u00ab\u00bb \u2013 \u2014 \u2026", "\u20ac100 \u00a35 \u00a5 + - \u00d7 \u00f7 \u2200x\u2208\u211d"]
    texts += ["Привет, как дела? Всё ОК", "مرحبا بالعالم ١٢٣", "שלום עולם", "नमस्ते दुनिया क्षि", "สวัสดีชาวโลก", "\u0130stanbul \u0131\u015f\u0131k \u1e9e \u00df"]
    texts += ["a" * 10000, "ab" * 3000, " " * 3000, "\n" * 1000 + "x", "\u00e9" * 1000, "-" * 5000, "a" * 47, "a" * 48, "a" * 49, "a" * 97,
              "1" * 1000, "\u4e2d" * 500, "x" + " " * 500 + "y", "The " * 300]
    return texts


def random_texts(rng, count):
    assigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    bmp = [c for c in assigned if c < "\uffff" and not "\u3400" <= c <= "\u9fff" and not "\uac00" <= c <= "\ud7a3"
           and not "\ue000" <= c <= "\uf8ff"]
    ascii_text = [chr(c) for c in range(32, 127)]
    marks = [c for c in bmp if unicodedata.category(c).startswith("M")]
    pools = [ascii_text, bmp, bmp, assigned, list(WHITE_SPACE), marks, list("0123456789\u0663\u00bd\u2167"), list("'stdmrevlSTDMREVL "),
             list("\r\n\t  "), list("あいウエ漢字中文、。"), list("<|endoftext|>[gMASK] ")]
    texts = []
    for _ in range(count):
        chosen = rng.sample(pools, rng.randint(1, 3))
        texts.append("".join(rng.choice(rng.choice(chosen)) for _ in range(rng.randint(1, 18))))
    return texts


def runs_of(ids):
    runs = []
    for i in ids:
        if runs and runs[-1][0] == i:
            runs[-1][1] += 1
        else:
            runs.append([i, 1])
    return runs


def encode_cases(tokenizer, texts):
    cases = []
    for index, text in enumerate(texts):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        decoded = tokenizer.decode(ids)
        runs = runs_of(ids)
        case = {"text": index}
        case.update({"runs": runs} if 2 * len(runs) < len(ids) else {"ids": ids})
        if decoded != text:
            case["decoded"] = decoded
        cases.append(case)
    return cases


def decode_cases(tokenizer, rng):
    """Ids in an order that no text gives: their bytes are often not valid UTF-8."""
    vocabulary = tokenizer.get_vocab()
    singles = sorted(i for token, i in vocabulary.items() if len(token) == 1)
    leads = [vocabulary[c] for c in "ÂÃàáâãäåæçèéêëìíîïðñòóôõö÷ÀÁĠ"]
    cases = []
    for _ in range(60):
        pools = [singles, leads, sorted(vocabulary.values())]
        ids = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 12))]
        cases.append({"ids": ids, "text": tokenizer.decode(ids), "all": tokenizer.decode(ids, skip_special_tokens=False)})
    return cases


def pre_tokenizer_cases(texts):
    sequence = pre_tokenizers.Sequence
    byte_level = pre_tokenizers.ByteLevel
    list_of = []
    for behavior in ("isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            for pattern in ("-", Regex(r"\d+"), Regex(r"[^\S\n]"), Regex(r"x*")):
                list_of.append(sequence([split(pattern, behavior, invert), plain_byte_level()]))
    for pattern in (r"\w+", r"\W", r"[\w-]+", r"\S+|\s", r"[^\W\d]+", r"\bw", r"\Bw", r"^.|.$", r"(?m:.+)", r".{2}", r"a{,2}b", r"a{1,2}?b", r"{x}",
                    r"(?<=\d)(?=(\d{3})+(?!\d))", r"(?<!a)b", r"(?>a|ab)c", r"[a\-z\]\[&~{}-]+", r"[\x41-\x{5A}\u4e00-\u9fff]+", r"(?i)[a-d]+",
                    r"(?i:THE|K)", r"[[a-c]x\d]+", r"\p{^L}+|\P{N}", r"\p{Han}+|\p{Hiragana}+", r"\h+", r" #\ ", r"a++|b*+c", r"\A.|.\z",
                    r"[\p{Lu}\p{Lt}]?[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"):
        list_of.append(sequence([split(Regex(pattern)), plain_byte_level()]))
    list_of += [byte_level(add_prefix_space=a, use_regex=r) for a in (False, True) for r in (False, True)]
    list_of += [sequence([pre_tokenizers.Digits(individual_digits=i), plain_byte_level()]) for i in (False, True)]
    list_of.append(sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(add_prefix_space=True)]))
    list_of.append(sequence([plain_byte_level(), pre_tokenizers.Digits(individual_digits=False)]))
    list_of.append(sequence([byte_level(add_prefix_space=True), split("\u0120", "removed")]))
    list_of.append(sequence([split("the", "merged_with_next"), split(".", "removed"), sequence([plain_byte_level()])]))
    cases = []
    for pre_tokenizer in list_of:
        definition = json.loads(pre_tokenizer.__getstate__())
        words = [[w for w, _ in pre_tokenizer.pre_tokenize_str(text)] for text in texts]
        cases.append({"pre_tokenizer": definition, "words": words})
    return {"texts": texts, "cases": cases}


PRE_TOKENIZER_TEXTS = ["", "the-final--countdown-", "-a12 345b\n6\u0663x", "word words wow_w 1234567 $1,234", "a\nb\r\n.c\n\n", "abc aabac {x}{ xx",
                       "The the THE \u212a a\u0301bC \u0301w", "漢字かな abc#  # a-z][&~", "\u00e9\u01c5\u02b0 \U0001F600x\U0001D7D8", " \u0085\u000b\u00a0x\u2028 "]


def normalizer_cases(texts):
    kinds = {"NFC": normalizers.NFC(), "NFD": normalizers.NFD(), "NFKC": normalizers.NFKC(), "NFKD": normalizers.NFKD()}
    cases = []
    for name, normalizer in kinds.items():
        for text in texts:
            result = normalizer.normalize_str(text)
            if result != text or len(text) < 4:
                cases.append({"normalizer": {"type": name}, "text": text, "result": result})
    both = normalizers.Sequence([normalizers.NFKD(), normalizers.NFC()])
    cases += [{"normalizer": json.loads(both.__getstate__()), "text": t, "result": both.normalize_str(t)} for t in texts[:40]]
    return cases


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_lists(path, lists):
    """One element a line, so that a change shows what changed."""
    parts = [compact(key) + ":[\n" + ",\n".join(map(compact, values)) + "\n]" for key, values in lists.items()]
    path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


def write_goldens():
    rng = random.Random(SEED)
    DATA.mkdir(parents=True, exist_ok=True)
    fixed = fixed_texts()
    texts = fixed + random_texts(rng, 200)
    write_lists(DATA / "tokenizer_texts.json", {"texts": texts})
    tokenizers = make_tokenizers()
    for name, tokenizer in tokenizers.items():
        definition = json.loads(tokenizer.to_str())
        (DATA / f"tokenizer_{name}.json").write_text(compact(definition) + "\n", encoding="utf-8")
    tokenizers["books"] = Tokenizer.from_file(str(ROOT / "models" / "books-moe" / "tokenizer.json"))
    for name, tokenizer in tokenizers.items():
        cases = {"encode": encode_cases(tokenizer, texts), "decode": decode_cases(tokenizer, rng)}
        write_lists(DATA / f"tokenizer_{name}_cases.json", cases)
    pre = pre_tokenizer_cases(PRE_TOKENIZER_TEXTS)
    write_lists(DATA / "pre_tokenizer_cases.json", pre)
    accented = [t for t in texts if any(ord(c) > 0xC0 for c in t) and len(t) < 60]
    write_lists(DATA / "normalizer_cases.json", {"cases": normalizer_cases(accented[:110])})


def pieces(document):
    """The pieces of one document as the perplexity windows define them."""
    piece, length = [], 0
    for paragraph in document.split("\n\n"):
        piece.append(paragraph)
        length += len(paragraph)
        if length > 20000:
            yield "\n\n".join(piece) + "\n\n"
            piece, length = [], 0
    if piece:
        yield "\n\n".join(piece)


def print_stream(path):
    """Count and FNV-1a (64 bits, over little-endian int32) of the ids of a file, token 0 before every document."""
    tokenizer = Tokenizer.from_file(str(ROOT / "models" / "books-moe" / "tokenizer.json"))
    ids = []
    for document in pathlib.Path(path).read_bytes().decode("utf-8").split("\n\0"):
        ids.append(0)
        for piece in pieces(document):
            ids += tokenizer.encode(piece, add_special_tokens=False).ids
    value = 0xCBF29CE484222325
    for i in ids:
        for byte in i.to_bytes(4, "little"):
            value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    print(f"{len(ids)} ids, FNV-1a {value:#018x}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", metavar="FILE", help="print count and hash of the token stream of FILE instead")
    arguments = parser.parse_args()
    if arguments.stream:
        print_stream(arguments.stream)
    else:
        write_goldens()
    return 0


if __name__ == "__main__":
    sys.exit(main())
