//! Why a stage can't be rebuilt from its neighbours.

/// What went wrong, with the stage or value at fault. Stages are counted from 0 here and shown from 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AverageError {
    /// Two stages next to each other are gone.
    #[error(
        "places {first} and {second} of the pipeline were lost together; neighbours can't stand in, restore a checkpoint"
    )]
    Adjacent {
        /// The one nearer to the embedding, as a place in the whole pipeline.
        first: usize,
        /// The other one.
        second: usize,
    },
    /// The stage to read from is lost, too.
    #[error("stage {} can't be rebuilt from stage {}, which is lost itself; restore a checkpoint", lost + 1, source_stage + 1)]
    DeadSource {
        /// The stage to rebuild.
        lost: usize,
        /// The stage that would be read.
        source_stage: usize,
    },
    /// Stages of different shapes.
    #[error("stage {} can't be rebuilt from stage {}: its layers have {have:?} elements, {want:?} are needed", lost + 1, source_stage + 1)]
    Shape {
        /// The stage to rebuild.
        lost: usize,
        /// The stage that would be read.
        source_stage: usize,
        /// Elements by layer of the source.
        have: Vec<usize>,
        /// Elements by layer of the lost stage.
        want: Vec<usize>,
    },
    /// There is no stage to read from.
    #[error("{what} can't be rebuilt from neighbours: {why}")]
    NoSource {
        /// What was lost.
        what: String,
        /// Why nobody has it.
        why: &'static str,
    },
    /// Sources of different lengths.
    #[error("sources of {left} and {right} elements can't be blended")]
    Length {
        /// Elements of the first.
        left: usize,
        /// Elements of another one.
        right: usize,
    },
    /// A value that isn't finite: the source is dead or broken.
    #[error("element {index} of source {source_index} is {value}; a lost or broken stage is never read")]
    NotFinite {
        /// Which source of the call.
        source_index: usize,
        /// Which element.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A gradient norm that is none.
    #[error("a gradient norm of {norm} can't weigh a stage; norms are finite and not negative")]
    Norm {
        /// The value given.
        norm: f64,
    },
    /// Swapped micro-batches with too few stages.
    #[error("swapped micro-batches need at least 4 block stages, there are {stages}")]
    TooFewToSwap {
        /// Block stages.
        stages: usize,
    },
}
