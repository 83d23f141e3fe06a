//! Where a trainer stands in its plan, and the values every part of a step needs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rekindle_plan::{
    LayerRate, first_on_workers, layer_rate, line_keepers, micro_batches_of, moments_alone, parity_groups,
};
use rekindle_transport::{Deadline, Transport};
use rekindle_types::spec::RecoverySource;
use rekindle_types::{
    JobSpec, LayerId, Parities, Plan, Rank, RankId, Rebuilt, Refill, StartPoint, shard_range,
};

use super::progress::Progress;

/// One rank's view of its job. Nothing in it but its counters changes while an epoch lasts.
pub struct Context {
    /// The job.
    pub spec: JobSpec,
    /// Who does what.
    pub plan: Plan,
    /// Lane and stage of this trainer.
    pub rank: Rank,
    /// The state it starts from; none: the job's first weights.
    pub start: Option<StartPoint>,
    /// The step whose state it took from the worker's memory instead.
    pub memory_step: Option<u64>,
    /// The guards of each rank; none where the job wants no shadows. In a job that swaps, of the ends of the
    /// pipeline, for their embedding or head.
    pub guards: BTreeMap<RankId, Vec<RankId>>,
    /// Ranks whose own worker's memory doesn't have the state they start from, and where they get it from.
    pub refills: BTreeMap<RankId, Refill>,
    /// Layers whose state was made up, by this recovery or an earlier one.
    pub rebuilt: Vec<Rebuilt>,
    /// Names this epoch's trainers in the keys of checkpoint files.
    pub writer: String,
    /// Mean time between failures as known at the start, seconds.
    pub mtbf_seconds: f64,
    /// The newest step of epochs before whose line the coordinator has.
    pub heard: Option<u64>,
    /// Longest wait for a peer that is connected but silent. A lost connection is noticed at once, whatever this is.
    pub patience: Duration,
    /// How far it is.
    pub progress: Arc<Progress>,
}

impl Context {
    /// This trainer's dense index.
    #[must_use]
    pub fn id(&self) -> RankId {
        self.id_of(self.rank)
    }

    /// The dense index of `rank`.
    #[must_use]
    pub fn id_of(&self, rank: Rank) -> RankId {
        rank.id(self.plan.stage_count())
    }

    /// The last step whose update is in the state it starts from.
    #[must_use]
    pub fn started_after(&self) -> u64 {
        let start = self.start.as_ref().map_or(0, |start| start.step);
        self.memory_step.unwrap_or(start)
    }

