//! Every key a job file may hold. The reference page `docs/job-file.md` is tested against this table.

/// `(section, key, what it is)`, in the order of the reference page.
pub const KEYS: &[(&str, &str, &str)] = &[
    ("job", "name", "name of the run, 1 to 40 of [a-z0-9-]"),
    ("job", "seed", "seeds weights and data order (default 0)"),
    ("job", "output", "the run's folder: a path or file:// URL"),
    (
        "model",
        "config",
        "path of a Hugging Face config.json to start from",
    ),
    (
        "model",
        "init_from",
        "Hugging Face folder, or checkpoint (…/step-00000050), to start from",
    ),
    ("model", "hidden_size", "width of the residual stream"),
    ("model", "intermediate_size", "width of the feed-forward part"),
    ("model", "num_hidden_layers", "transformer blocks"),
    ("model", "num_attention_heads", "query heads"),
    (
        "model",
        "num_key_value_heads",
        "key and value heads (default: num_attention_heads)",
    ),
    (
        "model",
        "head_dim",
        "width of a head (default: hidden_size / num_attention_heads)",
    ),
    (
        "model",
        "vocab_size",
        "token ids (default 256 with the bytes tokenizer)",
    ),
    (
        "model",
        "max_position_embeddings",
        "longest sequence (default: data.seq_len)",
    ),
    ("model", "rms_norm_eps", "default 1e-5"),
    ("model", "rope_theta", "default 10000"),
    ("model", "tie_word_embeddings", "default false"),
    ("model", "initializer_range", "default 0.02"),
    ("data", "train", "files, folders or globs to train on"),
    ("data", "val", "files, folders or globs held out for evaluation"),
    (
        "data",
        "format",
        "auto, text, jsonl, parquet, tokens-u16 or tokens-u32 (default auto)",
    ),
    (
        "data",
        "tokenizer",
        "\"bytes\" or the path of a tokenizer.json (default \"bytes\")",
    ),
    (
        "data",
        "text_field",
        "JSONL field or Parquet column with the text (default \"text\")",
    ),
    ("data", "seq_len", "tokens a sequence"),
    ("data", "shuffle", "seeded random order (default true)"),
    ("training", "steps", "optimizer steps"),
    ("training", "global_batch", "sequences a step"),
    (
        "training",
        "micro_batch",
        "sequences a micro-batch; divides global_batch",
    ),
    (
        "training",
        "max_grad_norm",
        "clip the global gradient norm; 0: off (default 1.0)",
    ),
    ("training", "numerics", "exact or fast (default exact)"),
    (
        "training",
        "recompute",
        "none or block: keep inputs of blocks only and run them again in the backward pass (default none)",
    ),
    (
        "training",
        "dtype",
        "f32 or bf16: activations on CUDA devices in 16 bits (default f32)",
    ),
    (
        "training",
        "digest_every",
        "report a state digest every so many steps; 0: at the end only (default 10)",
    ),
    (
        "evaluation",
        "every",
        "evaluate on data.val every so many steps; 0: never (default 0)",
    ),
    (
        "evaluation",
        "sequences",
        "sequences to evaluate on; 0: one global batch (default 0)",
    ),
    ("optimizer", "lr", "peak learning rate"),
    ("optimizer", "betas", "decay of the moments (default [0.9, 0.95])"),
    ("optimizer", "eps", "default 1e-8"),
    (
        "optimizer",
        "weight_decay",
        "on matrices, not on norms (default 0.1)",
    ),
    (
        "lr_schedule",
        "kind",
        "constant, cosine or wsd (default constant)",
    ),
    ("lr_schedule", "warmup_steps", "linear warm-up (default 0)"),
    (
        "lr_schedule",
        "decay_steps",
        "wsd: steps of decay at the end (default: a fifth of all)",
    ),
    (
        "lr_schedule",
        "min_lr_ratio",
        "lowest learning rate as a share of lr (default 0)",
    ),
    ("parallelism", "pipeline", "stages, or \"auto\" (default auto)"),
    ("parallelism", "data", "lanes, or \"auto\" (default auto: 1)"),
    (
        "parallelism",
        "transport",
        "\"tcp\" or \"nccl\", between CUDA devices (default tcp)",
    ),
    (
        "checkpoint",
        "every",
        "save every so many steps, \"auto\", or 0: never (default 0)",
    ),
    (
        "checkpoint",
        "keep_last",
        "checkpoints kept besides pinned ones (default 3)",
    ),
    (
        "checkpoint",
        "pool",
        "memory a trainer may use for state being written (default \"256 MiB\")",
    ),
    (
        "checkpoint",
        "to",
        "folder or URL: file, s3, gs, az (default: checkpoints in job.output)",
    ),
    (
        "checkpoint",
        "max_failures",
        "stop after so many failed checkpoints in a row; 0: never (default 0)",
    ),
    (
        "checkpoint",
        "retry_seconds",
        "how long a file that can't be written is tried again (default 180)",
    ),
    (
        "checkpoint",
        "mtbf_hours",
        "every = \"auto\": expected hours between failures (default 24)",
    ),
    (
        "recovery",
        "sources",
        "what lost state may come from (default [\"local\", \"checkpoint\"])",
    ),
    (
        "recovery",
        "guards",
        "with \"shadow\": guards of a rank, so how many workers may be lost at once (default 1)",
    ),
    (
        "recovery",
        "max_restarts",
        "restarts without lasting progress in between (default 8)",
    ),
    (
        "recovery",
        "max_restarts_of",
        "the same for a class of failures: { WORKER_CRASH = 3 } (default: max_restarts alone)",
    ),
    (
        "recovery",
        "average_weights",
        "neighbour_average: what the neighbours count: norm (of their last gradients), squared or uniform (default norm)",
    ),
    (
        "recovery",
        "average_by_loss",
        "neighbour_average: try other shares, too, and take those with the lowest loss on a micro-batch (default false)",
    ),
    (
        "recovery",
        "average_moments",
        "neighbour_average: fresh, second (blended) or both (default fresh)",
    ),
    (
        "recovery",
        "average_lr_factor",
        "neighbour_average: factor on the rebuilt stage's learning rate (default 1.1)",
    ),
    (
        "recovery",
        "average_lr_decay_steps",
        "neighbour_average: steps in which that factor falls to 1; 0: it stays (default 0)",
    ),
    (
        "recovery.parity",
        "every",
        "steps between exchanges of state (default 10)",
    ),
    (
        "recovery.parity",
        "losses",
        "members of a group that may be lost at once (default 1)",
    ),
    (
        "recovery.parity",
        "group",
        "members of a group at most (default 8)",
    ),
];

/// The sections there are, in order.
pub fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = KEYS.iter().map(|(section, _, _)| *section).collect();
    sections.dedup();
    sections
}

/// The sections inside `section`, as they are written in it.
pub fn sections_in(section: &str) -> Vec<&'static str> {
    let inside = |name: &'static str| name.strip_prefix(section)?.strip_prefix('.');
    sections().into_iter().filter_map(inside).collect()
}

/// The keys of `section`.
pub fn keys_of(section: &str) -> Vec<&'static str> {
    KEYS.iter()
        .filter(|(s, _, _)| *s == section)
        .map(|(_, key, _)| *key)
        .collect()
}

/// The known word nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), *k))
        .min()
        .filter(|(distance, k)| *distance <= 1 + k.len() / 3)
        .map(|(_, k)| k)
}
