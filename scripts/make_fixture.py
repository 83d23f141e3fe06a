"""Makes a reference run with PyTorch and transformers: a tiny LLaMA and ten optimizer steps of it on CPU in float32.

usage: make_fixture.py OUT_FOLDER
needs: torch, transformers, safetensors, numpy (pip). PyTorch makes the numbers; the tests that read them don't need it.

Writes config.json and model.safetensors (Hugging Face names, before the first step), tokens.bin (u16 little-endian ids, no header;
sample k is tokens[k*seq_len : k*seq_len + seq_len + 1]; step s takes samples s*batch ... in order), expected.json
(hyper-parameters, loss of every step, gradient norm of every step before clipping) and after.safetensors (weights after the last step).
"""
import json
import sys
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

SEQ_LEN, BATCH, STEPS = 24, 4, 10
OPTIMIZER = dict(lr=1e-3, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1, max_grad_norm=1.0)


def weights(model):
    return {name: p.detach().clone().contiguous() for name, p in model.named_parameters()}


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=64, hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, max_position_embeddings=64, rms_norm_eps=1e-6, rope_theta=5000.0,
        tie_word_embeddings=True, attn_implementation="eager", initializer_range=0.08,
    )
    model = LlamaForCausalLM(config).float()
    config.save_pretrained(out)
    save_file(weights(model), out / "model.safetensors")
    # A noisy walk over the vocabulary: something to learn.
    noise = numpy.random.default_rng(5).integers(1, 6, size=STEPS * BATCH * SEQ_LEN + 1)
    tokens = (numpy.cumsum(noise) % 64).astype("<u2")
    tokens.tofile(out / "tokens.bin")
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() != 2]
    groups = [dict(params=matrices, weight_decay=OPTIMIZER["weight_decay"]), dict(params=norms, weight_decay=0.0)]
    adam = torch.optim.AdamW(groups, lr=OPTIMIZER["lr"], betas=OPTIMIZER["betas"], eps=OPTIMIZER["eps"])
    losses, grad_norms = [], []
    for step in range(STEPS):
        rows = [tokens[k * SEQ_LEN : k * SEQ_LEN + SEQ_LEN + 1] for k in range(step * BATCH, (step + 1) * BATCH)]
        batch = torch.tensor(numpy.array(rows).astype("int64"))
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 64), batch[:, 1:].reshape(-1))
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["max_grad_norm"])
        adam.step()
        losses.append(loss.item())
        grad_norms.append(norm.item())
    save_file(weights(model), out / "after.safetensors")
    expected = dict(seq_len=SEQ_LEN, batch=BATCH, steps=STEPS,
                    made_with=dict(torch=torch.__version__, transformers=transformers.__version__),
                    optimizer=OPTIMIZER, losses=losses, grad_norms=grad_norms)
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main(Path(sys.argv[1]))
