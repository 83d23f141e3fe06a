//! A plan as one line per lane: which worker holds which layers.

use rekindle_types::{LayerId, ModelConfig, Plan, Rank};

/// `lane 0  worker-1 [embed … block.0] → worker-2 [block.1 … head]`. Without the model layers go by their index.
#[must_use]
pub fn draw(plan: &Plan, model: Option<&ModelConfig>) -> Vec<String> {
    let layers: Vec<LayerId> = model.map(|m| m.layers().collect()).unwrap_or_default();
    let name = |n: u32| {
        layers
            .get(n as usize)
            .map_or_else(|| n.to_string(), ToString::to_string)
    };
    let stage = |lane: u32, stage: u32| {
        let id = Rank { lane, stage }.id(plan.stage_count());
        let worker = plan.workers.get(id.0 as usize).map_or("?", |w| w.as_str());
        let range = plan.stages[stage as usize].clone();
        match range.end.saturating_sub(range.start) {
            0 | 1 => format!("{worker} [{}]", name(range.start)),
            _ => format!("{worker} [{} … {}]", name(range.start), name(range.end - 1)),
        }
    };
    (0..plan.lanes)
        .map(|lane| {
            let stages: Vec<_> = (0..plan.stage_count()).map(|s| stage(lane, s)).collect();
            format!("lane {lane}  {}", stages.join(" → "))
        })
        .collect()
}

/// The same lines, none longer than `width` characters where that can be helped: broken between stages.
#[must_use]
pub fn wrap(lanes: &[String], width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for lane in lanes {
        let mut line = String::new();
        for stage in lane.split_inclusive(" → ") {
            if !line.is_empty() && line.chars().count() + stage.trim_end().chars().count() > width {
                lines.push(std::mem::replace(&mut line, "        ".to_owned()));
            }
            line.push_str(stage);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_types::{Epoch, JobId, WorkerId};

    #[test]
    fn every_rank_is_drawn_with_its_worker_and_layers() {
        let worker = |n: u32| WorkerId::new(format!("w{n}")).unwrap();
        let plan = Plan {
            job: JobId::new("j").unwrap(),
            epoch: Epoch(1),
            lanes: 2,
            stages: vec![0..3, 3..4],
            workers: (0..4).map(worker).collect(),
        };
        let expected = ["lane 0  w0 [0 … 2] → w1 [3]", "lane 1  w2 [0 … 2] → w3 [3]"];
        assert_eq!(draw(&plan, None), expected);
    }

    #[test]
    fn long_lanes_are_broken_between_stages() {
        let lane = ["lane 0  a [1 … 2] → b [3] → c [4]".to_owned()];
        assert_eq!(wrap(&lane, 80), lane);
        assert_eq!(wrap(&lane, 28), ["lane 0  a [1 … 2] → b [3] → ", "        c [4]"]);
    }
}
