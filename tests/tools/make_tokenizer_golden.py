#!/usr/bin/env python3
"""Writes tests/golden/tokenizer-smollm2.txt, -gemma3.txt and -pre.txt: hostile text and its token ids.

    make_tokenizer_golden.py SMOLLM2.gguf GEMMA3.gguf [FOLDER]

needs the packages tokenizers and llama-cpp-python.  The ids come from independent programs:
SmolLM2's from HuggingFace's `tokenizers`, with the vocabulary and merges of the GGUF and the
pre-tokenizers that SmolLM2's tokenizer.json has; Gemma 3's from llama.cpp.  SmolLM2 is asked of
llama.cpp as well, and lines on which the two differ are listed in the file's head.

A line of the file: the text in hexadecimal, a tab, the ids.  Special tokens are not parsed.

tokenizer-pre.txt has the name of a pre-tokenizer, a hash of the ids of all those texts (but for the
ones with U+0004, of which the two programs think differently) and the program: SmolLM2's vocabulary and
merges in a file that names this pre-tokenizer.  llama.cpp is asked, but where it only approximates the
expression of the models' tokenizer.json: those are given to `tokenizers` as they are.
"""
import os
import random
import struct
import sys
import tempfile
import unicodedata

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gguf_write import Gguf  # noqa: E402


def gguf_keys(path):
    """The key-value part of a GGUF file, arrays as lists and strings as bytes."""
    with open(path, "rb") as f:
        data = f.read(64 << 20)
    at = 24
    numbers = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def string():
        nonlocal at
        n, = struct.unpack_from("<Q", data, at)
        at += 8 + n
        return data[at - n:at]

    def value(kind):
        nonlocal at
        if kind == 8:
            return string()
        if kind == 9:
            element, n = struct.unpack_from("<IQ", data, at)
            at += 12
            if element == 8:
                return [string() for _ in range(n)]
            form = "<%d%s" % (n, numbers[element])
            at += struct.calcsize(form)
            return list(struct.unpack_from(form, data, at - struct.calcsize(form)))
        at += struct.calcsize(numbers[kind])
        return struct.unpack_from("<" + numbers[kind], data, at - struct.calcsize(numbers[kind]))[0]

    keys = {}
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        name = string().decode()
        kind, = struct.unpack_from("<I", data, at)
        at += 4
        keys[name] = value(kind)
    return keys


