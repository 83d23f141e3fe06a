//! What the experiment ran on.

use serde::Serialize;

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name and family, where the system tells.
    pub processor: String,
    /// Processors this process may use.
    pub cpus: usize,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            processor: processor(&info),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

fn processor(info: &str) -> String {
    let field = |name: &str| {
        let line = info
            .lines()
            .find(|l| l.split(':').next().is_some_and(|k| k.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let Some(name) = field("model name") else {
        return "unknown".to_owned();
    };
    // Virtual machines often give a name that says nothing.
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name}, family {family} model {model}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_named_where_the_system_tells() {
        let info = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n";
        assert_eq!(processor(info), "AMD EPYC, family 25 model 17");
        assert_eq!(processor(""), "unknown");
    }
}
