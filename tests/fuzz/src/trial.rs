//! One input through the target, and the smallest that fails as it does.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::Duration;

use crate::corpus::Corpus;
use crate::{Verdict, bound};

/// Of processor time, in a build without optimisation.
const LONGEST: Duration = Duration::from_secs(2);
/// Attempts at making a failing input smaller.
const SHRINKING: usize = 4000;

pub(crate) struct Trial<'a, T> {
    corpus: &'a Corpus,
    bytes: (usize, usize),
    target: T,
    most: Most,
}

/// The costliest input so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Most {
    allocated: usize,
    worked: Duration,
}

impl<'a, T: FnMut(&[u8]) -> Verdict> Trial<'a, T> {
    pub(crate) fn new(corpus: &'a Corpus, bytes: (usize, usize), target: T) -> Self {
        Self { corpus, bytes, target, most: Most::default() }
    }

    pub(crate) fn most(&self) -> Most {
        self.most
    }

    #[expect(clippy::panic, reason = "it is how a test fails")]
    pub(crate) fn run(&mut self, input: &[u8]) -> Verdict {
        match self.attempt(input) {
            Ok(verdict) => verdict,
            Err(said) => {
                let smallest = quietly(|| self.shrink(input.to_vec()));
                let path = self.corpus.keep_failing(&smallest);
                let shown = String::from_utf8_lossy(&smallest);
                panic!("{said}\nby {shown:?}, which is kept in {}", path.display());
            }
        }
    }

    fn attempt(&mut self, input: &[u8]) -> Result<Verdict, String> {
        let (asked, worked) = (bound::asked(), bound::worked());
        let verdict = panic::catch_unwind(AssertUnwindSafe(|| (self.target)(input))).map_err(|panic| said(&*panic))?;
        let (allocated, worked) = (bound::asked().wrapping_sub(asked), bound::worked().saturating_sub(worked));
        self.most = Most { allocated: self.most.allocated.max(allocated), worked: self.most.worked.max(worked) };
        let (base, per_byte) = self.bytes;
        let allowed = base + per_byte * input.len();
        if allocated > allowed {
            return Err(format!("{allocated} bytes were allocated for {}, of {allowed} allowed", input.len()));
        }
        if worked > LONGEST {
            return Err(format!("{} bytes took {worked:?} to process", input.len()));
        }
        Ok(verdict)
    }

    fn shrink(&mut self, mut input: Vec<u8>) -> Vec<u8> {
        let mut attempts = SHRINKING;
        let mut piece = input.len() / 2;
        while piece > 0 {
            let mut at = 0;
            while at < input.len() && attempts > 0 {
                attempts -= 1;
                let mut smaller = input.clone();
                smaller.drain(at..(at + piece).min(input.len()));
                if self.attempt(&smaller).is_err() {
                    input = smaller;
                } else {
                    at += piece;
                }
            }
            piece /= 2;
        }
        input
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Panics on the way to the smallest input are of no interest.
fn quietly<R>(work: impl FnOnce() -> R) -> R {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
    QUIET.set(true);
    let result = work();
    QUIET.set(false);
    result
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} bytes allocated and {:?} taken", self.allocated, self.worked)
    }
}
