#!/usr/bin/env python3
"""Checks an exported folder with transformers, safetensors and PyTorch themselves.

    check_hf_export.py EXPORT [--same-as FOLDER] [--expected EXPECTED.json --tokens TOKENS.bin]

Loads EXPORT as a user would (AutoModelForCausalLM, AutoTokenizer), and fails when a weight is missing, unexpected or of another shape,
when the tokenizer doesn't give a text back (for a byte vocabulary: when ids aren't the text's bytes), or when generating fails.
--same-as: the logits on random ids must have the bits of the model in FOLDER.
--expected: the logits at the last position of the first sequence must be those a reference run recorded before its first step.
"""

import argparse
import json
import pathlib
import struct

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ["Hello, world!\n", "na\u00efve \u00e9clair \u8a9e \U0001f525\t\r\n  spaces  ", "\x00\x7f\u0100"]


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {info[kind]}"
    return model.eval()


def check_files(folder, model):
    names = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as shard:
            assert shard.metadata() == {"format": "pt"}, f"{file}: metadata {shard.metadata()}"
            for name in shard.keys():
                assert name not in names, f"{name} is in two files"
                names.add(name)
                assert torch.equal(shard.get_tensor(name), model.state_dict()[name]), f"{name} differs after loading"
    index = folder / "model.safetensors.index.json"
    if index.exists():
        index = json.loads(index.read_text())
        parameters = sum(p.numel() for p in model.parameters())
        assert set(index["weight_map"]) == names
        assert index["metadata"] == {"total_parameters": parameters, "total_size": 4 * parameters}, index["metadata"]
    return len(names)


def check_tokenizer(folder, vocab_size):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    is_bytes = len(tokenizer) == 256
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text, f"{text!r} came back as {tokenizer.decode(ids)!r}"
        assert max(ids) < vocab_size
        assert not is_bytes or ids == list(text.encode()), f"{text!r}: ids are not its bytes: {ids}"
    return type(tokenizer).__name__, len(tokenizer), tokenizer


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def check_expected(model, expected, tokens):
    expected = json.loads(pathlib.Path(expected).read_text())
    count = expected["seq_len"]
    ids = struct.unpack(f"<{count}H", pathlib.Path(tokens).read_bytes()[: 2 * count])
    wanted = torch.tensor(expected["logits_step0_first_row_last_pos"])
    error = (logits(model, list(ids))[-1] - wanted).abs().max().item()
    assert error < 1e-5, f"logits differ from the reference run's by {error}"
    return error


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=pathlib.Path)
    parser.add_argument("--same-as", type=pathlib.Path)
    parser.add_argument("--expected")
    parser.add_argument("--tokens")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = load(arguments.export)
    print(f"weights: {check_files(arguments.export, model)} tensors load with the bits of their files")
    vocab_size = model.config.vocab_size
    kind, size, tokenizer = check_tokenizer(arguments.export, vocab_size)
    print(f"tokenizer: {kind} with {size} ids gives texts back")
    ids = torch.randint(vocab_size, (24,)).tolist()
    if arguments.same_as:
        assert torch.equal(logits(model, ids), logits(load(arguments.same_as), ids)), "logits differ"
        print(f"logits: the bits of {arguments.same_as}")
    if arguments.expected:
        print(f"logits: within {check_expected(model, arguments.expected, arguments.tokens):.1e} of the reference run")
    prompt = tokenizer("The ", return_tensors="pt", return_token_type_ids=False)
    text = tokenizer.decode(model.generate(**prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)[0])
    print(f"generate: {text!r}")


if __name__ == "__main__":
    main()
