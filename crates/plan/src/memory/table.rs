//! Figures of several stages, for a person.

use std::fmt;

use super::Memory;

/// What the trainers of the stages take, by use; uses that take nothing anywhere are left out.
pub(crate) fn write_table(f: &mut fmt::Formatter<'_>, title: &str, stages: &[Memory]) -> fmt::Result {
    let is_used = |n: usize| stages.iter().any(|stage| stage.uses()[n].1 > 0);
    let figure = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let columns: Vec<usize> = (0..Memory::default().uses().len())
        .filter(|n| is_used(*n))
        .collect();
    write!(f, "\n{title:<14}")?;
    for n in &columns {
        write!(f, "{:>13}", Memory::default().uses()[*n].0)?;
    }
    writeln!(f, "{:>13}", "sum")?;
    for (stage, memory) in stages.iter().enumerate() {
        write!(f, "{:<14}", format!("stage {stage}"))?;
        for n in &columns {
            write!(f, "{:>13}", figure(memory.uses()[*n].1))?;
        }
        writeln!(f, "{:>13}", figure(memory.total()))?;
    }
    Ok(())
}
