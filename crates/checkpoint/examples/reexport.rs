//! Reads a Hugging Face folder and writes it again in some parts: `reexport FROM TO PARTS TOKENIZER`.
//!
//! For checking an export with other programs, see `scripts/check_hf_export.py`.

use std::error::Error;
use std::path::Path;

use rekindle_checkpoint::{HfModel, finish, write_shard};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, parts, tokenizer] = arguments.as_slice() else {
        return Err("usage: reexport FROM TO PARTS TOKENIZER".into());
    };
    let (to, parts): (_, u32) = (Path::new(to), parts.parse()?);
    let model = HfModel::open(Path::new(from))?;
    let layers: Vec<_> = model.config().layers().collect();
    for part in 0..parts {
        let border = |p: u32| layers.len() * p as usize / parts as usize;
        let mut own = Vec::new();
        for layer in &layers[border(part)..border(part + 1)] {
            own.push((*layer, model.read_layer(*layer)?));
        }
        let borrowed: Vec<_> = own
            .iter()
            .map(|(layer, flat)| (*layer, flat.as_slice()))
            .collect();
        write_shard(to, part, parts, &borrowed, model.config())?;
    }
    Ok(finish(to, parts, model.config(), tokenizer)?)
}