    /// The moment a wait that begins now gives up.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.patience)
    }

    /// Whether this stage holds the embedding.
    #[must_use]
    pub fn is_first_stage(&self) -> bool {
        self.rank.stage == 0
    }

    /// Whether this stage holds the head.
    #[must_use]
    pub fn is_last_stage(&self) -> bool {
        self.rank.stage + 1 == self.plan.stage_count()
    }

    /// This rank's guards.
    #[must_use]
    pub fn own_guards(&self) -> &[RankId] {
        self.guards.get(&self.id()).map_or(&[], Vec::as_slice)
    }

    /// The ranks that this one guards, in order.
    pub fn wards(&self) -> impl Iterator<Item = RankId> + '_ {
        let me = self.id();
        let mine = move |(_, guards): &(&RankId, &Vec<RankId>)| guards.contains(&me);
        self.guards.iter().filter(mine).map(|(rank, _)| *rank)
    }

    /// Whether guards have no weights, which other lanes have.
    #[must_use]
    pub fn guards_keep_moments_alone(&self) -> bool {
        moments_alone(&self.spec, &self.plan)
    }

    /// The ranks that keep the steps' lines, rank 0 first.
    #[must_use]
    pub fn line_keepers(&self) -> Vec<RankId> {
        line_keepers(&self.spec, &self.plan)
    }

    /// Whether this is the rank that sees to the lines in its worker's memory.
    #[must_use]
    pub fn is_first_on_worker(&self) -> bool {
        first_on_workers(&self.plan).contains(&self.id())
    }

    /// The sets that a rank's state is taken out of, or worked out from.
    #[must_use]
    pub fn parities(&self, rank: RankId) -> Option<&Parities> {
        match self.refills.get(&rank) {
            Some(Refill::Parity(parities)) => Some(parities),
            _ => None,
        }
    }

    /// The other ranks of this rank's group that keeps parities, and of the groups whose sets it gives or takes
    /// something from.
    fn in_groups(&self) -> Vec<RankId> {
        let me = self.id();
        let settings = &self.spec.recovery.parity;
        let groups = match self.spec.recovery.allows(RecoverySource::Parity) {
            true => parity_groups(&self.plan, settings),
            false => Vec::new(),
        };
        let lost = self.plan.ranks().filter_map(|rank| self.parities(rank));
        let all = lost.map(|parities| parities.members.clone()).chain(groups);
        all.filter(|members| members.contains(&me)).flatten().collect()
    }

    /// The elements of a layer that a rank of its stage updates.
    #[must_use]
    pub fn owned_by(&self, rank: RankId, layer: LayerId) -> Range<usize> {
        shard_range(self.numel(layer), self.plan.lanes, self.plan.rank(rank).lane)
    }

    /// The elements of a layer that this rank updates.
    #[must_use]
    pub fn owned(&self, layer: LayerId) -> Range<usize> {
        self.owned_by(self.id(), layer)
    }

    /// The layers that a rank updates something of, in pipeline order.
    #[must_use]
    pub fn owned_layers(&self, rank: RankId) -> Vec<LayerId> {
        let some = |layer: &LayerId| !self.owned_by(rank, *layer).is_empty();
        let layers = self.layers_of(self.plan.rank(rank).stage);
        layers.filter(some).collect()
    }

    /// Bytes of the gradient of all that a rank's guards keep of it, as they get it.
    #[must_use]
    pub fn gradient_bytes(&self, rank: RankId) -> usize {
        let layers = self.guarded_layers(rank).into_iter();
        layers.map(|layer| 4 * self.owned_by(rank, layer).len()).sum()
    }

    /// The layers of this stage, in pipeline order.
    pub fn layers(&self) -> impl Iterator<Item = LayerId> + use<> {
        self.layers_of(self.rank.stage)
    }

    fn layers_of(&self, stage: u32) -> impl Iterator<Item = LayerId> + use<> {
        let range = self.plan.stages.get(stage as usize).cloned().unwrap_or(0..0);
        self.spec
            .model
            .layers()
            .skip(range.start as usize)
            .take(range.len())
    }

    /// Whether this stage computes with a copy of a tied embedding that the first stage owns.
    #[must_use]
    pub fn holds_mirror(&self) -> bool {
        self.tied_peer().is_some() && self.is_last_stage()
    }

    /// The same lane's stage before this one.
    #[must_use]
    pub fn previous(&self) -> Option<RankId> {
        let stage = self.rank.stage.checked_sub(1)?;
        Some(self.id_of(Rank { stage, ..self.rank }))
    }

    /// The same lane's stage after this one.
    #[must_use]
    pub fn next(&self) -> Option<RankId> {
        let stage = self.rank.stage + 1;
        (!self.is_last_stage()).then(|| self.id_of(Rank { stage, ..self.rank }))
    }

    /// The other lanes of this stage, in lane order.
    pub fn other_lanes(&self) -> impl Iterator<Item = (u32, RankId)> + '_ {
        (0..self.plan.lanes)
            .filter(|lane| *lane != self.rank.lane)
            .map(|lane| (lane, self.id_of(Rank { lane, ..self.rank })))
    }

    /// The rank at the other end of a tied matrix, if this rank is one end of two.
    #[must_use]
    pub fn tied_peer(&self) -> Option<RankId> {
        if !self.spec.model.tie_word_embeddings || self.plan.stage_count() == 1 {
            return None;
        }
        let last = self.plan.stage_count() - 1;
        match self.rank.stage {
            0 => Some(self.id_of(Rank {
                stage: last,
                ..self.rank
            })),
            stage if stage == last => Some(self.id_of(Rank {
                stage: 0,
                ..self.rank
            })),
            _ => None,
        }
    }

    /// Every rank this one exchanges frames with.
    #[must_use]
    pub fn links(&self) -> std::collections::BTreeSet<RankId> {
        let me = self.id();
        let keepers = self.line_keepers();
        let everyone_meets_keepers: Vec<RankId> = if keepers.contains(&me) {
            self.plan.ranks().collect()
        } else {
            keepers
        };
        let gives_or_takes = |(rank, refill): (&RankId, &Refill)| {
            let pairs = refill.senders().into_iter().map(|sender| (*rank, sender));
            let both = pairs.flat_map(|(rank, sender)| [(rank, sender), (sender, rank)]);
            let mine = both.filter(|(one, _)| *one == me).map(|(_, other)| other);
            mine.collect::<Vec<_>>()
        };
        let refills = self.refills.iter().flat_map(gives_or_takes);
        [self.previous(), self.next(), self.tied_peer()]
            .into_iter()
            .flatten()
            .chain(self.beside_when_swapped())
            .chain(self.own_guards().iter().copied())
            .chain(self.wards())
            .chain(refills)
            .chain(self.in_groups())
            .chain(self.other_lanes().map(|(_, id)| id))
            .chain(everyone_meets_keepers)
            .filter(|id| *id != me)
            .collect()
    }

    /// The micro-batches of this lane, in order.
    #[must_use]
    pub fn micro_batches(&self) -> Vec<u32> {
        micro_batches_of(self.rank.lane, self.plan.lanes, self.spec.micro_batches())
    }

    /// Position of `layer` in pipeline order; names it in tags.
    #[must_use]
    pub fn index_of(&self, layer: LayerId) -> u32 {
        match layer {
            LayerId::Embed => 0,
            LayerId::Block(n) => n + 1,
            LayerId::Head => self.spec.model.num_hidden_layers + 1,
        }
    }

    /// What the update of `layer` computes with at `step`.
    #[must_use]
    pub fn rate(&self, layer: LayerId, step: u64) -> LayerRate {
        layer_rate(&self.spec, &self.rebuilt, self.index_of(layer), step)
    }

    /// The layer at a position in pipeline order.
    #[must_use]
    pub fn layer_at(&self, index: u32) -> Option<LayerId> {
        self.spec.model.layers().nth(index as usize)
    }

    /// Number of elements of `layer`.
    #[must_use]
    pub fn numel(&self, layer: LayerId) -> usize {
        self.spec.model.layout(layer).numel()
    }

    /// Whether every `every`-th step (or the last one) is `step`; 0 means the last one only.
    #[must_use]
    pub fn is_due(&self, step: u64, every: u64) -> bool {
        step == self.spec.training.steps || (every > 0 && step.is_multiple_of(every))
    }
}

