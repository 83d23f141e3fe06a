//! The CUDA sources of the kernels, and what a launch has to know of them.
//!
//! A source is compiled as one text: the platform, what all kernels share, the module. The platform is the only part
//! that needs a GPU's compiler; with another one under the same names the kernels compile as C++ and run on a CPU,
//! which is how they are tested.
//!
//! Deliberately absent: compiling ([`super::nvrtc`]) and launching.

/// What a GPU offers, under the names that the kernels use.
pub const PLATFORM: &str = include_str!("kernels/platform.cuh");
const COMMON: &str = include_str!("kernels/common.cuh");

/// Widest head that attention is compiled for.
pub const WIDEST_HEAD: usize = 128;

/// Sources that are compiled together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    /// Its file, for messages of compilers.
    pub file: &'static str,
    /// The module's own text.
    pub text: &'static str,
    /// Names of its kernels.
    pub kernels: &'static [&'static str],
    /// Whether it is compiled once per width of a head, given as `HEAD_DIM`.
    pub per_head: bool,
}

/// All modules.
pub const MODULES: [Module; 4] = [
    Module {
        file: "rows.cu",
        text: include_str!("kernels/rows.cu"),
        kernels: &[
            "norm_f32",
            "norm_bf16",
            "norm_backward_f32",
            "norm_backward_bf16",
            "sum_partials_f32",
            "sum_partials_bf16",
            "swiglu_f32",
            "swiglu_bf16",
            "swiglu_backward_f32",
            "swiglu_backward_bf16",
            "rope_f32",
            "rope_bf16",
            "gather_f32",
            "gather_bf16",
            "add_f32",
            "add_bf16",
            "cast_f32_bf16",
            "cast_bf16_f32",
        ],
        per_head: false,
    },
    Module {
        file: "loss.cu",
        text: include_str!("kernels/loss.cu"),
        kernels: &["cross_entropy_f32", "cross_entropy_bf16"],
        per_head: false,
    },
    Module {
        file: "sums.cu",
        text: include_str!("kernels/sums.cu"),
        kernels: &[
            "accumulate_f32",
            "accumulate_bf16",
            "add_sums",
            "accumulate_rows_f32",
            "accumulate_rows_bf16",
            "accumulate_plain_f32",
            "accumulate_plain_bf16",
            "accumulate_rows_plain_f32",
            "accumulate_rows_plain_bf16",
            "add_sums_plain",
            "mean",
            "mean_plain",
            "block_squares",
            "block_squares_plain",
            "adamw",
            "adamw_plain",
        ],
        per_head: false,
    },
    Module {
        file: "attention.cu",
        text: include_str!("kernels/attention.cu"),
        kernels: &[
            "attention_forward_f32",
            "attention_forward_bf16",
            "attention_row_sums_f32",
            "attention_row_sums_bf16",
            "attention_backward_keys_f32",
            "attention_backward_keys_bf16",
            "attention_backward_queries_f32",
            "attention_backward_queries_bf16",
        ],
        per_head: true,
    },
];

impl Module {
    /// The whole text on `platform`; compilers name lines by file. `head_dim` is a result of [`compiled_head`] and
    /// counts for modules that are compiled per head.
    #[must_use]
    pub fn source(&self, platform: &str, head_dim: usize) -> String {
        let head = if self.per_head {
            format!("#define HEAD_DIM {head_dim}\n")
        } else {
            String::new()
        };
        format!(
            "#line 1 \"platform\"\n{platform}\n{head}#line 1 \"common.cuh\"\n{COMMON}\n#line 1 \"{}\"\n{}",
            self.file, self.text
        )
    }
}

/// The width that attention for heads of `head_dim` is compiled for: the next multiple of 16. None for heads that are
/// too wide.
#[must_use]
pub fn compiled_head(head_dim: usize) -> Option<usize> {
    let width = head_dim.next_multiple_of(16);
    (head_dim > 0 && width <= WIDEST_HEAD).then_some(width)
}

