//! The kernels on the device, by name. Attention is compiled for each width of a head when it is first used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::cache;
use super::super::driver::{Context, Function, Image};
use super::super::kernels::{AttentionPass, MODULES, Module, attention_memory, compiled_head};
use crate::{ComputeError, Result};

type Functions = HashMap<&'static str, Function>;

/// All kernels of a device.
pub struct Code {
    context: Arc<Context>,
    arch: String,
    plain: Functions,
    heads: Mutex<HashMap<usize, Functions>>,
}

fn unknown(name: &str) -> ComputeError {
    ComputeError::Device {
        what: format!("there is no kernel {name}"),
    }
}

impl Code {
    /// Compiles and loads what doesn't depend on a head's width.
    ///
    /// # Errors
    /// [`ComputeError::Device`].
    pub fn load(context: &Arc<Context>, arch: &str) -> Result<Self> {
        let mut plain = Functions::new();
        for module in MODULES.iter().filter(|module| !module.per_head) {
            plain.extend(functions(context, module, 0, arch)?);
        }
        Ok(Self {
            context: Arc::clone(context),
            arch: arch.to_owned(),
            plain,
            heads: Mutex::default(),
        })
    }

    /// A kernel that doesn't depend on a head's width.
    ///
    /// # Errors
    /// [`ComputeError::Device`] for a name that no kernel has.
    pub fn plain(&self, name: &str) -> Result<Function> {
        self.plain.get(name).copied().ok_or_else(|| unknown(name))
    }

    /// A kernel of attention, for heads of `head_dim`.
    ///
    /// # Errors
    /// [`ComputeError::Device`] for heads that are too wide.
    pub fn attention(&self, name: &str, head_dim: usize) -> Result<Function> {
        let width = compiled_head(head_dim).ok_or_else(|| ComputeError::Device {
            what: format!(
                "attention on CUDA takes heads of 1 to 128 elements, not {head_dim}; choose another head_dim"
            ),
        })?;
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let functions = match heads.entry(width) {
            std::collections::hash_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let mut all = Functions::new();
                for module in MODULES.iter().filter(|module| module.per_head) {
                    all.extend(self::functions(&self.context, module, width, &self.arch)?);
                }
                place.insert(all)
            }
        };
        functions.get(name).copied().ok_or_else(|| unknown(name))
    }
}

fn functions(context: &Arc<Context>, module: &Module, head_dim: usize, arch: &str) -> Result<Functions> {
    let image = Image::load(context, &cache::code(module, head_dim, arch)?)?;
    let memory = |name: &str| match name {
        _ if !module.per_head || name.contains("row_sums") => 0,
        _ => {
            let pass = if name.contains("forward") {
                AttentionPass::Forward
            } else {
                AttentionPass::Backward
            };
            attention_memory(pass, head_dim, if name.ends_with("bf16") { 2 } else { 4 })
        }
    };
    module
        .kernels
        .iter()
        .map(|&name| Ok((name, image.function(name, memory(name))?)))
        .collect()
}
