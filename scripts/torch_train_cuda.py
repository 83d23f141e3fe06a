#!/usr/bin/env python3
"""Training throughput of a LLaMA with PyTorch, for the same shapes as `rekindle bench train`: the number to beat on the same GPU.

usage: torch_train_cuda.py [--model 124m|1.3b] [--seq N] [--micro-batch N] [--micro-batches N] [--steps N] [--compile]
                           [--weights f32|bf16] [--dtype bf16|f32] [--device cuda|cpu]
needs: torch, transformers. Prints one JSON line.

Weights f32 with dtype bf16 is autocast: single-precision weights, moments and gradients, products in bf16, as in Rekindle. Weights bf16 keeps
everything in bf16, moments too: less precise than Rekindle, and less memory traffic. Attention is scaled_dot_product_attention, which takes
its flash kernel in bf16. AdamW is the fused one; the gradient is clipped by its norm.
"""
import argparse
import json
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

MODELS = {
    # hidden, inter, layers, heads, vocabulary, tied
    "small": (256, 688, 8, 8, 256, False),
    "124m": (768, 2048, 12, 12, 50304, True),
    "1.3b": (2048, 5504, 24, 16, 32000, False),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="124m")
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--weights", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def model_of(args):
    hidden, inter, layers, heads, vocab, tied = MODELS[args.model]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inter, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, vocab_size=vocab, max_position_embeddings=args.seq, tie_word_embeddings=tied,
        use_cache=False, attn_implementation="sdpa",
    )
    weights = torch.bfloat16 if args.weights == "bf16" else torch.float32
    return LlamaForCausalLM(config).to(device=args.device, dtype=weights), vocab


def main():
    args = arguments()
    torch.manual_seed(0)
    model, vocab = model_of(args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    forward = torch.compile(model) if args.compile else model
    autocast = args.dtype == "bf16" and args.weights == "f32"
    shape = (args.micro_batches, args.micro_batch, args.seq + 1)
    tokens = torch.randint(0, vocab, shape, device=args.device)
    done = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    seconds, loss = [], None
    for step in range(args.steps + 3):
        done()
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        for batch in tokens:
            with torch.autocast(args.device, torch.bfloat16, enabled=autocast):
                logits = forward(batch[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.float().view(-1, vocab), batch[:, 1:].reshape(-1))
            (loss / args.micro_batches).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss = loss.item()
        done()
        if step >= 3:
            seconds.append(time.perf_counter() - began)
    median, count = statistics.median(seconds), args.micro_batches * args.micro_batch * args.seq
    print(json.dumps({
        "peer": "torch " + torch.__version__, "mode": "compile" if args.compile else "eager", "weights": args.weights,
        "dtype": args.dtype, "parameters": sum(w.numel() for w in model.parameters()), "tokens_per_step": count,
        "step_seconds": median, "step_seconds_range": [min(seconds), max(seconds)], "tokens_per_second": count / median,
        "loss": loss, "memory_mib": torch.cuda.max_memory_allocated() >> 20 if args.device == "cuda" else None,
    }))


if __name__ == "__main__":
    main()