/// A transport shared by the parts of a trainer.
pub type SharedTransport = std::sync::Arc<dyn Transport>;

#[cfg(test)]
pub mod tests {
    use rekindle_types::{Epoch, JobFile, JobId, WorkerId};

    use super::*;

    pub fn context(lanes: u32, stages: u32, rank: Rank) -> Context {
        let text = r#"
            [job]
            name = "t"
            output = "/tmp/t"
            [model]
            hidden_size = 8
            intermediate_size = 8
            num_hidden_layers = 6
            num_attention_heads = 2
            tie_word_embeddings = true
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
        let spec = JobFile::parse(text).unwrap().into_spec(None).unwrap();
        let worker = WorkerId::new("w").unwrap();
        let plan = Plan {
            job: JobId::new("t-1").unwrap(),
            epoch: Epoch(1),
            lanes,
            stages: (0..stages).map(|s| s..s + 1).collect(),
            workers: vec![worker; (lanes * stages) as usize],
        };
        Context {
            spec,
            plan,
            rank,
            start: None,
            memory_step: None,
            guards: BTreeMap::new(),
            refills: BTreeMap::new(),
            rebuilt: Vec::new(),
            writer: "t".to_owned(),
            mtbf_seconds: 3600.0,
            heard: None,
            patience: Duration::from_secs(1),
            progress: Arc::default(),
        }
    }

    #[test]
    fn links_are_symmetric() {
        for (lanes, stages) in [(1, 1), (1, 4), (2, 2), (3, 1), (2, 3)] {
            let all: Vec<_> = (0..lanes * stages)
                .map(|id| context(lanes, stages, Rank::of(RankId(id), stages)))
                .collect();
            for a in &all {
                for b in a.links() {
                    assert!(
                        all[b.0 as usize].links().contains(&a.id()),
                        "{} and {b} in {lanes}x{stages}",
                        a.rank
                    );
                }
            }
        }
    }

    #[test]
    fn a_tied_matrix_has_two_ends_per_lane() {
        let of = |lane, stage| context(2, 3, Rank { lane, stage }).tied_peer();
        assert_eq!(of(1, 0), Some(RankId(5)));
        assert_eq!(of(1, 2), Some(RankId(3)));
        assert_eq!(of(1, 1), None);
        assert_eq!(context(2, 1, Rank { lane: 0, stage: 0 }).tied_peer(), None);
    }
}
