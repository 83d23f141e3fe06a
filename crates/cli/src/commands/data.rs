//! `rekindle data prepare|inspect|train-tokenizer`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use rekindle_data::{Corpus, Tokenizer, Width};
use rekindle_types::spec::DataFormat;

use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// What `rekindle data` can do.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Encode text into a token file once, so that later starts only map it
    Prepare(PrepareArgs),
    /// Count tokens and samples, show the unigram entropy and the beginning
    Inspect(InspectArgs),
    /// Learn a byte-level BPE tokenizer
    TrainTokenizer(TrainTokenizerArgs),
}

#[derive(Debug, Args)]
struct Inputs {
    /// Files, folders or globs
    #[arg(required = true, value_name = "PATH")]
    inputs: Vec<String>,
    /// What the files hold
    #[arg(long, value_enum, default_value_t = InputFormat::Auto)]
    input_format: InputFormat,
    /// JSONL field or Parquet column that holds the text
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_field: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum InputFormat {
    Auto,
    Text,
    Jsonl,
    Parquet,
    TokensU16,
    TokensU32,
}

impl From<InputFormat> for DataFormat {
    fn from(format: InputFormat) -> Self {
        match format {
            InputFormat::Auto => Self::Auto,
            InputFormat::Text => Self::Text,
            InputFormat::Jsonl => Self::Jsonl,
            InputFormat::Parquet => Self::Parquet,
            InputFormat::TokensU16 => Self::TokensU16,
            InputFormat::TokensU32 => Self::TokensU32,
        }
    }
}

/// Arguments of `rekindle data prepare`.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    #[command(flatten)]
    inputs: Inputs,
    /// `bytes` or the path of a tokenizer.json
    #[arg(long, default_value = "bytes", value_name = "TOKENIZER")]
    tokenizer: String,
    /// The token file to write; what it holds goes to FILE.json
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arguments of `rekindle data inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    inputs: Inputs,
    /// `bytes` or the path of a tokenizer.json
    #[arg(long, default_value = "bytes", value_name = "TOKENIZER")]
    tokenizer: String,
    /// Number of token ids, for token files (default: the tokenizer's)
    #[arg(long, value_name = "N")]
    vocab_size: Option<u32>,
    /// Tokens of a sequence, to count samples
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seq_len: u32,
}

/// Arguments of `rekindle data train-tokenizer`.
#[derive(Debug, Args)]
pub struct TrainTokenizerArgs {
    #[command(flatten)]
    inputs: Inputs,
    /// Ids the tokenizer may have, at least 257
    #[arg(long, value_name = "N")]
    vocab_size: u32,
    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Does it.
///
/// # Errors
/// The input at fault, by name.
pub fn run(command: &DataCommand, format: Format) -> Result<Exit, Problem> {
    match command {
        DataCommand::Prepare(args) => prepare(args, format),
        DataCommand::Inspect(args) => inspect(args, format),
        DataCommand::TrainTokenizer(args) => train_tokenizer(args, format),
    }?;
    Ok(Exit::Ok)
}

fn problem(what: &str) -> impl Fn(rekindle_data::DataError) -> Problem + '_ {
    move |e| Problem::new(what).cause(e)
}

fn prepare(args: &PrepareArgs, format: Format) -> Result<(), Problem> {
    let failed = problem("can't prepare the data");
    let tokenizer = Tokenizer::open(&args.tokenizer).map_err(&failed)?;
    let width = Width::for_vocab(tokenizer.vocab_size());
    let Inputs {
        inputs,
        input_format,
        text_field,
    } = &args.inputs;
    let made = rekindle_data::prepare(
        inputs,
        (*input_format).into(),
        text_field,
        &tokenizer,
        &args.out,
        width,
    )
    .map_err(&failed)?;
    if format == Format::Json {
        return output::json(&made);
    }
    output::table(
        &["FILE", "TOKENS", "DOCUMENTS", "BYTES PER TOKEN"],
        vec![vec![
            made.path.display().to_string(),
            made.sidecar.tokens.to_string(),
            made.sidecar.documents.to_string(),
            made.sidecar.width.bytes().to_string(),
        ]],
    )
}

fn inspect(args: &InspectArgs, format: Format) -> Result<(), Problem> {
    let failed = problem("can't look at the data");
    let tokenizer = Tokenizer::open(&args.tokenizer).map_err(&failed)?;
    let vocab = args.vocab_size.unwrap_or(0).max(tokenizer.vocab_size());
    let Inputs {
        inputs,
        input_format,
        text_field,
    } = &args.inputs;
    let corpus =
        Corpus::load(inputs, (*input_format).into(), text_field, &tokenizer, vocab).map_err(&failed)?;
    let found = rekindle_data::inspect(&corpus, &tokenizer, args.seq_len).map_err(&failed)?;
    if format == Format::Json {
        return output::json(&found);
    }
    let documents = found
        .documents
        .map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    output::table(
        &["WHAT", "VALUE"],
        vec![
            row("tokens", found.tokens.to_string()),
            row("documents", documents),
            row(
                "samples",
                format!("{} of {} tokens", found.samples, found.seq_len),
            ),
            row("ids used", format!("{} of {}", found.used_ids, found.vocab_size)),
            row(
                "unigram entropy",
                format!("{:.4} nats a token", found.unigram_entropy),
            ),
        ],
    )?;
    output::data("")?;
    output::data(&found.beginning)
}

fn train_tokenizer(args: &TrainTokenizerArgs, format: Format) -> Result<(), Problem> {
    let Inputs {
        inputs,
        input_format,
        text_field,
    } = &args.inputs;
    let made = rekindle_data::train_bpe(
        inputs,
        (*input_format).into(),
        text_field,
        args.vocab_size,
        &args.out,
    )
    .map_err(problem("can't train the tokenizer"))?;
    if format == Format::Json {
        return output::json(&made);
    }
    let row = vec![made.path.display().to_string(), made.vocab_size.to_string()];
    output::table(&["FILE", "IDS"], vec![row])
}
