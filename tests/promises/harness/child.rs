//! A server in a process of its own, as people run it. It can be killed.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use icebox::proto::backup_service_client::BackupServiceClient;
use tonic::transport::Channel;

/// A running `icebox serve`. Killed when dropped.
pub(crate) struct ChildServer {
    process: Child,
    address: String,
}

impl ChildServer {
    /// Starts a server over `store` on a free port.
    pub(crate) fn start(store: &Path) -> ChildServer {
        ChildServer::start_as(Command::new(env!("CARGO_BIN_EXE_icebox")), store)
    }

    /// The same, but the server writes the store's file anew all the time.
    pub(crate) fn start_rewriting(store: &Path) -> ChildServer {
        let mut icebox = Command::new(env!("CARGO_BIN_EXE_icebox"));
        icebox.env("ICEBOX_REWRITE_FLOOR_MIB", "0");
        ChildServer::start_as(icebox, store)
    }

    /// Like [`ChildServer::start`], in a process that may have only this many files open.
    pub(crate) fn start_with_files(store: &Path, files_max: u32) -> ChildServer {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            &format!("ulimit -n {files_max} && exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_icebox"),
        ]);
        ChildServer::start_as(shell, store)
    }

    /// Starts `icebox`, or a program that becomes it.
    pub(crate) fn start_as(icebox: Command, store: &Path) -> ChildServer {
        ChildServer::spawn(icebox, "127.0.0.1:0", store)
    }

    /// Starts a server over `store` that listens on this address.
    pub(crate) fn start_on(listen: &str, store: &Path) -> ChildServer {
        ChildServer::spawn(Command::new(env!("CARGO_BIN_EXE_icebox")), listen, store)
    }

    /// Starts `icebox`, or a program that becomes it, to listen on this address.
    pub(crate) fn spawn(mut icebox: Command, listen: &str, store: &Path) -> ChildServer {
        let mut process = icebox
            .args(["serve", "--listen", listen, "--cache-mib", "16", "--store"])
            .arg(store)
            // A log line for each change would hide what a test prints.
            .env("ICEBOX_LOG", "warn")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(process.stderr.take().expect("piped"));
        let mut first_line = String::new();
        log.read_line(&mut first_line).expect("a line");
        let first: serde_json::Value = serde_json::from_str(&first_line)
            .unwrap_or_else(|_| panic!("the first line is {first_line:?}"));
        let address = first["fields"]["address"]
            .as_str()
            .expect("it says where it listens")
            .to_owned();
        // The rest of its output must be read, or it would block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        ChildServer { process, address }
    }

    async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.address);
        Channel::from_shared(uri)
            .expect("a URI")
            .connect()
            .await
            .expect("the server listens")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The processor time that it has used so far, in clock ticks.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()));
        let stat = stat.expect("it runs");
        // The name before the fields is in parentheses; user and system time are the 14th and 15th field.
        let fields = stat
            .rsplit(')')
            .next()
            .expect("the name ends")
            .split_whitespace();
        fields
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum()
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn backups(&self) -> BackupServiceClient<Channel> {
        BackupServiceClient::new(self.channel().await)
    }

    /// Ends the process at once: SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(self) -> ExitStatus {
        self.ask_to_end();
        self.wait()
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.process.wait().expect("it ends")
    }

    pub(crate) fn ask_to_end(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Asks it to read its files again.
    pub(crate) fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        // In most tests it has ended already; this is for tests that fail.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
