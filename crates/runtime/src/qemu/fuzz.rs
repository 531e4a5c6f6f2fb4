//! What a guest writes to its console, and what a hypervisor that it took over says on its monitor.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fuzz::{Target, outcome};
use serde_json::{Value, json};

use super::log::{RingLog, Tail};
use super::qmp::Qmp;
use crate::limits::{
    LINE_CHARS_MAX, LOG_BYTES_MAX, QMP_LINE_BYTES_MAX, QMP_LINES_MAX, TAIL_BYTES_MAX,
    TAIL_LINES_MAX,
};

const PANIC: &str = "Kernel panic - not syncing";

#[test]
fn consoles() {
    let boot = "[    1.204391] dormouse-agent: up\r\n[    1.3] EXT4-fs (vdb): mounted\r\n";
    let panic = format!("[    2.0] {PANIC}: Attempted to kill init! exitcode=0x00000009\r\n");
    let screen = "\x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[0m \u{9b}31m \u{202e}txet\r\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console.log");
    let target = Target {
        name: "console",
        examples: [boot, &panic, screen, "ä\u{fffd}\0\r\r\n\n"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec(),
        words: &[PANIC.as_bytes(), b"\r\n", b"\x1b[", b"\xc2", b"\xff\xfe", b"\x7f"],
        bytes_max: 32 << 10,
        // Some copies of the tail as text, in which a byte may become three.
        memory_max: 32 * TAIL_BYTES_MAX,
    };
    target.run(|input| {
        let mut log = RingLog::open(&path).unwrap();
        let mut tail = Tail::default();
        // As it comes out of a pipe.
        for piece in input.chunks(input.first().map_or(1, |byte| 16 * usize::from(*byte) + 1)) {
            log.write(piece);
            tail.push(piece);
        }
        let (text, found) = (tail.text(), tail.find(PANIC));
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.lines().count() <= TAIL_LINES_MAX);
        for line in text.lines().chain(found.as_deref()) {
            assert!(line.chars().count() <= LINE_CHARS_MAX, "{line:?}");
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= LOG_BYTES_MAX + (32 << 10));
        vec![outcome((text.lines().count(), found.is_some(), text.contains('\u{fffd}')))]
    });
}

#[test]
fn monitors() {
    let hello = "{\"QMP\": {\"version\": {}}}\n{\"return\": {}, \"id\": 1}\n";
    let answers = [
        "{\"return\": {\"status\": \"completed\"}, \"id\": 2}\n",
        "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1}}\n{\"return\": {}, \"id\": 2}\n",
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}, \"id\": 2}\n",
    ];
    let target = Target {
        name: "monitor",
        examples: answers.map(|answer| format!("{hello}{answer}").into_bytes()).to_vec(),
        words: &[b"\n", b"{\"return\":", b"{\"event\": 1}\n", b"[[[[[[[[[[", b"\\ud800"],
        bytes_max: QMP_LINE_BYTES_MAX + 1024,
        memory_max: 40 * QMP_LINE_BYTES_MAX,
    };
    target.run(|input| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(input).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let said = Qmp::negotiate(ours).and_then(|mut qmp| qmp.execute("stop", json!({})));
        vec![outcome(said.map(|value| value.is_object()).map_err(|error| error.kind()))]
    });
}

/// The number of a command, and what became of it.
type Answer = (u64, Result<Value, ErrorKind>);

/// A monitor that says this, line by line, and what has to be made of it.
struct Says<'a> {
    stream: UnixStream,
    bytes: &'a [u8],
    /// So much of it was sent, is to be said before the next step, and was read.
    sent: usize,
    said: usize,
    read: usize,
    has_ended: bool,
    asked: u64,
    answered: u64,
}

impl<'a> Says<'a> {
    fn new(stream: UnixStream, bytes: &'a [u8]) -> Self {
        let (sent, said, read, has_ended, asked, answered) = Default::default();
        Self { stream, bytes, sent, said, read, has_ended, asked, answered }
    }

    /// Where the line ends that begins there.
    fn end(&self, from: usize) -> Option<usize> {
        self.bytes[from..].iter().position(|byte| *byte == b'\n').map(|end| from + end + 1)
    }

    /// Runs ahead by so many lines.
    fn say(&mut self, lines: usize) {
        for _ in 0..lines {
            let Some(end) = self.end(self.said) else { break };
            self.said = end;
        }
    }

    /// In one piece: a socket holds few small ones.
    fn send(&mut self) {
        self.stream.write_all(&self.bytes[self.sent..self.said]).unwrap();
        self.sent = self.said;
        if self.has_ended {
            self.stream.shutdown(Shutdown::Write).unwrap();
        }
    }

    fn line(&mut self) -> Result<Value, ErrorKind> {
        let end = self.end(self.read);
        let line = &self.bytes[self.read..end.unwrap_or(self.bytes.len())];
        self.read += line.len();
        self.said = self.said.max(self.read);
        self.has_ended |= end.is_none();
        match end {
            _ if line.len() > QMP_LINE_BYTES_MAX => Err(ErrorKind::InvalidData),
            None => Err(ErrorKind::UnexpectedEof),
            Some(_) => serde_json::from_slice(line).map_err(|_| ErrorKind::InvalidData),
        }
    }

