//! Operands as the device at work takes them: its own kind of memory, or plain values.

use std::ops::Range;

use super::{AnyBuffer, AnyIndices, AnySums};
use crate::cuda::Cuda;
use crate::{
    AdamPart, AdamSource, AdamStep, AdamTarget, AttentionShape, ComputeError, Cpu, Device, Hashing, Product,
    Residual, Result, SumKind, View, ViewMut,
};

/// A device that [`super::AnyDevice`] may be: finds its own memory. None: it is the other's.
pub trait Member: Device<Float = f32> {
    fn buffer(any: &AnyBuffer) -> Option<&Self::Buffer>;
    fn buffer_mut(any: &mut AnyBuffer) -> Option<&mut Self::Buffer>;
    fn indices(any: &AnyIndices) -> Option<&Self::Indices>;
    fn indices_mut(any: &mut AnyIndices) -> Option<&mut Self::Indices>;
    fn sums(any: &AnySums) -> Option<&Self::Sums>;
    fn sums_mut(any: &mut AnySums) -> Option<&mut Self::Sums>;
}

macro_rules! member {
    ($device:ty, $kind:ident: $($of:ident, $of_mut:ident, $any:ident, $own:ident;)*) => {
        impl Member for $device {
            $(
                fn $of(any: &$any) -> Option<&Self::$own> {
                    match any {
                        $any::$kind(own) => Some(own),
                        _ => None,
                    }
                }
                fn $of_mut(any: &mut $any) -> Option<&mut Self::$own> {
                    match any {
                        $any::$kind(own) => Some(own),
                        _ => None,
                    }
                }
            )*
        }
    };
    ($device:ty, $kind:ident) => {
        member! { $device, $kind:
            buffer, buffer_mut, AnyBuffer, Buffer;
            indices, indices_mut, AnyIndices, Indices;
            sums, sums_mut, AnySums, Sums;
        }
    };
}

member!(Cpu<f32>, Cpu);
member!(Cuda, Cuda);

/// Something that operations take, and what it is to the device `D`.
pub trait Operand<D: Member> {
    type Own;
    /// None: it lies on another kind of device.
    fn own(self) -> Option<Self::Own>;
}

/// An operand of `op`, as the device takes it.
pub fn own<D: Member, T: Operand<D>>(operand: T, op: &str, what: &str) -> Result<T::Own> {
    operand.own().ok_or_else(|| elsewhere(op, what))
}

/// `buffers` as the device takes them.
pub fn all<D: Member, const N: usize>(buffers: [&mut AnyBuffer; N]) -> Result<[&mut D::Buffer; N]> {
    let own: Vec<_> = buffers.into_iter().filter_map(D::buffer_mut).collect();
    own.try_into().map_err(|_| elsewhere("thaw", "a buffer"))
}

fn elsewhere(op: &str, what: &str) -> ComputeError {
    ComputeError::Device {
        what: format!(
            "{op}: {what} lies on another kind of device than the one at work; allocate all operands on the same one"
        ),
    }
}

macro_rules! plain {
    ($($value:ty),* $(,)?) => {
        $(impl<D: Member> Operand<D> for $value {
            type Own = Self;
            fn own(self) -> Option<Self> {
                Some(self)
            }
        })*
    };
}

plain!(
    bool,
    f64,
    u64,
    usize,
    Range<usize>,
    Product,
    AttentionShape,
    SumKind
);
plain!(
    &[f32],
    &mut [f32],
    &[u8],
    &[u32],
    &[usize],
    &AdamStep,
    &[AdamPart],
    Option<Hashing<'_>>
);

macro_rules! reference {
    ($any:ident, $own:ident, $of:ident, $of_mut:ident) => {
        impl<'a, D: Member> Operand<D> for &'a $any {
            type Own = &'a D::$own;
            fn own(self) -> Option<&'a D::$own> {
                D::$of(self)
            }
        }
        impl<'a, D: Member> Operand<D> for &'a mut $any {
            type Own = &'a mut D::$own;
            fn own(self) -> Option<&'a mut D::$own> {
                D::$of_mut(self)
            }
        }
    };
}

reference!(AnyBuffer, Buffer, buffer, buffer_mut);
reference!(AnyIndices, Indices, indices, indices_mut);
reference!(AnySums, Sums, sums, sums_mut);

impl<'a, D: Member> Operand<D> for View<'a, AnyBuffer> {
    type Own = View<'a, D::Buffer>;
    fn own(self) -> Option<Self::Own> {
        let buffer = D::buffer(self.buffer)?;
        let range = self.range;
        Some(View { buffer, range })
    }
}

impl<'a, D: Member> Operand<D> for ViewMut<'a, AnyBuffer> {
    type Own = ViewMut<'a, D::Buffer>;
    fn own(self) -> Option<Self::Own> {
        let buffer = D::buffer_mut(self.buffer)?;
        let range = self.range;
        Some(ViewMut { buffer, range })
    }
}

impl<'a, D: Member> Operand<D> for Option<View<'a, AnyBuffer>> {
    type Own = Option<View<'a, D::Buffer>>;
    fn own(self) -> Option<Self::Own> {
        self.map_or(Some(None), |view| Operand::<D>::own(view).map(Some))
    }
}

impl<'a, D: Member> Operand<D> for Option<Residual<'a, AnyBuffer>> {
    type Own = Option<Residual<'a, D::Buffer>>;
    fn own(self) -> Option<Self::Own> {
        self.map_or(Some(None), |(delta, sum)| {
            Some(Some((Operand::<D>::own(delta)?, Operand::<D>::own(sum)?)))
        })
    }
}

impl<'a, D: Member> Operand<D> for AdamTarget<'a, AnyBuffer> {
    type Own = AdamTarget<'a, D::Buffer>;
    fn own(self) -> Option<Self::Own> {
        Some(AdamTarget {
            weights: Operand::<D>::own(self.weights)?,
            exp_avg: Operand::<D>::own(self.exp_avg)?,
            exp_avg_sq: Operand::<D>::own(self.exp_avg_sq)?,
        })
    }
}

impl<'a, D: Member> Operand<D> for AdamSource<'a, AnyBuffer> {
    type Own = AdamSource<'a, D::Buffer>;
    fn own(self) -> Option<Self::Own> {
        Some(AdamSource {
            weights: Operand::<D>::own(self.weights)?,
            exp_avg: Operand::<D>::own(self.exp_avg)?,
            exp_avg_sq: Operand::<D>::own(self.exp_avg_sq)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whole;

    #[test]
    fn an_operand_of_the_other_device_is_refused_by_name() {
        let cpu = Cpu::<f32>::new(1).unwrap();
        let mut buffer = AnyBuffer::Cpu(cpu.alloc(3).unwrap());
        assert!(own::<Cpu<f32>, _>(whole(&buffer, 3), "add", "src").is_ok());
        let error = own::<Cuda, _>(whole(&buffer, 3), "add", "src").err().unwrap();
        assert!(
            error.to_string().starts_with("add: src lies on another"),
            "{error}"
        );
        assert!(own::<Cuda, _>(Some(whole(&buffer, 3)), "add", "src").is_err());
        assert!(all::<Cpu<f32>, 1>([&mut buffer]).is_ok());
        assert!(all::<Cuda, 1>([&mut buffer]).is_err());
    }
}
