//! A job for tests of plans.

use rekindle_types::{JobFile, JobSpec};

/// Six blocks of width 64, with more lines or sections of a job file.
pub fn spec(extra: &str) -> JobSpec {
    let text = format!(
        r#"
        [job]
        name = "t"
        output = "/tmp/t"
        [model]
        hidden_size = 64
        intermediate_size = 128
        num_hidden_layers = 6
        num_attention_heads = 4
        tie_word_embeddings = true
        [data]
        train = ["x"]
        seq_len = 32
        [training]
        steps = 100
        global_batch = 8
        micro_batch = 2
        [optimizer]
        lr = 1.0
        {extra}
        "#
    );
    JobFile::parse(&text).unwrap().into_spec(None).unwrap()
}
