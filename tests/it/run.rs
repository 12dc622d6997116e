//! `hardtack run`: a real agent, real programs, a real terminal.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

use crate::daemon::{Daemon, Device};

const HARDTACK: &str = env!("CARGO_BIN_EXE_hardtack");

/// A shell script that runs with a task.
/// Whoever runs the tests may ignore signals, and what he starts would inherit that.
const ENV: &str = "/usr/bin/env";
const HEARING: [&str; 1] = ["--default-signal"];

fn command(device: &Device, options: &[&str], script: &str) -> Command {
    let head = ["run", "pump", "--right", "read:meter/*"];
    let command = ["--", "sh", "-c", script, HARDTACK];
    let mut command =
        device.command_of(Command::new(ENV), &[&HEARING[..], &[HARDTACK], &head, options, &command].concat());
    command.env("PATH", "/usr/bin:/bin").env("XDG_RUNTIME_DIR", device.path("")).env("HARDTACK_TOKEN", "another's");
    command
}

struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its number and what it said on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.input.take());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

#[track_caller]
fn ended(daemon: &mut Daemon, task: &str) {
    assert_eq!(daemon.wait_for("task.ended")["task"], task);
}

#[test]
fn a_command_has_its_task_in_its_environment_and_the_task_ends_with_it() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    let script = r#"
        echo "$HARDTACK_TASK_ID $HARDTACK_SOCKET ${HARDTACK_TOKEN-none} ${HARDTACK_RUN_REPORT-none} $$"
        stat -c '%a' "$HARDTACK_TOKEN_FILE" "$(dirname "$HARDTACK_TOKEN_FILE")"
        cat "$HARDTACK_TOKEN_FILE"; echo
        "$0" --run-dir /nowhere authorize --token x --operation read --resource meter/1 2>/dev/null; echo "$?"
        env -u HARDTACK_RUN_DIR "$0" authorize --token "$HARDTACK_TOKEN_FILE" --operation read --resource meter/1
        echo "$HARDTACK_TOKEN_FILE"; read line; exit "$line"
    "#;
    let mut running = Running::start(command(&device, &[], script));
    let first = running.line();
    let [task, socket, none, none_too, pid] = first.split(' ').collect::<Vec<_>>()[..] else { panic!("{first}") };
    assert_eq!(Path::new(socket), device.path("run/agent.sock"), "as curl takes it");
    assert_eq!((none, none_too), ("none", "none"));
    assert_eq!((running.line(), running.line()), ("600".into(), "700".into()));
    let token = running.line();
    assert_eq!(running.line(), "7", "nobody answers there");
    let decision: Value = serde_json::from_str(&running.line()).unwrap();
    assert_eq!(decision["decision"], "allow", "{decision}");
    let listed = device.ok(&["task", "list"]);
    assert_eq!(
        (&listed["tasks"][0]["task_id"], &listed["tasks"][0]["holder"]),
        (&task.into(), &pid.parse::<u32>().unwrap().into())
    );
    let file = running.line();
    running.input.as_mut().unwrap().write_all(b"42\n").unwrap();
    let (code, said) = running.end();
    assert_eq!((code, said.as_str()), (Some(42), ""));
    ended(&mut daemon, task);
    device.decides(&token, "revoked");
    assert!(!std::path::Path::new(&file).parent().unwrap().exists(), "{file} is gone with its folder");

    let by_environment = r#"echo "${HARDTACK_TOKEN_FILE-none} $HARDTACK_TOKEN""#;
    let output = command(&device, &["--env"], by_environment).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let token = said.trim().strip_prefix("none ").unwrap_or_else(|| panic!("{said}"));
    device.decides(token, "revoked");
    daemon.stop();
}

