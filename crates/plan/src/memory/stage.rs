//! The buffers of a stage, one by one: in a job, a plan and a rank, out bytes of each use ([`super::Memory`]). What
//! holds them is the engine (`rekindle_model`), in the same words; a test of whole trainers holds the two together.

use rekindle_types::spec::RecoverySource;
use rekindle_types::{Dtype, JobSpec, LayerId, Plan, Rank, Recompute, shard_range};

use super::{On, Sizes};
use crate::cost::{FLOAT_BYTES, parameters, sum_bytes};
use crate::guard::{end_guards_of, guards_of};
use crate::swap::in_flight;

/// A stage of a lane, in numbers.
pub(super) struct StageShape<'a> {
    spec: &'a JobSpec,
    pub sizes: Sizes,
    on: On,
    /// Elements of each layer here, a mirror last.
    held: Vec<u64>,
    /// Elements of each layer that this rank owns, a mirror left out.
    owned: Vec<u64>,
    pub blocks: u64,
    embed: bool,
    head: bool,
    /// Micro-batches in flight.
    pub in_flight: u64,
    /// Tokens of a micro-batch.
    rows: u64,
    /// Bytes of an activation.
    activation: u64,
    /// Bytes of a gradient sum.
    pub sum: u64,
    /// The largest range of sums that another rank's is added to, elements.
    joined: u64,
    /// It sends mean gradients to guards.
    guarded: bool,
}

impl<'a> StageShape<'a> {
    pub fn of(spec: &'a JobSpec, plan: &Plan, rank: Rank, on: On) -> Self {
        let cut = plan.stages.get(rank.stage as usize).cloned().unwrap_or(0..0);
        let layers: Vec<LayerId> = spec
            .model
            .layers()
            .skip(cut.start as usize)
            .take(cut.len())
            .collect();
        let (embed, head) = (layers.contains(&LayerId::Embed), layers.contains(&LayerId::Head));
        let matrix = spec
            .model
            .tie_word_embeddings
            .then(|| parameters(&spec.model, LayerId::Embed));
        let mirror = matrix.filter(|_| head && !embed);
        let all: Vec<u64> = layers
            .iter()
            .map(|layer| parameters(&spec.model, *layer))
            .collect();
        let own = |numel: &u64| shard_range(*numel as usize, plan.lanes, rank.lane).len() as u64;
        let owned: Vec<u64> = all.iter().map(own).collect();
        let shards = owned.iter().copied().filter(|_| plan.lanes > 1);
        let tied = matrix.filter(|_| embed && !head);
        let mut guards = guards_of(spec, plan);
        guards.extend(end_guards_of(spec, plan));
        Self {
            spec,
            on,
            sizes: Sizes::of(on),
            joined: shards.chain(tied).max().unwrap_or(0),
            held: all.into_iter().chain(mirror).collect(),
            owned,
            blocks: layers
                .iter()
                .filter(|layer| matches!(layer, LayerId::Block(_)))
                .count() as u64,
            embed,
            head,
            in_flight: u64::from(in_flight(spec, plan, rank)),
            rows: u64::from(spec.training.micro_batch) * u64::from(spec.data.seq_len),
            activation: match spec.training.dtype {
                Dtype::F32 => FLOAT_BYTES,
                Dtype::Bf16 => FLOAT_BYTES / 2,
            },
            sum: sum_bytes(spec.training.numerics),
            guarded: guards
                .get(&rank.id(plan.stage_count()))
                .is_some_and(|all| !all.is_empty()),
        }
    }

    fn hidden(&self) -> u64 {
        u64::from(self.spec.model.hidden_size)
    }

    fn inter(&self) -> u64 {
        u64::from(self.spec.model.intermediate_size)
    }

    fn query(&self) -> u64 {
        self.spec.model.query_size() as u64
    }

    /// Width of queries, keys and values.
    fn fused(&self) -> u64 {
        self.query() + 2 * self.spec.model.key_value_size() as u64
    }

    fn heads(&self) -> u64 {
        u64::from(self.spec.model.num_attention_heads)
    }

    fn vocab(&self) -> u64 {
        u64::from(self.spec.model.vocab_size)
    }

    /// Bytes that the device gives for a buffer. Where places are aligned an empty one takes a place, too.
    pub fn buffer(&self, elements: u64, bytes: u64) -> u64 {
        let least = u64::from(self.sizes.alignment > 1);
        (elements * bytes)
            .max(least)
            .next_multiple_of(self.sizes.alignment)
    }

    /// A buffer of activations.
    fn acts(&self, elements: u64) -> u64 {
        self.buffer(elements, self.activation)
    }

    /// A buffer of numbers that aren't rounded.
    fn wide(&self, elements: u64) -> u64 {
        self.buffer(elements, FLOAT_BYTES)
    }

    /// A buffer of `bytes` an element for each layer here.
    pub fn weights(&self, bytes: u64) -> u64 {
        self.held.iter().map(|numel| self.buffer(*numel, bytes)).sum()
    }

    /// Both moments of what is owned, for a mirror empty ones.
    pub fn moments(&self) -> u64 {
        let none = std::iter::repeat_n(&0, self.held.len() - self.owned.len());
        let owned = self.owned.iter().chain(none);
        2 * owned.map(|numel| self.wide(*numel)).sum::<u64>()
    }

    /// One block's activations but its input.
    fn block(&self) -> u64 {
        let narrow = [self.hidden(), self.fused(), self.query(), 2 * self.inter()];
        let narrow: u64 = narrow.iter().map(|width| self.acts(self.rows * width)).sum();
        narrow + self.wide(self.rows * self.heads()) + 2 * self.wide(self.rows)
    }

