//! Machine code on the device, and what kernels are called with.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::{Context, Named, refused};
use crate::Result;

/// Machine code on the device. It stays loaded as long as its context.
pub struct Image {
    context: Arc<Context>,
    raw: sys::CUmodule,
}

// SAFETY: the driver takes a module from any thread.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

/// A kernel of an [`Image`].
#[derive(Clone, Copy)]
pub struct Function {
    pub(super) raw: sys::CUfunction,
    pub(super) name: &'static str,
}

// SAFETY: the driver takes a function from any thread; images are never unloaded.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Image {
    /// Loads a CUBIN.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when the driver doesn't take it.
    pub fn load(context: &Arc<Context>, cubin: &[u8]) -> Result<Self> {
        context.bind()?;
        // SAFETY: a CUBIN carries its own length; the driver copies it.
        let raw = unsafe { result::module::load_data(cubin.as_ptr().cast()) }.named("cuModuleLoadData")?;
        Ok(Self {
            context: Arc::clone(context),
            raw,
        })
    }

    /// A kernel by name, which may use `memory` bytes of launch memory.
    ///
    /// # Errors
    /// [`ComputeError::Device`] when there is none.
    pub fn function(&self, name: &'static str, memory: usize) -> Result<Function> {
        self.context.bind()?;
        let text =
            CString::new(name).map_err(|e| refused(format!("a kernel's name with a zero byte: {e}")))?;
        // SAFETY: the image is loaded.
        let raw = unsafe { result::module::get_function(self.raw, text) }
            .named(&format!("cuModuleGetFunction({name})"))?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let memory = i32::try_from(memory).unwrap_or(i32::MAX);
        // SAFETY: the function was just given.
        unsafe { result::function::set_function_attribute(raw, attribute, memory) }
            .named(&format!("{memory} bytes of launch memory for {name}"))?;
        Ok(Function { raw, name })
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// An address.
    At(u64),
    /// A count.
    Len(u64),
    /// A small number.
    Int(i32),
    /// A float.
    Float(f32),
    /// A double.
    Double(f64),
    /// The `Shape` of attention.
    Shape(ShapeArg),
    /// The `Factors` of AdamW.
    Factors([f32; 10]),
}

/// `Shape` in attention.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ShapeArg {
    /// Tokens of a sequence.
    pub seq_len: i32,
    /// Query heads.
    pub heads: i32,
    /// Key and value heads.
    pub kv_heads: i32,
    /// Width of a head.
    pub head_dim: i32,
    /// Factor on the scores.
    pub scale: f32,
}

impl Arg {
    pub(super) fn pointer(&self) -> *mut c_void {
        let to: *const c_void = match self {
            Self::At(v) | Self::Len(v) => std::ptr::from_ref(v).cast(),
            Self::Int(v) => std::ptr::from_ref(v).cast(),
            Self::Float(v) => std::ptr::from_ref(v).cast(),
            Self::Double(v) => std::ptr::from_ref(v).cast(),
            Self::Shape(v) => std::ptr::from_ref(v).cast(),
            Self::Factors(v) => std::ptr::from_ref(v).cast(),
        };
        to.cast_mut()
    }
}
