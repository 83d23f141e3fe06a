//! `table.md`: what was run, the rows, and what the columns mean.

use std::fmt::Write as _;

use crate::config::Config;
use crate::method::{Control, Method};
use crate::results::{Results, RunResult};
use crate::summary::{Row, Spread};

/// The page.
#[must_use]
pub fn table(results: &Results) -> String {
    let mut page = facts(results);
    page.push_str(&digests(results));
    for &rate in &results.config.rates {
        let _ = writeln!(
            page,
            "\n## Each stage lost with probability {rate} per iteration\n"
        );
        page.push_str(HEAD);
        for row in results.rows.iter().filter(|r| r.rate == rate) {
            page.push_str(&line(row));
        }
        for row in results.rows.iter().filter(|r| r.rate == rate) {
            for reason in &row.refused {
                let _ = writeln!(page, "\n- {}, {reason}", row.title);
            }
        }
    }
    page.push_str(&legend(&results.config));
    page
}

const HEAD: &str = "\
| method | exact | held-out loss at the end | iterations to target | relative | seconds to target | relative | stages lost | steps run again | loss jump | of S1 | first third | last third |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

fn facts(results: &Results) -> String {
    let (config, shape, text) = (&results.config, &results.config.shape, &results.text);
    let seeds: Vec<String> = config.seeds.iter().map(u64::to_string).collect();
    format!(
        "# Recovery of a lost pipeline stage: what each method costs\n\n\
         - Model: {} parameters, embedding + {} stages of {} block(s) + head, width {}, {} heads; bytes, sequences of {}, {} micro-batches of {}.\n\
         - Training: {} steps of {} tokens, Adam (0.9, 0.999), constant learning rate {}, gradient norm clipped to {} over the model.\n\
         - Text: {} ({} bytes; {} sequences to train on, {} held out, of which {} are evaluated every {} steps).\n\
         - Seeds: {}. Stages that can be lost: {}. Failures left out because a neighbour was lost in the same iteration: {}.\n\
         - Machine: {}, {} CPUs, {} compute thread(s); a step took {:.1} ms (median of {}; quartiles {:.1} and {:.1}).\n",
        results.parameters,
        shape.stages,
        shape.blocks_per_stage,
        shape.hidden,
        shape.heads,
        shape.seq_len,
        shape.micro_batches,
        shape.micro_batch,
        config.steps,
        shape.tokens(),
        config.lr,
        config.max_grad_norm,
        text.inputs.join(", "),
        text.bytes,
        text.training_samples,
        text.held_out_samples,
        config.eval_sequences,
        config.eval_every,
        seeds.join(", "),
        match config.failing {
            crate::trace::Failing::Inner => "inner block stages",
            crate::trace::Failing::Blocks => "all block stages",
            crate::trace::Failing::All => "all block stages, embedding, head",
        },
        results.left_out,
        results.machine.processor,
        results.machine.cpus,
        config.threads,
        results.step_time.median * 1e3,
        results.step_time.steps,
        results.step_time.lower_quartile * 1e3,
        results.step_time.upper_quartile * 1e3,
    )
}

/// What every exact method's state has to be.
fn digests(results: &Results) -> String {
    let plain = Method::Undisturbed(Control::Plain);
    let runs = results.runs.iter().filter(|r| r.method == plain);
    let of = |r: &RunResult| Some(format!("{} (seed {})", r.digest?, r.seed));
    let list: Vec<_> = runs.filter_map(of).collect();
    format!(
        "- State digest after the last step, undisturbed: {}.\n",
        list.join(", ")
    )
}

fn line(row: &Row) -> String {
    let some = |spread: Option<Spread>, digits: usize| spread.map_or("-".to_owned(), |s| show(s, digits));
    let met = |spread: Option<Spread>, digits: usize| match spread {
        None => "never".to_owned(),
        Some(s) if s.count < row.runs => format!("{} ({} of {} runs)", show(s, digits), s.count, row.runs),
        Some(s) => show(s, digits),
    };
    let mean =
        |spread: Option<Spread>| spread.map_or("-".to_owned(), |s| format!("{:+.3} ({})", s.mean, s.count));
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        row.title,
        match row.method {
            Method::Undisturbed(_) => "-",
            _ if row.exact => "yes",
            _ => "no",
        },
        met(row.final_loss, 3),
        met(row.iterations, 0),
        some(row.iterations_ratio, 2),
        met(row.seconds, 1),
        some(row.seconds_ratio, 2),
        some(row.stages_lost, 0),
        some(row.steps_again, 0),
        mean(row.jump),
        mean(row.jump_first_stage),
        mean(row.jump_first_third),
        mean(row.jump_last_third),
    )
}

/// The mean, and the range where there is one.
fn show(spread: Spread, digits: usize) -> String {
    let number = |value: f64| format!("{value:.digits$}");
    if spread.min == spread.max {
        number(spread.mean)
    } else {
        format!(
            "{} ({} to {})",
            number(spread.mean),
            number(spread.min),
            number(spread.max)
        )
    }
}

fn legend(config: &Config) -> String {
    let mut text = String::from("\n## What the columns mean\n\n");
    for line in [
        "Numbers are means over seeds, with the lowest and the highest in parentheses; jumps: the mean, and over how many failures.".to_owned(),
        "Exact: the state's digest is that of the undisturbed run at every step, also when a step is come to again; checked.".to_owned(),
        format!(
            "Target: the undisturbed run's held-out loss after {:.0} % of its steps, seed by seed; it is looked for every {} steps. \
             Runs that don't meet it end after {} iterations. Relative: to the undisturbed run, seed by seed; runs that didn't meet \
             the target are not in it.",
            config.target_share * 100.0,
            config.eval_every,
            config.most_iterations()
        ),
        "All methods of a seed meet the same failures: the same iteration, stage and micro-batch. Iterations are counted as they are \
         run, so a method that runs steps again meets more of them."
            .to_owned(),
        "Loss jump: held-out loss right after a recovery minus that right before the failure; also for failures of the first block \
         stage alone, and for those in the first and in the last third of the steps."
            .to_owned(),
        seconds(config),
        "CheckFree weighs by squared gradient norms (before clipping) unless it says otherwise; it copies an edge from its only neighbour. \
         Rebuilt stages start a new Adam and a raised learning rate unless the row says otherwise."
            .to_owned(),
        "Redundant computation isn't run: its losses are the undisturbed run's, its time is modelled.".to_owned(),
    ] {
        let _ = writeln!(text, "- {line}");
    }
    text
}

fn seconds(config: &Config) -> String {
    let c = &config.costs;
    format!(
        "Seconds: measured are the median of a step (times iterations and dropped micro-batches), the guards' updates (shadow) and \
         scoring (loss-aware), both against the same run's steps. Modelled are, in steps: {} per failure (detection and replacement, every method), {} per checkpoint, \
         {} per restore, a step of {} with redundant computation, {} more per step for shadows' gradients and {} for CheckFree+'s copies \
         of embedding and head on a network of 500 Mb/s, nothing of it hidden. The usual figures come from arXiv 2506.15461 (30 s a \
         failure, 3 s a checkpoint, 151.04 s a redundant and 91.32 s a plain step); it gives none for a restore, which is taken to \
         be a checkpoint's.",
        c.recovery, c.checkpoint, c.restore, c.redundant, c.shadow, c.replica
    )
}