FIXED = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t \t", "\r", "\r\n", "\r\n\r\n", "\n\r", "\x0b\x0c",
    "Hello, world!", " Hello", "Hello ", "  Hello  world  ", "\nHello\n", "Hello\r\nworld\r\n", "\tHello\tworld",
    "a", "A", "ab", "é", "e\u0301", "ñ n\u0303", "Å A\u030a \u212b", "q\u0323\u0307 q\u0307\u0323",
    "I'm you're he's we'll they've I'd can't", "I'M YOU'RE HE'S WE'LL THEY'VE I'D CAN'T", "it’s ’S ‘quoted’ “double”",
    "'s 't 're 've 'm 'll 'd 'S 'x ''s", "don''t 'tis o'clock rock'n'roll",
    "0", "1234567890", "3.14159", "1,234,567.89", "0x1F 1e-10 -5 +7", "2024-02-29T23:59:60Z", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९",
    "一二三四五", "Ⅷ ⅷ ½ ¾ ² ³ ₂ ①②③ ㊿", "𝟘𝟙𝟚 𝟬𝟭𝟮", "𐒠𐒡 𑁦𑁧 𞥐𞥑", "1st 2nd 3rd 4th 10k 7B 135M",
    "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>", "<|im_end|", "<|im_start|><|im_start|>", " <|im_end|> ", "<repo_name>x<file_sep>",
    "<bos>Hello<eos>", "<start_of_turn>user\nHi<end_of_turn>\n", "<pad><unk><mask>", "<unused0> <unused94> <unused6241>",
    "<0x0A> <0xFF> <0x41>", "<s>[INST] x [/INST]</s>", "</s>", "[multimodal]", "<start_of_image><end_of_image>", "<|eot_id|>", "<EOS> <Bos> < eos >",
    "▁", "▁▁", "a▁b", "▁ a ▁", " ▁Hello▁ world", "Ġ Ċ ĉ Ġhello", "ĠĠ", "¡ ÿ Ā Ł",
    "<table><tr><td>1</td></tr></table>", "<h1>T</h1><p>x</p>", "<b>bold</b> <i>i</i> <u>u</u> <s>s</s>", "<strong>x</strong><em>y</em><code>z</code>",
    "<div class=\"a\"><span>x</span></div>", "<img src='a.png'/>", "<ul>\n  <li>one</li>\n  <li>two</li>\n</ul>", "<html><body></body></html>",
    "<!-- comment --> &amp; &lt; &#x27; &nbsp;", "</ td> <td/> <TD>",
    "int main(void)\n{\n\treturn 0;\n}\n", "def f(x):\n    if x:\n        return [i**2 for i in range(10)]\n    return None\n",
    "for (;;) { a[i++] ^= b->c & ~0x7f; }", "SELECT * FROM t WHERE a <> 'b' -- c", "{\"a\": [1, 2.5, null, true], \"b\": \"\\u00e9\"}",
    "#!/bin/sh\nset -eu\necho \"$HOME\" | sed 's/a/b/g' >/dev/null 2>&1", "x\n\n\n    y\n\n\t\tz", "    four\n        eight\n  two",
    "https://example.org/a/b?c=d&e=f#g", "user@example.org", "C:\\Users\\x\\file.txt", "/usr/lib/x86_64-linux-gnu", "snake_case camelCase PascalCase kebab-case",
    "... --- ___ *** === !!! ???", "!@#$%^&*()_+-=[]{}|;':\",./<>?`~", "«guillemets» „German“ 「日本」 『二』", "— – ‐ ‑ − ― …", "$1 €2 £3 ¥4 ₹5 ₿6",
    "∀x∈ℝ: ∃y ≠ ∅ ∑∏∫√∞ ≤≥", "←↑→↓⇒⇔", "\\frac{a}{b} $x^2$", "│┌─┐└┘█▓▒░▂▃▄▅▆▇", "♠♥♦♣ ♪♫ ☃ ✓✗",
    "😀", "😀😁😂", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷🇺🇸🇯", "❤️ ❤︎ ☺️", "1️⃣ #️⃣ *️⃣", "a😀b😀c", " 😀 ", "🧑🏿‍🚀👩‍❤️‍💋‍👨", "🫠🫡🫨🩷",
    "你好，世界！", "今天天气很好。我们去公园吧？", "繁體中文字", "こんにちは世界", "カタカナ ﾊﾝｶｸ ひらがな", "안녕하세요 세계", "ᄒ\u1161ᆫ 한", "㍿㌔㈱", "𠀀𠮷𪚥", "ㄅㄆㄇ",
    "Привет, мир!", "ПРИВЕТ ёЁ ъЪ", "Γειά σου Κόσμε ς Σ", "Ελληνικά ΆΈ", "Հայերեն", "ქართული ᲥᲐᲠᲗᲣᲚᲘ",
    "שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "اَلسَّلَامُ", "فارسی ‌نیم‌فاصله", "\u202eabc\u202c \u200f\u200e", "اردو کتاب", "ܫܠܡܐ",
    "नमस्ते दुनिया", "क्षत्रिय ज्ञ", "বাংলা", "தமிழ்", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "ਪੰਜਾਬੀ ગુજરાતી", "සිංහල", "ไทยภาษา", "ลาว ລາວ", "ကမြန်မာ", "ភាសាខ្មែរ", "བོད་ཡིག", "አማርኛ", "ᓀᐦᐃᔭᐍ ᏣᎳᎩ ꮳꮃꭹ",
    "Tiếng Việt có dấu", "Türkçe İıŞş", "Česká řeč žluťoučký", "Polski zażółć gęślą jaźń", "Magyar őű", "Íslenska þð ÆæŒœ ß ẞ", "Esperanto ĉĝĥĵŝŭ", "ﬁ ﬂ ﬃ ﬅ ŉ ǆ ǅ",
    "ＦＵＬＬ　ｗｉｄｔｈ　１２３", "ℌ𝔢𝔩𝔩𝔬 𝓦𝓸𝓻𝓵𝓭 𝕏", "Z̷͎̈a̸̱͌l̵̮̈g̶̫̈́o̷͓͊", "o\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308", "\u0301 \u0301a", "ªº ʰʲ ͵ʹ",
    "a\u00a0b\u2003c\u3000d\u2028e\u2029f\u0085g", "\u00a0\u00a0 \u2003 x", "a\u200bb\u200cc\u200dd\u2060e\ufefff", "\ufeffBOM", "\u180e x\u180ey", "\u00ad soft\u00adhyphen",
    "\x00", "a\x00b", "\x01\x02\x03\x05\x07\x08\x0e\x1b[0m\x7f", "\x04\x06\x13", "a\x04?\x04?", "\x1b[31mred\x1b[0m", "\u0080\u009f",
    "\ud7ff\ue000", "\ue000\uf8ff", "\U000f0000\U0010fffd", "\ufffd", "\ufffe\uffff", "\U0001ffff\U0010ffff", "\U00050000\U000a1234", "\u0378\u0380", "\U000e0001\U000e0041",
    "a" * 300, "ab" * 700, "A" * 100 + " " + "b" * 100, " " * 1000, " " * 33 + "x" + " " * 65, "\n" * 100, "\n" * 33 + "a", "\t" * 70,
    "7" * 500, "=" * 200, "-" * 81 + "\n" + "*" * 79, "ha" * 50 + "!", "é" * 120, "字" * 90, "😀" * 40, "\r\n" * 40, " \n" * 30, "x " * 64, ". " * 50,
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna aliqua.",
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX. the_quick-brown.fox",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis", "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "trailing spaces   \nand more  \n", "mixed\ttabs \t and  spaces\u00a0here", "a\n b\n  c\n   d", "1 22 333 4444 55555 666666",
]


