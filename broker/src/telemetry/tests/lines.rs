use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::clock::SystemClock;

const PATIENCE: Duration = Duration::from_secs(20);

/// A log whose reader reads only when told to.
struct Pipe {
    written: Arc<Mutex<Vec<u8>>>,
    stuck: Sender<()>,
    go_on: Receiver<()>,
}

impl Write for Pipe {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.stuck.send(());
        // An error means that the reader reads everything from now on.
        let _ = self.go_on.recv();
        self.written.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reader {
    written: Arc<Mutex<Vec<u8>>>,
    stuck: Receiver<()>,
    go_on: Sender<()>,
}

fn stopped(format: LogFormat) -> (Lines, Reader, Arc<Metrics>) {
    let metrics = Metrics::new([], [], Arc::new(SystemClock));
    let ((stuck, is_stuck), (go_on, goes_on)) = (channel(), channel());
    let written = Arc::new(Mutex::default());
    let pipe = Pipe { written: Arc::clone(&written), stuck, go_on: goes_on };
    let lines = Lines::start(pipe, format, Arc::clone(&metrics)).unwrap();
    (lines, Reader { written, stuck: is_stuck, go_on }, metrics)
}

impl Reader {
    fn read_on(self) -> Arc<Mutex<Vec<u8>>> {
        drop(self.go_on);
        self.written
    }
}

fn text(written: &Mutex<Vec<u8>>) -> String {
    String::from_utf8(written.lock().unwrap().clone()).unwrap()
}

#[tokio::test]
async fn a_reader_that_stops_loses_lines_and_stops_nobody() {
    let (mut lines, reader, metrics) = stopped(LogFormat::Json);
    lines.write_all(b"{\"n\":0}\n").unwrap();
    reader.stuck.recv().unwrap();
    for n in 1..=MOST_LINES + 3 {
        lines.write_all(format!("{{\"n\":{n}}}\n").as_bytes()).unwrap();
    }
    assert_eq!(metrics.log_lines_lost.get(), 3);
    assert!(!lines.written(Duration::from_millis(1)).await, "nobody reads");

    let written = reader.read_on();
    assert!(lines.written(PATIENCE).await);
    lines.write_all(b"{\"n\":-1}\n").unwrap();
    assert!(lines.written(PATIENCE).await);
    let read: Vec<serde_json::Value> = text(&written).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read.len(), MOST_LINES + 3);
    // The gap is told where it is, after the last line before it.
    assert_eq!(read[MOST_LINES]["n"], MOST_LINES);
    assert_eq!(read[MOST_LINES + 1]["lost"], 3);
    assert_eq!(read[MOST_LINES + 2]["n"], -1);
}

#[tokio::test]
async fn long_lines_take_bounded_memory() {
    let (mut lines, reader, metrics) = stopped(LogFormat::Text);
    lines.write_all(b"first\n").unwrap();
    reader.stuck.recv().unwrap();
    let long = vec![b'x'; MOST_BYTES / 4];
    for _ in 0..6 {
        lines.write_all(&long).unwrap();
    }
    assert_eq!(metrics.log_lines_lost.get(), 2);
    assert_eq!(lines.0.queue.lock().bytes, MOST_BYTES);
    let written = reader.read_on();
    assert!(lines.written(PATIENCE).await);
    assert!(text(&written).ends_with("lost=2\n"));
}

#[tokio::test]
async fn the_thread_ends_with_the_last_who_could_log_and_leaves_no_line_behind() {
    let (mut lines, reader, _metrics) = stopped(LogFormat::Text);
    lines.write_all(b"last\n").unwrap();
    let mut done = lines.0.done.clone();
    drop(lines);
    let written = reader.read_on();
    timeout(PATIENCE, done.wait_for(|done| *done == 1)).await.unwrap().unwrap();
    assert!(timeout(PATIENCE, done.changed()).await.unwrap().is_err(), "its end closes the channel");
    assert_eq!(text(&written), "last\n");
}