#[test]
fn its_number_is_the_commands_and_nothing_runs_without_a_task() {
    let device = Device::enrolled();
    let daemon = device.start();
    for (script, number) in [("exit 0", 0), ("exit 9", 9), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(command(&device, &[], script).output().unwrap().status.code(), Some(number), "{script}");
    }
    let right = ["--right", "read:meter/*"];
    let run = |class: &str, program: &str| {
        let output = device.run(&[&["run", class], &right[..], &["--", program]].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run("pump", "/nowhere/program").0, Some(127));
    assert_eq!(run("pump", "/etc/passwd").0, Some(126));
    let proof = device.path("ran");
    let touch = format!("touch {}", proof.display());
    let refused = command(&device, &["--right", "write:valve/1"], &touch).output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
    let (code, said) = run("crane", "true");
    assert!(code == Some(3) && said.lines().count() == 1 && said.contains("no_right"), "{code:?} {said}");
    daemon.stop();
    assert_eq!(command(&device, &[], &touch).output().unwrap().status.code(), Some(7), "no agent");
    assert!(!proof.exists());
    let left: Vec<_> = std::fs::read_dir(device.path("")).unwrap().filter_map(Result::ok).collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("hardtack-run-")), "{left:?}");
}

/// Waits for signals; what holds it up reads its standard input.
const TRAPS: &str = r#"
    for s in HUP INT QUIT TERM TSTP CONT USR1 USR2 WINCH; do trap "echo $s" $s; done
    exec 3<&0; cat <&3 >/dev/null 2>&1 & reader=$!
    echo "$HARDTACK_TASK_ID $$"
    while kill -0 $reader 2>/dev/null; do wait $reader; done
    exit 5
"#;

#[test]
fn signals_reach_the_command() {
    let device = Device::enrolled();
    let daemon = device.start();
    let mut running = Running::start(command(&device, &[], TRAPS));
    running.line();
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::TERM, "TERM"),
        (Signal::TSTP, "TSTP"),
        (Signal::CONT, "CONT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        running.signal(signal);
        assert_eq!(running.line(), name);
    }
    assert_eq!(running.end().0, Some(5));
    daemon.stop();
}

#[test]
fn the_command_and_its_task_end_with_the_wrapper_however_that_ends() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    let mut running = Running::start(command(&device, &[], TRAPS));
    let first = running.line();
    let (task, pid) = first.split_once(' ').unwrap();
    running.signal(Signal::KILL);
    // The task is the command's own: it ends because that has.
    let end = daemon.wait_for("task.ended");
    assert_eq!((&end["task"], &end["how"]), (&task.into(), &"gone".into()));
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    running.end();
    daemon.stop();
}

#[test]
fn a_command_whose_task_ends_is_asked_to_end_or_goes_on() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    let script = r#"trap 'exit 9' TERM; exec 3<&0; cat <&3 >/dev/null 2>&1 & echo "$HARDTACK_TASK_ID"; wait; exit 0"#;
    let mut running = Running::start(command(&device, &[], script));
    let task = running.line();
    device.ok(&["task", "finish", &task]);
    ended(&mut daemon, &task);
    // It ends although its input does not.
    let mut rest = String::new();
    running.output.read_to_string(&mut rest).unwrap_or_default();
    let input = running.input.take();
    let (code, said) = running.end();
    drop(input);
    assert!(code == Some(9) && said.contains("was finished"), "{code:?} {said}");

    let deaf = r#"trap '' TERM; echo "$HARDTACK_TASK_ID"; while :; do read line || exit 1; done"#;
    let mut running = Running::start(command(&device, &["--grace", "100ms"], deaf));
    let task = running.line();
    device.ok(&["task", "finish", &task]);
    let input = running.input.take();
    let (code, said) = running.end();
    drop(input);
    assert!(code == Some(137) && said.contains("it is ended"), "{code:?} {said}");

    let mut running =
        Running::start(command(&device, &["--on-end", "keep"], r#"echo "$HARDTACK_TASK_ID"; read line; exit "$line""#));
    let task = running.line();
    device.ok(&["task", "finish", &task]);
    let mut told = [0; 64];
    let read = running.child.stderr.as_mut().unwrap().read(&mut told).unwrap();
    assert!(String::from_utf8_lossy(&told[..read]).contains(&task));
    running.input.as_mut().unwrap().write_all(b"4\n").unwrap();
    assert_eq!(running.end().0, Some(4));
    daemon.stop();
}

#[test]
fn a_command_that_has_used_its_last_use_goes_on() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    let script = r#"
        "$0" authorize --token "$HARDTACK_TOKEN_FILE" --operation read --resource meter/1
        read line; exit "$line"
    "#;
    let mut running = Running::start(command(&device, &["--uses", "1"], script));
    let decision: Value = serde_json::from_str(&running.line()).unwrap();
    assert_eq!(decision["decision"], "allow", "{decision}");
    assert_eq!(daemon.wait_for("task.ended")["how"], "uses_spent");
    let mut told = String::new();
    BufReader::new(running.child.stderr.as_mut().unwrap()).read_line(&mut told).unwrap();
    assert!(told.ends_with("are spent: the command goes on without\n"), "{told}");
    running.input.as_mut().unwrap().write_all(b"42\n").unwrap();
    assert_eq!(running.end().0, Some(42));
    daemon.stop();
}