    /// One micro-batch's activations, of so many blocks: their inputs, what else they keep, the gradient that runs
    /// back, token ids. On a CUDA device rows are grouped by token for the embedding's gradient, too.
    pub fn slot(&self, blocks: u64) -> u64 {
        let kept = match self.spec.training.recompute {
            Recompute::None => blocks * self.block(),
            Recompute::Block => 0,
        };
        let ids = self.buffer(self.rows, 4);
        let grouped = match self.on {
            On::Cpu { .. } => 0,
            On::Cuda => ids + self.buffer(3 * self.rows, 4),
        };
        let tokens = u64::from(self.embed) * (ids + grouped) + u64::from(self.head) * ids;
        (blocks + 1) * self.acts(self.rows * self.hidden()) + kept + tokens
    }

    /// Rows of logits that are worked on at once.
    fn logit_rows(&self) -> u64 {
        (self.sizes.logits_at_once / self.vocab().max(1))
            .max(64)
            .min(self.rows)
    }

    pub fn scratch(&self) -> u64 {
        let (rows, hidden, vocab) = (self.rows, self.hidden(), self.vocab());
        let block = |n: u64| if self.blocks > 0 { n } else { 0 };
        let head = |n: u64| if self.head { n } else { 0 };
        let (narrow, wide) = (self.inter().max(self.query()), self.fused().max(2 * self.inter()));
        let gradient = block(hidden * wide.max(self.query()))
            .max(head(vocab * hidden))
            .max(hidden);
        let tables = u64::from(self.spec.data.seq_len) * u64::from(self.spec.model.head_dim) / 2;
        2 * self.acts(rows * hidden)
            + self.acts(head(rows * hidden))
            + self.acts(block(rows * narrow))
            + self.acts(block(rows * wide))
            + self.acts(head(self.logit_rows() * vocab))
            + self.wide(rows)
            + self.wide(gradient)
            + 2 * self.wide(tables)
            + self.at_work()
            + self.evaluation()
    }

    /// With `recompute`, the block that is run again.
    fn at_work(&self) -> u64 {
        match self.spec.training.recompute {
            Recompute::Block if self.blocks > 0 => self.block(),
            _ => 0,
        }
    }

    /// A pass that keeps nothing has a slot of one block of its own.
    fn evaluation(&self) -> u64 {
        let recovery = &self.spec.recovery;
        let tries = recovery.allows(RecoverySource::NeighbourAverage) && recovery.average_by_loss;
        if self.spec.evaluation.every == 0 && !tries {
            return 0;
        }
        let one = self.blocks.min(1);
        let lent = match self.spec.training.recompute {
            Recompute::None => 0,
            Recompute::Block => one * self.block(),
        };
        self.slot(one) + lent
    }

    /// One spare for every buffer that an update replaces, where the last state is kept in memory; and what of the
    /// checkpoints' pool whole layers fill, the last ones first.
    pub fn spares(&self) -> u64 {
        if self.on == On::Cuda {
            return 0;
        }
        let of = |(held, owned): (&u64, &u64)| if *owned == 0 { 0 } else { held + 2 * owned };
        let layers: Vec<u64> = self.held.iter().zip(&self.owned).map(of).collect();
        let recovery = &self.spec.recovery;
        let kept = recovery.allows(RecoverySource::Local) || recovery.allows(RecoverySource::Parity);
        let whole = if kept { layers.iter().sum() } else { 0 };
        let checkpoint = &self.spec.checkpoint;
        let mut pool = if checkpoint.is_on() {
            checkpoint.pool.0 / FLOAT_BYTES
        } else {
            0
        };
        let mut pooled = 0;
        for layer in layers.iter().rev().filter(|layer| **layer > 0) {
            if *layer <= pool {
                (pool, pooled) = (pool - layer, pooled + layer);
            }
        }
        FLOAT_BYTES * (whole + pooled)
    }

    /// What a CPU's operations take beside their operands: packed heads and tiles of scores for each thread that
    /// attends, and a norm's partial sums.
    pub fn beside_operands(&self, threads: u32) -> u64 {
        let model = &self.spec.model;
        let tasks = u64::from(self.spec.training.micro_batch) * u64::from(model.num_key_value_heads);
        let (tile, dim) = (
            self.sizes.attention_tile,
            u64::from(model.head_dim).next_multiple_of(self.sizes.vector),
        );
        let keys = u64::from(self.spec.data.seq_len).next_multiple_of(tile);
        let packed = 6 * keys * dim + 4 * tile * dim + 2 * tile * keys;
        let attend = if self.blocks > 0 {
            tasks.min(u64::from(threads.max(1)))
        } else {
            0
        };
        FLOAT_BYTES * (attend * packed) + self.norm_partials()
    }

    fn norm_partials(&self) -> u64 {
        match self.blocks > 0 || self.head {
            true => FLOAT_BYTES * self.rows.div_ceil(self.sizes.norm_rows) * self.hidden(),
            false => 0,
        }
    }

    /// The largest work space that an operation of a CUDA device asks for.
    pub fn space(&self) -> u64 {
        let lse = FLOAT_BYTES * self.rows * self.heads() * self.blocks.min(1);
        // Activations are widened on their way to the host, and the other way.
        let widened = match self.spec.training.dtype {
            Dtype::F32 => 0,
            Dtype::Bf16 => FLOAT_BYTES * self.rows * self.hidden(),
        };
        let owned = self.owned.iter().copied().max().unwrap_or(0);
        let means = if self.guarded { FLOAT_BYTES * owned } else { 0 };
        let joined = self.sum * self.joined;
        let most = [self.norm_partials(), lse, widened, means, joined]
            .into_iter()
            .max();
        most.unwrap_or(0).next_multiple_of(self.sizes.space_step)
    }
}
