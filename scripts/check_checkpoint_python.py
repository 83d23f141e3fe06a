#!/usr/bin/env python3
"""Checks a checkpoint (a local folder `step-...`) with other people's libraries: safetensors, numpy, xxhash.

    check_checkpoint_python.py CHECKPOINT

Opens every tensor file with safetensors and fails when a name, shape or piece isn't what the manifest's sections say; checks the
digest of the manifest, of every header and of every chunk, and their sum; puts every layer together from its tensors and pieces and
fails when one lacks an element. It is written from docs/checkpoint-format.md alone.
"""

import argparse
import json
import pathlib
import re

import numpy
import xxhash
from safetensors import safe_open

BLOCK = 1024
KINDS = {"weights": (0, ""), "exp_avg": (1, ".exp_avg"), "exp_avg_sq": (2, ".exp_avg_sq")}


def xxh3_128(data, seed=0):
    return xxhash.xxh3_128_intdigest(data, seed=seed)


def read_manifest(folder):
    raw = (folder / "manifest.json").read_bytes()
    sealed = re.match(rb'\{"manifest_digest":"([0-9a-f]{32})",', raw)
    assert sealed, "the manifest doesn't start with its digest"
    assert xxh3_128(raw[sealed.end() :]) == int(sealed[1], 16), "the manifest was changed"
    manifest = json.loads(raw)
    assert manifest["schema_version"] == 1, manifest["schema_version"]
    return manifest


def layer_code(layer):
    return {"Embed": 0, "Head": 0xFFFFFF}.get(layer) if isinstance(layer, str) else layer["Block"] + 1


def layer_tensors(model, layer):
    """Names and shapes of a layer's tensors, in the order of its flat buffer."""
    hidden, inter = model["hidden_size"], model["intermediate_size"]
    query, kv = model["num_attention_heads"] * model["head_dim"], model["num_key_value_heads"] * model["head_dim"]
    if layer == "Embed":
        return [("model.embed_tokens.weight", (model["vocab_size"], hidden))]
    if layer == "Head":
        tied = model["tie_word_embeddings"]
        return [("model.norm.weight", (hidden,))] + ([] if tied else [("lm_head.weight", (model["vocab_size"], hidden))])
    shapes = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, query),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inter, hidden),
        "mlp.up_proj": (inter, hidden),
        "mlp.down_proj": (hidden, inter),
    }
    return [(f"model.layers.{layer['Block']}.{part}.weight", shape) for part, shape in shapes.items()]


def chunks(section):
    """Element ranges of a section's chunks."""
    blocks = -(-(section["end"] - section["start"]) // BLOCK)
    elements = min(max(-(-blocks // 128), 1), 1024) * BLOCK
    return [(at, min(at + elements, section["end"])) for at in range(section["start"], section["end"], elements)]


def check_digests(path, file):
    """Checks every digest of a file and returns their sum over the state in it."""
    raw = path.read_bytes()
    assert len(raw) == file["bytes"], f"{path}: {len(raw)} bytes"
    header = raw[: file["header_bytes"]]
    assert xxh3_128(header) == int(file["header_digest"], 16), f"{path}: the header was changed"
    assert file["header_bytes"] % 4096 == 0 and file["dtype"] == "F32"
    total, place = 0, file["header_bytes"]
    for section in file["sections"]:
        assert section["offset"] == place, f"{path}: a gap before byte {section['offset']}"
        kind = KINDS[section["kind"]][0]
        parts = chunks(section)
        assert len(parts) == len(section["digests"])
        for (start, end), digest in zip(parts, section["digests"]):
            found = 0
            for at in range(start, end, BLOCK):
                seed = layer_code(section["layer"]) << 40 | kind << 36 | at // BLOCK
                byte = section["offset"] + (at - section["start"]) * 4
                found += xxh3_128(raw[byte : byte + (min(at + BLOCK, end) - at) * 4], seed)
            assert found % 2**128 == int(digest, 16), f"{path}: elements {start}..{end} were changed"
            total += found
        place += (section["end"] - section["start"]) * 4
    assert place == len(raw), f"{path}: bytes behind the last section"
    return total, raw


def collect(path, manifest, tensors, seen):
    """Puts what safetensors finds in a file where it belongs."""
    with safe_open(path, framework="np") as opened:
        about = opened.metadata()
        assert about["format"] == "pt" and about["step"] == str(manifest["step"]), about
        assert about["writer"] == manifest["writer"], about
        for name in opened.keys():
            values = opened.get_tensor(name)
            whole, _, piece = name.partition("@")
            target, done = tensors[whole], seen[whole]
            if piece:
                first, end = map(int, piece.split("-"))
                assert values.shape == (end - first,), name
                assert json.loads(about[name]) == list(target.shape), name
            else:
                first, end = 0, target.size
                assert values.shape == target.shape, name
            assert not done[first:end].any(), f"{name} is there twice"
            target.reshape(-1)[first:end] = values.reshape(-1)
            done[first:end] = True


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("checkpoint", type=pathlib.Path)
    folder = arguments.parse_args().checkpoint
    manifest = read_manifest(folder)
    model = manifest["model"]
    layers = ["Embed", *({"Block": n} for n in range(model["num_hidden_layers"])), "Head"]
    tensors, seen = {}, {}
    for layer in layers:
        for name, shape in layer_tensors(model, layer):
            for _, ending in KINDS.values():
                tensors[name + ending] = numpy.zeros(shape, numpy.float32)
                seen[name + ending] = numpy.zeros(tensors[name + ending].size, bool)
    total, sections = 0, []
    for file in manifest["files"]:
        path = folder / file["path"]
        digest, raw = check_digests(path, file)
        total += digest
        sections += [(section, raw) for section in file["sections"]]
        collect(path, manifest, tensors, seen)
    missing = [name for name, done in seen.items() if not done.all()]
    assert not missing, f"without all their elements: {missing}"
    assert total % 2**128 == int(manifest["state_digest"], 16), "the sum isn't the state's digest"
    # The flat buffer of each layer, put together from tensors, holds what the sections' bytes say.
    flat = {}
    for layer in layers:
        for kind, (_, ending) in KINDS.items():
            parts = [tensors[name + ending].reshape(-1) for name, _ in layer_tensors(model, layer)]
            flat[json.dumps(layer), kind] = numpy.concatenate(parts).tobytes()
    for section, raw in sections:
        start, end, offset = section["start"], section["end"], section["offset"]
        layer = flat[json.dumps(section["layer"]), section["kind"]]
        assert raw[offset : offset + (end - start) * 4] == layer[start * 4 : end * 4], section
    files = len(manifest["files"])
    print(f"{folder}: {files} files, {len(tensors)} tensors, {len(sections)} sections, all as the manifest says")


if __name__ == "__main__":
    main()