#[test]
fn the_credential_in_the_file_is_renewed_before_it_ends() {
    check_renewed(0);
}

/// As after an hour without power, with a clock that went on and no uplink.
#[test]
fn it_is_renewed_in_time_where_the_system_clock_leads_what_is_proven() {
    check_renewed(3600);
}

/// What is in the file is good from the first moment on to past its end, at each moment between.
fn check_renewed(ahead_s: u64) {
    let device = Device::enrolled();
    let mut agent = device.command(&["agent", "run"]);
    agent.env("HARDTACK_TEST_CLOCK_OFFSET_S", ahead_s.to_string());
    let daemon = Device::start_by(agent);
    let script = r#"
        ask() { "$0" authorize --token "$HARDTACK_TOKEN_FILE" --operation read --resource meter/1; }
        first=$(cat "$HARDTACK_TOKEN_FILE")
        while [ "$first" = "$(cat "$HARDTACK_TOKEN_FILE")" ]; do ask; sleep 0.05; done
        ask
    "#;
    let output = command(&device, &["--ttl", "6s"], script).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let decisions: Vec<Value> =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>().unwrap();
    assert!(decisions.len() > 1, "asked before it was renewed, and after");
    let denied = decisions.iter().find(|decision| decision["decision"] != "allow");
    assert!(denied.is_none(), "{denied:?}");
    daemon.stop();
}

/// Runs its arguments as the first process of a session on a terminal, and hangs up once they are ready.
const HANGS_UP: &str = r"
import os, pty, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
signal.alarm(60)
said = b''
while b'is ready' not in said:
    said += os.read(terminal, 1024)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