def rows():
    """The fixed lines, then as many made of random characters as make the number round."""
    out = [s for s in FIXED]
    assert len(set(out)) == len(out), [s for s in out if out.count(s) > 1]
    r = random.Random(2309)
    ranges = [(32, 126), (0x80, 0x24f), (0x300, 0x52f), (0x590, 0x6ff), (0x900, 0xdff), (0x2000, 0x2bff), (0x3000, 0x30ff),
              (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xf900, 0xfaff), (0x10000, 0x1ffff), (0x20000, 0x2ffff)]
    want = (len(out) // 50 + 1) * 50
    while len(out) < want:
        s = ""
        for _ in range(r.randrange(5, 80)):
            c = chr(r.randrange(*r.choice(ranges)))
            # Of unassigned characters the libraries' Unicode versions may think differently.
            if unicodedata.category(c) not in ("Cn", "Cs"):
                s += c + r.choice(["", "", "", " ", "\n", "'s", "1"])
        out.append(s)
    return out


def hf_smollm2(keys):
    from tokenizers import Tokenizer, models, pre_tokenizers
    vocab = {t.decode(): i for i, t in enumerate(keys["tokenizer.ggml.tokens"])}
    merges = [tuple(m.decode().split(" ")) for m in keys["tokenizer.ggml.merges"]]
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return lambda s: t.encode(s, add_special_tokens=False).ids


def llama_cpp(path):
    import llama_cpp
    m = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    return (lambda s: m.tokenize(s.encode(), add_bos=False, special=False)), "llama.cpp (llama-cpp-python %s)" % llama_cpp.__version__


def write(path, source, texts, ids, notes):
    with open(path, "w") as f:
        f.write("# %d texts in hexadecimal, a tab, token ids; special tokens not parsed.\n" % len(texts))
        f.write("# Ids by %s; made by tests/tools/make_tokenizer_golden.py.\n" % source)
        for n in notes:
            f.write("# %s\n" % n)
        for s, i in zip(texts, ids):
            f.write(s.encode().hex() + "\t" + " ".join(map(str, i)) + "\n")


# ---- pre-tokenizers ----

LLAMA_CPP = """default smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 gpt-2 phi-2 mpt olmo jais trillion
granite-docling gigachat a.x-4.0 mellum exaone4 llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe
glm4 chatglm-bpe qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez kormo f2llmv2 grok-2 solar-open qwen35 falcon deepseek-v3
hunyuan-dense joyai-llm poro-chat bloom gpt3-finnish viking bailingmoe bailingmoe2 llada-moe seed-coder jais-2 minicpm5 ufakzeka
laguna exaone-moe youtu chameleon""".split()

UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CASED = r"[^\r\n\p{L}\p{N}]?%s*%s+%%s|[^\r\n\p{L}\p{N}]?%s+%s*%%s" % (UPPER, LOWER, UPPER, LOWER)
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = CASED % (ENGLISH + "?", ENGLISH + "?") + r"|\p{N}{1,3}" + TAIL
# name: expressions of tokenizer.json, ignore_merges
TOKENIZERS = {
    "tekken": ([CASED % ("", "") + r"|\p{N}" + TAIL], True),
    "gpt-4o": ([GPT4O], False), "llama4": ([GPT4O], False), "kanana2": ([GPT4O], False), "minimax-m2": ([GPT4O], False),
    "deepseek-coder": (["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"], False),
}


def fnv(lists):
    """64-bit FNV-1a over the ids as 32-bit numbers, -1 behind each list."""
    h = 0xcbf29ce484222325
    for ids in lists:
        for byte in struct.pack("<%di" % (len(ids) + 1), *ids, -1):
            h = (h ^ byte) * 0x100000001b3 % 2**64
    return h


def pre_llama_cpp(keys, name, texts):
    import llama_cpp
    g = Gguf()
    g.key("general.architecture", "str", "llama")
    for k in ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"):
        g.key("llama." + k, "u32", 64 if k == "embedding_length" else 1)
    g.key("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5)
    g.key("tokenizer.ggml.model", "str", "gpt2")
    g.key("tokenizer.ggml.pre", "str", name)
    for k, kind in (("tokens", "str"), ("token_type", "i32"), ("merges", "str")):
        g.key("tokenizer.ggml." + k, "list:" + kind, keys["tokenizer.ggml." + k])
    g.key("tokenizer.ggml.bos_token_id", "u32", 1)
    g.key("tokenizer.ggml.eos_token_id", "u32", 2)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pre.gguf")
        g.write(path)
        m = llama_cpp.Llama(path, vocab_only=True, verbose=False)
        return [m.tokenize(s.encode(), add_bos=False, special=False) if s else [] for s in texts]


def pre_tokenizers_(keys, name, texts):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    expressions, ignore_merges = TOKENIZERS[name]
    vocab = {t.decode(): i for i, t in enumerate(keys["tokenizer.ggml.tokens"])}
    merges = [tuple(m.decode().split(" ")) for m in keys["tokenizer.ggml.merges"]]
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(e), "isolated") for e in expressions] +
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return [t.encode(s, add_special_tokens=False).ids for s in texts]


