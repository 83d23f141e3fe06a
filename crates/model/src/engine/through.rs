//! A micro-batch on its way through the blocks of a pass: where the residual stream is after each.

use rekindle_compute::{Device, whole, whole_mut};

use super::block::{self, Pass};
use super::slots::{BlockSlot, Scratch, Slot};
use super::state::LayerState;
use super::{EngineError, Result};

/// Where the residual stream stands between layers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// In the first block's input, or in `dx` where the pass goes through no block.
    Input,
    /// `blocks[n].mid + scratch.delta`.
    After(usize),
}

/// The buffer that holds the residual stream after a pass's blocks, or its part before the pending addition.
pub(super) fn stream<D: Device>(at: At, slot: &Slot<D>) -> &D::Buffer {
    match at {
        At::Input => &slot.dx,
        At::After(n) => &slot.blocks[n].mid,
    }
}

/// The blocks of a pass; where there are fewer buffers than blocks, they take turns.
pub(super) fn through_blocks<D: Device>(
    pass: &Pass<'_, D>,
    states: &[&LayerState<D>],
    slot: &mut Slot<D>,
    scratch: &mut Scratch<D>,
) -> Result<At> {
    let Slot { inputs, blocks, .. } = slot;
    let (held, count) = (inputs.len().max(1), blocks.len().max(1));
    let mut at = At::Input;
    for (n, state) in states.iter().enumerate() {
        let (x, here) = (&mut inputs[n % held], n % count);
        enter_block(pass, state, at, x, (&mut *blocks, here), scratch)?;
        block::attend(pass, state, x, &mut blocks[here], scratch)?;
        block::leave(pass, state, &blocks[here], scratch)?;
        at = At::After(here);
    }
    Ok(at)
}

/// The first norm of the block that uses `blocks[here]`; the block before it may have used the same.
fn enter_block<D: Device>(
    pass: &Pass<'_, D>,
    state: &LayerState<D>,
    at: At,
    x: &mut D::Buffer,
    (blocks, here): (&mut [BlockSlot<D>], usize),
    scratch: &mut Scratch<D>,
) -> Result<()> {
    match at {
        At::After(before) if before != here => match blocks.get_disjoint_mut([before, here]) {
            Ok([b, h]) => block::enter(pass, state, Some(&b.mid), x, &mut h.rstd_in, scratch),
            Err(_) => Err(EngineError::Spec {
                what: format!("blocks {before} and {here} have no buffers"),
            }),
        },
        At::After(_) => {
            let BlockSlot { mid, rstd_in, .. } = &mut blocks[here];
            block::enter(pass, state, Some(mid), x, rstd_in, scratch)
        }
        At::Input => block::enter(pass, state, None, x, &mut blocks[here].rstd_in, scratch),
    }
}

/// Carries out the pending addition: the pass's output is then in `scratch.delta` (or, without blocks, still in `dx`).
pub(super) fn finish_output<D: Device>(
    pass: &Pass<'_, D>,
    at: At,
    slot: &Slot<D>,
    scratch: &mut Scratch<D>,
) -> Result<()> {
    let wide = pass.rows() * pass.widths.hidden;
    if at != At::Input {
        pass.device
            .add(whole_mut(&mut scratch.delta, wide), whole(stream(at, slot), wide))?;
    }
    Ok(())
}
