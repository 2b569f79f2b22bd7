//! Everything queued becomes one write, then everybody is answered. Done by a call that finds it easy, or by the thread.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::directory::{Directory, LockError, sync_names};
use super::head::Head;
use super::key::SigningKey;
use super::line::{Body, Chain};
use super::log::{Failing, Status, Unavailable};
use super::notices::Notices;
use super::queue::{Batch, Queue};
use super::recovery::{HeadState, Tail};
use super::segment::Segment;
use super::syncer::Handoff;
use super::verify::checkpoint_message;
use super::{Mode, Settings};
use crate::clock::SharedClock;

/// A write that takes longer is not what a call's thread is for: the next ones, for a while, are left to the log's own.
/// Shorter waits are mostly for the processor.
const SLOW: Duration = Duration::from_millis(20);
const WARY_FOR: Duration = Duration::from_secs(1);

const FORMAT: u64 = 1;

#[derive(Debug)]
pub(super) struct Writer {
    directory: Directory,
    settings: Settings,
    node: Arc<str>,
    clock: SharedClock,
    key: SigningKey,
    queue: Arc<Queue>,
    handoff: Arc<Handoff>,
    status: Arc<Status>,

    chain: Chain,
    segment: Option<Arc<Segment>>,
    /// A partial write is still in the file, because it could not be taken away.
    torn: bool,
    notices: Notices,
    signed: u64,
    /// What the head of an earlier process vouches for.
    signed_on_disk: u64,
    signed_at: Instant,
    wary_until: Instant,
    batch: Batch,
    out: Vec<u8>,
    body: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        directory: Directory,
        settings: Settings,
        node: Arc<str>,
        clock: SharedClock,
        key: SigningKey,
        tail: Tail,
    ) -> Self {
        let signed_at = clock.monotonic();
        Self {
            directory,
            settings,
            node,
            clock,
            key,
            queue: Arc::default(),
            handoff: Arc::default(),
            status: Arc::default(),
            signed: tail.synced,
            signed_on_disk: tail.synced,
            chain: tail.chain,
            segment: tail.segment.map(Arc::new),
            torn: false,
            notices: Notices { opened: Some(tail.recovery), ..Notices::default() },
            signed_at,
            wary_until: signed_at,
            batch: Batch::default(),
            out: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(super) fn connect(&mut self, queue: Arc<Queue>, handoff: Arc<Handoff>, status: Arc<Status>) {
        self.queue = queue;
        self.handoff = handoff;
        self.status = status;
        self.status.change(|status| status.synced_sequence = self.signed_on_disk);
    }

    /// Says that the log was opened; where there was none, the head comes first, so that no log is ever without one.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        if self.notices.opened.as_ref().is_some_and(|found| found.head == HeadState::New) {
            let genesis = Head::sign(&self.key, &self.node, 0, &Chain::GENESIS.head, now);
            genesis.store(self.directory.path())?;
            sync_names(self.directory.path())?;
        }
        self.write(&mut Batch::default())
    }

    /// Writes what is queued, and does whatever else is due.
    pub(super) fn turn(&mut self) {
        self.notice_losses();
        self.write_queued();
    }

    fn write_queued(&mut self) {
        // Taken out, so that nobody is left waiting where this is the end of it.
        let mut batch = std::mem::take(&mut self.batch);
        self.queue.take(&mut batch);
        self.write_or_refuse(&mut batch);
        self.queue.settled();
        self.batch = batch;
    }

    /// The same on the thread of a call, which has better things to do: only where nothing but a write is due, and the
    /// disk has been quick to take the last ones. Whether it was done.
    pub(super) fn turn_for_a_call(&mut self) -> bool {
        self.notice_losses();
        let now = self.clock.monotonic();
        let has_room = self.segment.as_ref().is_some_and(|segment| segment.length() < self.settings.roll_at);
        let is_easy = has_room
            && !self.torn
            && self.notices.is_empty()
            && now >= self.wary_until
            && now.saturating_duration_since(self.signed_at) < self.settings.checkpoint_interval;
        if is_easy {
            self.write_queued();
        }
        is_easy
    }

    /// The last of it: what is still queued, and a signed end. The directory is ours until that is on the disk.
    pub(super) fn end(mut self) -> Directory {
        self.handoff.look();
        self.turn();
        if self.chain.last() > self.signed {
            let _ = self.seal();
        }
        self.directory
    }

    fn write_or_refuse(&mut self, batch: &mut Batch) {
        let overflow = self.queue.take_refused();
        if overflow > 0 {
            self.notices.refused(overflow, "the queue was full", self.clock.now());
        }
        if batch.is_empty() && self.segment.is_some() && self.notices.is_empty() && !self.checkpoint_is_due(&self.chain)
        {
            return;
        }
        if let Err(error) = self.write(batch) {
            let reason = error.to_string();
            self.notices.refused(batch.len() as u64, &reason, self.clock.now());
            self.report_gap();
            batch.refuse(&Unavailable::new(reason));
        }
    }

    /// Writes the batch and answers it, or hands it on to be synced; on error nothing of it is in the log.
    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        let segment = self.usable_segment()?;
        let mut chain = self.chain.clone();
        self.out.clear();
        self.notices.append(&mut chain, &mut self.out, &mut self.body, self.clock.now(), &self.node);
        let first = chain.next;
        for body in batch.bodies() {
            chain.append(&mut self.out, body);
        }
        let head = if self.checkpoint_is_due(&chain) { Some(self.append_checkpoint(&mut chain)) } else { None };
        self.put(&segment)?;
        self.notices.settle();
        let synced = self.settings.mode == Mode::Synced;
        self.adopt(chain, &segment, head, |waiters| {
            if synced {
                batch.hand_over(first, waiters);
            }
        });
        batch.accept(first);
        Ok(())
    }

    /// The current file, or the next one where it is full or lost.
    fn usable_segment(&mut self) -> io::Result<Arc<Segment>> {
        match self.segment.clone() {
            None => self.start_segment(),
            Some(segment) => {
                if self.torn {
                    segment.undo_partial_write()?;
                    self.torn = false;
                }
                if segment.length() < self.settings.roll_at {
                    return Ok(segment);
                }
                self.seal()?;
                self.start_segment()
            }
        }
    }

    /// Signs the end of the current file.
    fn seal(&mut self) -> io::Result<()> {
        let Some(segment) = self.segment.clone() else {
            return Ok(());
        };
        if self.chain.last() == self.signed {
            return Ok(());
        }
        let mut chain = self.chain.clone();
        self.out.clear();
        let head = self.append_checkpoint(&mut chain);
        self.put(&segment)?;
        self.adopt(chain, &segment, Some(head), |_| {});
        Ok(())
    }

    fn start_segment(&mut self) -> io::Result<Arc<Segment>> {
        self.directory.keep_lock().map_err(|error| match error {
            LockError::Held => io::Error::other("another process has taken its directory"),
            LockError::Io(error) => error,
        })?;
        let segment = Arc::new(Segment::create(self.directory.path(), self.chain.next)?);
        let mut chain = self.chain.clone();
        self.out.clear();
        let now = self.clock.now();
        let mut body = Body::begin(&mut self.body, "header", now, &self.node);
        body.number("format", FORMAT);
        body.text("key", self.key.id());
        chain.append(&mut self.out, &self.body);
        self.notices.append(&mut chain, &mut self.out, &mut self.body, now, &self.node);
        let started = segment.write(&self.out).and_then(|()| self.prove_disk(&segment));
        if let Err(error) = started {
            segment.remove();
            return Err(error);
        }
        self.notices.settle();
        self.torn = false;
        self.segment = Some(Arc::clone(&segment));
        self.adopt(chain, &segment, None, |_| {});
        Ok(segment)
    }

    /// After a loss a write proves nothing: only a sync does.
    fn prove_disk(&self, segment: &Segment) -> io::Result<()> {
        if self.notices.losses.is_empty() {
            return Ok(());
        }
        segment.sync().map_err(|kind| io::Error::other(kind.to_string()))?;
        sync_names(self.directory.path())?;
        segment.set_named();
        Ok(())
    }

    fn put(&mut self, segment: &Segment) -> io::Result<()> {
        let begun = self.clock.monotonic();
        let written = segment.write(&self.out).inspect_err(|_| self.torn = segment.undo_partial_write().is_err());
        let now = self.clock.monotonic();
        if now.saturating_duration_since(begun) > SLOW {
            self.wary_until = now + WARY_FOR;
        }
        written
    }

    /// Makes what was written the chain's end.
    fn adopt(
        &mut self,
        chain: Chain,
        segment: &Arc<Segment>,
        head: Option<Head>,
        add_waiters: impl FnOnce(&mut Vec<(u64, tokio::sync::oneshot::Sender<super::queue::Answer>)>),
    ) {
        if let Some(head) = &head {
            self.signed = head.seq;
            self.signed_at = self.clock.monotonic();
        }
        self.status.change(|status| {
            status.written_lines += chain.next - self.chain.next;
            status.written_bytes += self.out.len() as u64;
            status.last_sequence = chain.last();
            status.head = chain.head;
            status.failing = None;
            if self.chain.next == segment.first || status.file.is_empty() {
                status.file = segment.name();
            }
        });
        self.chain = chain;
        self.handoff.written(segment, self.chain.last(), head, add_waiters);
    }

    fn checkpoint_is_due(&self, chain: &Chain) -> bool {
        chain.last() > self.signed
            && self.clock.monotonic().saturating_duration_since(self.signed_at) >= self.settings.checkpoint_interval
    }

    fn append_checkpoint(&mut self, chain: &mut Chain) -> Head {
        let now = self.clock.now();
        let message = checkpoint_message(&self.node, chain.next, &chain.head, &now.to_string());
        let mut body = Body::begin(&mut self.body, "checkpoint", now, &self.node);
        body.text("key", self.key.id());
        body.base64("signature", &self.key.sign(&message));
        chain.append(&mut self.out, &self.body);
        Head::sign(&self.key, &self.node, chain.last(), &chain.head, now)
    }

    /// After any loss the log goes on in a new file, since beginning one proves that the disk takes records.
    fn notice_losses(&mut self) {
        let mut losses = self.handoff.take_losses();
        losses.extend(self.segment.as_ref().and_then(|segment| segment.take_loss()));
        if losses.is_empty() {
            return;
        }
        self.segment = None;
        for loss in &losses {
            loss.tell(&self.status);
        }
        self.notices.losses.extend(losses);
    }

    fn report_gap(&self) {
        let Some(gap) = &self.notices.gap else { return };
        let failing = Failing { since: gap.since, refused: gap.refused, reason: gap.reason.clone() };
        self.status.change(|status| status.failing = Some(failing));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::audit::key::PublicKeys;
    use crate::audit::recovery::recover;
    use crate::audit::syncer::Syncer;
    use crate::audit::verify;
    use crate::clock::SystemClock;

    fn writer(folder: &std::path::Path) -> Writer {
        let settings = Settings {
            directory: folder.join("log"),
            mode: Mode::Written,
            sync_interval: Duration::from_secs(1),
            checkpoint_interval: Duration::from_secs(3600),
            roll_at: 1024 * 1024,
            signing_key: folder.join("audit.pem"),
        };
        let directory = Directory::open(&settings.directory).unwrap();
        let key = SigningKey::load_or_create(&settings.signing_key).unwrap();
        key.publish(directory.path()).unwrap();
        let keys = PublicKeys::beside(directory.path()).unwrap();
        let tail = recover(directory.path(), &keys).unwrap();
        Writer::new(directory, settings, "node-1".into(), Arc::new(SystemClock), key, tail)
    }

    fn push(writer: &Writer) -> oneshot::Receiver<crate::audit::queue::Answer> {
        let (waiter, answer) = oneshot::channel();
        writer.queue.push(br#""kind":"call","time":"","node":"""#, Some(waiter)).unwrap();
        answer
    }

    #[test]
    fn after_a_failed_sync_the_log_goes_on_in_a_new_file_and_names_the_records_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path());
        writer.begin().unwrap();
        let _answer = push(&writer);
        writer.turn();
        let segment = writer.segment.clone().unwrap();
        segment.not_synced(&io::Error::from(rustix::io::Errno::IO));
        // The kernel reports a failure once; the next success says nothing about what was lost.
        assert!(segment.sync().is_err());

        let mut answer = push(&writer);
        assert!(!writer.turn_for_a_call(), "a new file is not for a call to begin");
        writer.turn();
        assert_eq!(answer.try_recv().unwrap(), Ok(6));
        let next = writer.segment.clone().unwrap();
        assert_eq!(next.first, 4);
        let text = std::fs::read_to_string(folder.path().join("log").join(next.name())).unwrap();
        assert!(text.contains(r#""how":"not synced","reason":"Input/output error (os error 5)","first":1,"last":3"#));
        assert_eq!(verify(&folder.path().join("log"), None).unwrap().problems, []);
    }

    #[test]
    fn a_call_writes_what_is_queued_unless_more_is_due_than_a_write() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path());
        writer.begin().unwrap();
        let mut asked = |change: &dyn Fn(&mut Writer)| {
            let mut answer = push(&writer);
            change(&mut writer);
            let easy = writer.turn_for_a_call();
            let written = answer.try_recv();
            assert_eq!(easy, written.is_ok());
            writer.turn();
            assert!(easy || answer.try_recv().unwrap().is_ok(), "the thread writes it");
            easy
        };
        assert!(asked(&|_| {}));
        assert!(!asked(&|writer| writer.wary_until = writer.clock.monotonic() + WARY_FOR));
        assert!(asked(&|writer| writer.wary_until = writer.clock.monotonic()));
        assert!(!asked(&|writer| writer.settings.roll_at = 1), "a file is full");
        assert!(asked(&|writer| writer.settings.roll_at = 1024 * 1024));
        assert!(!asked(&|writer| writer.settings.checkpoint_interval = Duration::ZERO), "a signature is due");
        assert_eq!(verify(&folder.path().join("log"), None).unwrap().problems, []);
    }

    #[test]
    fn a_failed_sync_of_a_sealed_file_is_told_with_its_range_and_stops_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path());
        writer.begin().unwrap();
        let sealed = writer.segment.clone().unwrap();
        writer.settings.roll_at = 1;
        let _answer = push(&writer);
        writer.turn();
        let current = writer.segment.clone().unwrap();
        assert_eq!((sealed.last(), current.first), (3, 4));
        sealed.not_synced(&io::Error::from(rustix::io::Errno::IO));

        let syncer = Syncer {
            directory: folder.path().join("log"),
            interval: Duration::ZERO,
            handoff: Arc::clone(&writer.handoff),
            status: Arc::clone(&writer.status),
        };
        syncer.turn();
        syncer.turn();
        assert_eq!(writer.status.lock().synced_sequence, 0, "lost records count as synced");
        writer.settings.roll_at = 1024 * 1024;
        let _answer = push(&writer);
        writer.turn();
        syncer.turn();
        let status = writer.status.lock().clone();
        assert_eq!(status.synced_sequence, status.last_sequence);
        let loss = status.loss.unwrap();
        assert_eq!((status.losses, loss.first, loss.last), (1, 1, 3));
        let text = std::fs::read_to_string(folder.path().join("log").join(status.file)).unwrap();
        assert!(text.contains(r#""how":"not synced","reason":"Input/output error (os error 5)","first":1,"last":3"#));
        assert_eq!(verify(&folder.path().join("log"), None).unwrap().problems, []);
    }
}