#[test]
fn a_terminal_that_hangs_up_is_heard_by_the_command() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    let script = "trap 'exit 9' HUP; echo is $(echo ready); while :; do sleep 0.02; done";
    let arguments = ["-c", HANGS_UP, HARDTACK, "run", "pump", "--right", "read:meter/*", "--", "sh", "-c", script];
    let mut command = device.command_of(Command::new(ENV), &[&HEARING[..], &["python3"], &arguments].concat());
    let output = command.env("PATH", "/usr/bin:/bin").env("XDG_RUNTIME_DIR", device.path("")).output().unwrap();
    assert_eq!(output.status.code(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
    daemon.wait_for("task.ended");
    daemon.stop();
}

/// A program on a terminal of its own, with somebody who types.
fn on_terminal(device: &Device, run: &str) -> (Running, ChildStdin) {
    let mut command =
        device.command_of(Command::new(ENV), &[&HEARING[..], &["script", "-qec", run, "/dev/null"]].concat());
    command.env("PATH", "/usr/bin:/bin").env("XDG_RUNTIME_DIR", device.path("")).env("TERM", "dumb").env("PS1", "> ");
    let mut running = Running::start(command);
    let input = running.input.take().unwrap();
    (running, input)
}

impl Running {
    /// Reads up to the line that has this. What is typed is echoed as it is written, and what is printed is not.
    #[track_caller]
    fn until(&mut self, needle: &str) -> String {
        loop {
            let mut seen = String::new();
            assert_ne!(self.output.read_line(&mut seen).unwrap(), 0, "no {needle}");
            if seen.contains(needle) {
                return seen;
            }
        }
    }
}

#[test]
fn an_interactive_shell_has_its_terminal() {
    let device = Device::enrolled();
    let daemon = device.start();
    let run = format!("{HARDTACK} run pump --right 'read:meter/*' -- bash --norc --noprofile -i");
    let (mut running, mut input) = on_terminal(&device, &run);
    input.write_all(b"sh -c 'echo is $((6 * 7)); exec sleep 1000'\n").unwrap();
    running.until("is 42");
    // The terminal's signal ends what is in front of it, and the shell stays.
    input.write_all(b"\x03").unwrap();
    input.write_all(b"echo after $((1 + 1)); tty -s && exit 6\n").unwrap();
    running.until("after 2");
    drop(input);
    let (code, said) = running.end();
    assert_eq!(code, Some(6), "{said}");
    daemon.stop();
}

#[test]
fn a_command_that_stops_gives_its_shell_the_terminal_back_and_goes_on_with_it() {
    let device = Device::enrolled();
    let daemon = device.start();
    let (mut running, mut input) = on_terminal(&device, "bash --norc --noprofile -i");
    let mut types = |text: &str| input.write_all(text.as_bytes()).unwrap();
    let run = format!("{HARDTACK} run pump --right 'read:meter/*' -- bash -c");
    // They wait without starting anything: who is stopped while it starts a program stops only when that has started. Each is
    // continued once: a shell and the wrapper may both do so, and what is said at it be said twice.
    let waits = "while :; do read -t 0.02 -u 3; done";
    let command = |on: u8, then: &str| {
        format!(
            "{run} 'trap \"echo on \\$((40 + {on}))\" CONT; exec 3<> <(:); echo is $((6 * 7 + {on})); {then}{waits}'\n"
        )
    };
    types(&command(3, "kill -STOP $$; "));
    running.until("is 45");
    types("echo shell $((1 + 1))\n");
    running.until("shell 2");
    types("fg\n");
    running.until("on 43");
    types("\x03");
    types("echo number $?\n");
    running.until("number 130");
    types(&command(4, ""));
    running.until("is 46");
    types("\x1a");
    types("echo again $((1 + 2))\n");
    running.until("again 3");
    types("fg\n");
    running.until("on 44");
    types("\x03");
    types("echo ended $?\n");
    running.until("ended 130");
    // What does not stop at the terminal's signal stops nothing.
    types(&format!("{run} 'trap \"\" TSTP; echo deaf $((1 + 3)); read line; echo heard $line; exit 8'\n"));
    running.until("deaf 4");
    types("\x1athat\n");
    running.until("heard that");
    types("exit $?\n");
    drop(input);
    let (code, said) = running.end();
    assert_eq!(code, Some(8), "{said}");
    daemon.stop();
}

#[test]
fn without_a_shell_that_could_continue_it_a_stopped_command_has_its_credential_renewed() {
    let device = Device::enrolled();
    let daemon = device.start();
    let script = r#"echo "$HARDTACK_TOKEN_FILE"; cat "$HARDTACK_TOKEN_FILE"; echo " $$"; kill -STOP $$; cat "$HARDTACK_TOKEN_FILE""#;
    let head =
        ["setsid", "--wait", HARDTACK, "run", "pump", "--right", "read:meter/*", "--ttl", "3s", "--", "sh", "-c"];
    let mut command = device.command_of(Command::new(ENV), &[&HEARING[..], &head, &[script]].concat());
    command.env("PATH", "/usr/bin:/bin").env("XDG_RUNTIME_DIR", device.path(""));
    let mut running = Running::start(command);
    let (file, first) = (running.line(), running.line());
    let (first, pid) = first.split_once(' ').unwrap();
    while std::fs::read_to_string(&file).unwrap() == first {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(state.contains(") T "), "{state}");
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::CONT).unwrap();
    let token = running.line();
    assert!(token != first && !token.is_empty(), "{token}");
    assert_eq!(running.end().0, Some(0));
    daemon.stop();
}