/// The kernels of attention that want launch memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionPass {
    /// `attention_forward_*`
    Forward,
    /// `attention_backward_keys_*` and `attention_backward_queries_*`
    Backward,
}

/// Threads of a block of the kernels of rows.cu.
pub const ROW_THREADS: u32 = 128;
/// Threads of a block of the kernels of sums.cu; each has four elements, in `block_squares` sixteen threads have a
/// block.
pub const SUM_THREADS: u32 = 256;
/// Threads of a block of the kernels of loss.cu, which has a row.
pub const LOSS_THREADS: u32 = 1024;
/// Threads of a block of attention.
pub const ATTENTION_THREADS: u32 = 128;

/// Launch memory that every supported device has for a block.
pub const SURE_MEMORY: usize = 96 << 10;

/// Threads and bytes of launch memory of `norm_backward_*` for rows of `width` elements of `bytes`: as many warps as
/// have room for their shares of the weight's gradient. None for rows that are too wide.
#[must_use]
pub fn norm_launch(width: usize, bytes: usize) -> Option<(u32, usize)> {
    let row = width.next_multiple_of(32 * 16 / bytes) * size_of::<f32>();
    let warps = [4, 2, 1].into_iter().find(|warps| warps * row <= SURE_MEMORY)?;
    Some((32 * warps as u32, warps * row))
}

/// Columns of a block of `sum_partials_*`.
pub const PARTIAL_COLUMNS: usize = 32;
/// Threads of a block of `sum_partials_*`.
pub const PARTIAL_THREADS: u32 = 1024;

/// Rows of a block of `norm_backward_*`: the launch has one block, and `partial` one row, for each group of so many.
pub const NORM_ROWS: usize = 8;

/// Rows of a tile that a block of attention owns: the launch has one block for each.
pub const ATTENTION_ROWS: usize = 64;

/// Bytes of launch memory that attention wants, compiled for `head_dim`, with elements of `bytes` (2 or 4).
#[must_use]
pub fn attention_memory(pass: AttentionPass, head_dim: usize, bytes: usize) -> usize {
    // Rows of a tile that passes by, times the tiles of a kind that are there at once.
    let passing_by = match (bytes, pass) {
        (2, AttentionPass::Backward) if head_dim > 64 => 2 * 32,
        (2, _) => 2 * 64,
        _ => 16,
    };
    let rows = match pass {
        AttentionPass::Forward => ATTENTION_ROWS + 2 * passing_by,
        AttentionPass::Backward => 2 * (ATTENTION_ROWS + passing_by),
    };
    // Every row has 16 bytes more, so that rows don't share banks.
    rows * (head_dim * bytes + 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_rounded_up_to_what_tensor_cores_take() {
        assert_eq!(compiled_head(10), Some(16));
        assert_eq!(compiled_head(64), Some(64));
        assert_eq!(compiled_head(65), Some(80));
        assert_eq!((compiled_head(0), compiled_head(129)), (None, None));
    }

    #[test]
    fn wide_norms_get_fewer_warps() {
        assert_eq!(norm_launch(768, 2), Some((128, 4 * 768 * 4)));
        assert_eq!(norm_launch(1, 4), Some((128, 4 * 128 * 4)));
        assert_eq!(norm_launch(8192, 2), Some((64, 2 * 8192 * 4)));
        assert_eq!(norm_launch(20_000, 2).map(|l| l.0), Some(32));
        assert_eq!(norm_launch(30_000, 2), None);
    }

    #[test]
    fn launch_memory_is_what_every_supported_device_has() {
        for head in (16..=WIDEST_HEAD).step_by(16) {
            for bytes in [2, 4] {
                let most = attention_memory(AttentionPass::Backward, head, bytes);
                assert!(most <= 98 * 1024 && most.is_multiple_of(16), "{head}: {most}");
            }
        }
    }
}
