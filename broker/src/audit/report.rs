//! What a verification found.

use std::fmt;

/// What a log holds and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines of every kind, and how many of them are calls and checkpoints with a good signature.
    pub records: u64,
    pub calls: u64,
    pub checkpoints: u64,
    pub files: u64,
    /// A log whose first sequence is not 1 had older files, removed or archived.
    pub first_sequence: u64,
    pub last_sequence: u64,
    /// Records after the last checkpoint: only the chain speaks for them.
    pub unsigned_tail: u64,
    /// Bytes at the very end that make no whole line: a write in progress, or cut by a crash; a restart removes them.
    pub torn_bytes: u64,
    /// Bytes of unfinished lines that restarts have cut and recorded.
    pub cut_bytes: u64,
    pub problems: Vec<Problem>,
    /// Problems beyond those listed.
    pub more_problems: u64,
}

impl Report {
    pub fn is_intact(&self) -> bool {
        self.problems.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// Counted from 1; 0 where the problem is the file itself.
    pub line: u64,
    /// The sequence number that belongs there, as far as it is known.
    pub sequence: u64,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: record {}: {}", self.file, self.line, self.sequence, self.what)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems = self.problems.len() as u64 + self.more_problems;
        let Self { records, calls, checkpoints, files, first_sequence, last_sequence, .. } = self;
        match problems {
            0 => f.write_str("intact")?,
            1 => f.write_str("1 problem")?,
            _ => write!(f, "{problems} problems")?,
        }
        write!(f, ": records {first_sequence} to {last_sequence} in {files} files; ")?;
        write!(f, "{records} lines, {calls} of them calls, {checkpoints} checkpoints with a good signature; ")?;
        write!(f, "{} records after the last checkpoint", self.unsigned_tail)?;
        if *first_sequence > 1 {
            write!(f, "; records before {first_sequence} are not here, archived or removed")?;
        }
        if self.torn_bytes > 0 {
            write!(f, "; {} bytes of an unfinished line at the end", self.torn_bytes)?;
        }
        if self.cut_bytes > 0 {
            write!(f, "; {} bytes of unfinished lines were cut at restarts", self.cut_bytes)?;
        }
        Ok(())
    }
}