    /// The next line, where it answers a command that was given.
    fn answer(&mut self) -> Result<Option<Answer>, ErrorKind> {
        let line = self.line()?;
        let Some(of) = line.get("id").and_then(Value::as_u64) else { return Ok(None) };
        let answer = match (line.get("return"), line.get("error")) {
            (Some(done), _) => Ok(done.clone()),
            (None, Some(_)) => Err(ErrorKind::Other),
            (None, None) => return Ok(None),
        };
        if of > self.asked {
            return Ok(None);
        }
        self.answered = self.answered.max(of);
        Ok(Some((of, answer)))
    }

    fn execute(&mut self) -> Result<Value, ErrorKind> {
        self.asked += 1;
        loop {
            if let Some((_, answer)) = self.answer()?.filter(|(of, _)| *of == self.asked) {
                return answer;
            }
        }
    }

    fn give_up(&mut self) -> Result<Value, ErrorKind> {
        self.asked += 1;
        Err(ErrorKind::TimedOut)
    }

    fn forget(&mut self) -> Result<Value, ErrorKind> {
        let mut lines = 0;
        while self.read < self.said && lines < QMP_LINES_MAX {
            self.answer()?;
            lines += 1;
        }
        Ok(json!(lines > 0))
    }
}

/// Enough for what was said already.
const SAID_WITHIN: Duration = Duration::from_secs(5);
/// What is done with a monitor, one byte each: what, and by how many lines it runs ahead.
const STEPS: usize = 6;
const EXECUTE: u8 = 0;
const GIVE_UP: u8 = 1;
const FORGET: u8 = 2;

/// Monitors that say something unasked, late, or to nobody.
#[test]
fn events_and_late_answers() {
    let hello = "{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n";
    let event = "{\"event\": \"STOP\"}\n";
    let done = |id: u64| format!("{{\"return\": {}, \"id\": {id}}}\n", 10 * id);
    let refused = |id: u64| format!("{{\"error\": {{\"desc\": \"no\"}}, \"id\": {id}}}\n");
    let step = |what, ahead: u8| what | ahead << 2;
    let one = |steps: [u8; STEPS], said: &[&str]| {
        [&steps, hello.as_bytes(), said.concat().as_bytes()].concat()
    };
    let (execute, give_up, forget) = (step(EXECUTE, 0), step(GIVE_UP, 0), step(FORGET, 3));
    let late = [give_up, forget, execute, give_up, execute, forget];
    let ahead = [execute, step(EXECUTE, 5), forget, execute, give_up, forget];
    // More than is forgotten at once.
    let mut flood = [step(GIVE_UP, 63); STEPS];
    flood[STEPS - 1] = step(FORGET, 63);
    let (events, odd) = (event.repeat(280), "{\"id\": 2}\n{\"id\": \"3\"}\n[]\n");
    let examples = vec![
        one(late, &[event, &done(2), event, &done(3), &done(4), &refused(5), event, event]),
        one(late, &[odd, &refused(2), &done(9), &done(3), &done(3), event, &refused(5), event]),
        one(ahead, &[event, &done(2), event, &done(3), event, &done(3), &done(4), event, odd]),
        one(ahead, &[&done(3), &done(2), &refused(4), event, &done(3), &done(4), &done(5), event]),
        one(flood, &[&events, &done(6), event, event]),
    ];
    let words = ["\n", event, "{\"id\": 3}\n", &done(2), &refused(3), &done(4), &done(5)];
    let target = Target {
        name: "monitor-late",
        examples,
        words: &words.map(str::as_bytes),
        bytes_max: QMP_LINE_BYTES_MAX + 1024,
        memory_max: 40 * QMP_LINE_BYTES_MAX,
    };
    target.run(|input| {
        let Some((steps, bytes)) = input.split_first_chunk::<STEPS>() else { return vec![] };
        let (ours, stream) = UnixStream::pair().unwrap();
        let mut says = Says::new(stream, bytes);
        let greets = says.line().and_then(|line| match line.get("QMP") {
            Some(_) => says.execute().map(drop),
            None => Err(ErrorKind::InvalidData),
        });
        says.send();
        let met = Qmp::negotiate(ours);
        assert_eq!(met.as_ref().map(drop).map_err(std::io::Error::kind), greets);
        let Ok(mut qmp) = met else { return vec![outcome(greets)] };
        let mut made = Vec::new();
        for step in steps {
            says.say(usize::from(step >> 2));
            let (what, comes) = match step & 3 {
                GIVE_UP => ("give up", says.give_up()),
                FORGET => ("forget", says.forget()),
                _ => ("execute", says.execute()),
            };
            says.send();
            qmp.begin_within(if what == "give up" { Duration::ZERO } else { SAID_WITHIN });
            let came = match what {
                "forget" => qmp.forget_events().map(Value::from),
                _ => qmp.execute("cont", json!({})),
            };
            let came = came.map_err(|error| error.kind());
            assert_eq!(came, comes, "{what} {}", says.asked);
            let owes = says.answered < says.asked;
            assert_eq!(qmp.owes_answer(), owes, "{what} {}", says.asked);
            made.push(outcome((what, owes, came.as_ref().map(Value::is_object))));
            if !matches!(came, Ok(_) | Err(ErrorKind::Other | ErrorKind::TimedOut)) {
                break;
            }
        }
        made
    });
}
