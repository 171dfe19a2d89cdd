//! How readers end: what one of them can find wrong, and the sum over all readers of a run. What is
//! a fault, the readers decide.

use std::fmt;

use crate::report;

/// Why a reader did not get everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Lost(String),
    Corrupt(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Lost(why) | Fault::Corrupt(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Fault {}

/// How the readers of a run ended.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Outcome {
    pub(crate) lost_readers: u64,
    pub(crate) corrupt_readers: u64,
    pub(crate) faults: report::Faults,
}

impl Outcome {
    pub(crate) fn add(&mut self, ending: Result<(), Fault>) {
        match &ending {
            Ok(()) => return,
            Err(Fault::Lost(_)) => self.lost_readers += 1,
            Err(Fault::Corrupt(_)) => self.corrupt_readers += 1,
        }
        if let Err(fault) = ending {
            self.faults.add(fault.to_string());
        }
    }

    pub(crate) fn failed(&self) -> bool {
        self.lost_readers + self.corrupt_readers > 0
    }

    pub(crate) fn text(&self) -> String {
        let Outcome { lost_readers, corrupt_readers, faults } = self;
        format!("{lost_readers} lost, {corrupt_readers} corrupt{}", faults.text())
    }
}
