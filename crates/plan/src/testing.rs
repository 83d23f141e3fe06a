//! A small job for tests.

use rekindle_types::{JobFile, JobSpec};

pub(crate) fn spec() -> JobSpec {
    let text = r#"
        [job]
        name = "t"
        output = "/tmp/t"
        [model]
        hidden_size = 8
        intermediate_size = 8
        num_hidden_layers = 6
        num_attention_heads = 2
        [data]
        train = ["x"]
        seq_len = 8
        [training]
        steps = 10
        global_batch = 8
        micro_batch = 1
        [optimizer]
        lr = 0.1
    "#;
    JobFile::parse(text).unwrap().into_spec(None).unwrap()
}