def write_pre(path, keys, texts, versions):
    texts = [s for s in texts if "\x04" not in s]
    with open(path, "w") as f:
        f.write("# Pre-tokenizer, FNV-1a of the ids of %d texts of tokenizer-smollm2.txt, program that gave the ids.\n" % len(texts))
        f.write("# Made by tests/tools/make_tokenizer_golden.py, which explains it.\n")
        for name in LLAMA_CPP:
            f.write("%s\t%016x\t%s\n" % (name, fnv(pre_llama_cpp(keys, name, texts)), versions[0]))
        for name in TOKENIZERS:
            f.write("%s\t%016x\t%s\n" % (name, fnv(pre_tokenizers_(keys, name, texts)), versions[1]))


def main():
    smollm2, gemma3 = sys.argv[1:3]
    folder = sys.argv[3] if len(sys.argv) > 3 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
    texts = rows()
    import tokenizers
    keys = gguf_keys(smollm2)
    hf = hf_smollm2(keys)
    ids = [hf(s) for s in texts]
    ask, version = llama_cpp(smollm2)
    # llama-cpp-python drops an answer of nothing as an error.
    other = [ask(s) if s else [] for s in texts]
    differ = [i for i in range(len(texts)) if ids[i] != other[i]]
    for i in differ:
        print("differs:", repr(texts[i])[:100], ids[i][:40], other[i][:40])
    write(os.path.join(folder, "tokenizer-smollm2.txt"), "HuggingFace tokenizers " + tokenizers.__version__, texts, ids,
          ["%s agrees on %d of them; not on (counted from 0): %s" % (
              version, len(texts) - len(differ), " ".join(map(str, differ)) or "none")])
    write_pre(os.path.join(folder, "tokenizer-pre.txt"), keys, texts, (version, "tokenizers " + tokenizers.__version__))
    ask, version = llama_cpp(gemma3)
    write(os.path.join(folder, "tokenizer-gemma3.txt"), version, texts, [ask(s) if s else [] for s in texts], [])


main()
