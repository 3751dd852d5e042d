//! The rules for sessions, how their runs begin and end, and what they share with their member jobs.

use std::collections::BTreeMap;

use prost::{DecodeError, Message};

use super::{
    Filter, Kind, Names, Neighbours, Resource, ResourceId, Stamps, User, Violations,
    identity::identity,
    limits::{DESCRIPTION_BYTES_MAX, SESSION_JOBS_MAX},
    rules,
    schedule::{self, check_schedule},
    wants,
};
use crate::proto::{Job, JobSchedule, Session, SessionFilter, SessionJob};

/// The default `hold_off`: within this many seconds after a start, other members join that run.
const HOLD_OFF_DEFAULT_S: i32 = 30;

/// The statuses of a session. A session that has never begun has an empty one.
const STATUSES: &[&str] = &["running", "completed"];
/// The results of a session.
const RESULTS: &[&str] = &["success", "fail"];

/// The answer to a member that asks whether it may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Run, in the run that has the session's tag.
    Success,
    /// Do not run: a run that you were in has just begun.
    HoldOff,
    /// Do not run: you have missed a run.
    OutOfSync,
}

impl Answer {
    /// Freezer's word for the answer.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Answer::Success => "success",
            Answer::HoldOff => "hold-off",
            Answer::OutOfSync => "out-of-sync",
        }
    }
}

impl Resource for Session {
    const KIND: Kind = Kind {
        tag: b's',
        field: "session",
        id_field: "session_id",
        is_named_by_id: false,
    };
    const OUTPUT_ONLY: &'static [&'static str] = &[
        "user_id",
        "session_tag",
        "status",
        "result",
        "time_start",
        "time_end",
        "jobs",
        "create_time",
        "update_time",
        "revision",
    ];
    const IMMUTABLE: &'static [&'static str] = &["session_id", "project_id"];
    const MERGED: &'static [&'static str] = &[];
    const HAS_NEIGHBOURS: bool = true;
    type Filter = SessionFilter;

    identity!(session_id);

    fn name(&self) -> &str {
        &self.description
    }

    fn client_id(&self) -> &'static str {
        ""
    }

    fn set_client_id(&mut self, _client_id: &str) {}

    fn set_user(&mut self, user: &User, stored: Option<&Self>) {
        // The user who stored it stays: no update changes that. Only an import may set its state.
        if stored.is_none() {
            user.id.clone_into(&mut self.user_id);
            *self = Session {
                session_tag: 0,
                status: String::new(),
                result: String::new(),
                time_start: 0,
                time_end: 0,
                jobs: BTreeMap::new(),
                ..std::mem::take(self)
            };
        }
    }

    fn facets(&self) -> Self {
        let jobs = self.jobs.keys();
        Session {
            description: self.description.clone(),
            status: self.status.clone(),
            result: self.result.clone(),
            jobs: jobs.map(|id| (id.clone(), SessionJob::default())).collect(),
            ..Session::default()
        }
    }

    /// Its members take over a changed schedule or name.
    fn settle<N: Neighbours>(
        &mut self,
        stored: Option<&Self>,
        neighbours: &mut N,
    ) -> Result<bool, N::Error> {
        let is_same = |stored: &Session| {
            (&stored.schedule, &stored.description) == (&self.schedule, &self.description)
        };
        if stored.is_none_or(is_same) {
            return Ok(false);
        }
        for mut job in self.members(neighbours)? {
            self.lead(&mut job);
            neighbours.write(job)?;
        }
        Ok(false)
    }

    /// Its members leave it.
    fn depart<N: Neighbours>(&self, neighbours: &mut N) -> Result<(), N::Error> {
        for mut job in self.members(neighbours)? {
            release(&mut job);
            neighbours.write(job)?;
        }
        Ok(())
    }

    fn check(&self, violations: &mut Violations) {
        check_session(self, Self::KIND.field, violations);
    }
}

impl Session {
    /// The member jobs that still say that they are in it.
    fn members<N: Neighbours>(&self, neighbours: &mut N) -> Result<Vec<Job>, N::Error> {
        let mut members = Vec::new();
        for id in self.jobs.keys() {
            let id = ResourceId::parse("session.jobs", id)?;
            let job = neighbours.read::<Job>(&id)?;
            members.extend(job.filter(|job| job.session_id == self.session_id));
        }
        Ok(members)
    }

    /// Gives a job what it shares with its session.
    fn lead(&self, job: &mut Job) {
        self.session_id.clone_into(&mut job.session_id);
        self.description.clone_into(&mut job.session_name);
        let old = job.job_schedule.take().unwrap_or_default();
        let new = self.schedule.clone().unwrap_or_default();
        job.job_schedule = Some(JobSchedule {
            event: old.event,
            status: old.status,
            result: old.result,
            current_pid: old.current_pid,
            time_created: old.time_created,
            time_started: old.time_started,
            time_ended: old.time_ended,
            ..new
        });
    }

    /// Makes a job a member, and gives it what it shares with its session. A job that is a member already stays as it is.
    ///
    /// # Errors
    /// If the session is full.
    pub(crate) fn join(&mut self, job: &mut Job) -> Result<(), Violations> {
        if !self.jobs.contains_key(&job.job_id) {
            if self.jobs.len() >= SESSION_JOBS_MAX {
                return Err(Violations::one(
                    "session_id",
                    format!("has {SESSION_JOBS_MAX} jobs, and may not have more"),
                ));
            }
            let schedule = job.job_schedule.clone().unwrap_or_default();
            let member = SessionJob {
                client_id: job.client_id.clone(),
                status: schedule.status,
                result: schedule.result,
                time_started: schedule.time_started,
                time_ended: schedule.time_ended,
            };
            self.jobs.insert(job.job_id.clone(), member);
            job.session_tag = self.session_tag;
        }
        self.lead(job);
        Ok(())
    }

    /// Takes a job out. Returns whether it was a member.
    pub(crate) fn leave(&mut self, job_id: &str) -> bool {
        let was_in = self.jobs.remove(job_id).is_some();
        if was_in {
            self.aggregate();
        }
        was_in
    }

    /// A member asks whether it may run. `now_s` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// If the job is not a member, or its tag is higher than the session's.
    pub(crate) fn start(
        &mut self,
        job_id: &str,
        current_tag: i64,
        now_s: i64,
    ) -> Result<Answer, Violations> {
        self.check_member(job_id, current_tag)?;
        let hold_off = i64::from(self.hold_off.unwrap_or(HOLD_OFF_DEFAULT_S));
        let has_begun = self.time_start > 0 && now_s.saturating_sub(self.time_start) <= hold_off;
        let answer = match (has_begun, current_tag == self.session_tag) {
            // It joins the run that has just begun.
            (true, false) => Answer::Success,
            (true, true) => Answer::HoldOff,
            (false, false) => Answer::OutOfSync,
            (false, true) => {
                self.session_tag += 1;
                self.time_start = now_s;
                "running".clone_into(&mut self.status);
                self.result.clear();
                Answer::Success
            }
        };
        if answer == Answer::Success
            && let Some(member) = self.jobs.get_mut(job_id)
        {
            "running".clone_into(&mut member.status);
            member.result.clear();
            member.time_started = now_s;
        }
        Ok(answer)
    }

    /// A member reports how its run has ended.
    ///
    /// # Errors
    /// The same as for [`Session::start`].
    pub(crate) fn end(
        &mut self,
        job_id: &str,
        current_tag: i64,
        result: &str,
        now_s: i64,
    ) -> Result<Answer, Violations> {
        self.check_member(job_id, current_tag)?;
        if current_tag < self.session_tag {
            return Ok(Answer::OutOfSync);
        }
        if let Some(member) = self.jobs.get_mut(job_id) {
            "completed".clone_into(&mut member.status);
            result.clone_into(&mut member.result);
            member.time_ended = now_s;
        }
        self.aggregate();
        Ok(Answer::Success)
    }

    /// Sums up a run from what its members report: it is completed once all of them are.
    pub(super) fn aggregate(&mut self) {
        if self.status != "running" || self.jobs.is_empty() {
            return;
        }
        let members = || self.jobs.values();
        if members().any(|member| member.status != "completed") {
            return;
        }
        let have_succeeded = members().all(|member| member.result == "success");
        let result = if have_succeeded { "success" } else { "fail" };
        self.time_end = members()
            .map(|member| member.time_ended)
            .max()
            .unwrap_or(-1);
        "completed".clone_into(&mut self.status);
        result.clone_into(&mut self.result);
    }

    fn check_member(&self, job_id: &str, current_tag: i64) -> Result<(), Violations> {
        let mut violations = Violations::new();
        if !self.jobs.contains_key(job_id) {
            violations.add("job_id", "is not in this session: add it first");
        }
        if !(0..=self.session_tag).contains(&current_tag) {
            violations.add(
                "current_tag",
                format!(
                    "must be 0 to {}, which the session has, not {current_tag}",
                    self.session_tag
                ),
            );
        }
        violations.or(())
    }
}

/// Takes from a job what it got from its session, and asks its client to end that schedule.
pub(crate) fn release(job: &mut Job) {
    job.session_id.clear();
    job.session_name.clear();
    job.session_tag = 0;
    let schedule = job.job_schedule.get_or_insert_default();
    "stop".clone_into(&mut schedule.event);
}

/// Adds everything that is wrong with `session`, at `path` in its request.
fn check_session(session: &Session, path: &str, violations: &mut Violations) {
    rules::id(
        format_args!("{path}.session_id"),
        &session.session_id,
        violations,
    );
    // A missing or contradictory project has been reported already.
    if !session.project_id.is_empty() {
        rules::project_id(
            format_args!("{path}.project_id"),
            &session.project_id,
            violations,
        );
    }
    rules::text(format_args!("{path}.user_id"), &session.user_id, violations);
    rules::required_name(
        format_args!("{path}.description"),
        &session.description,
        DESCRIPTION_BYTES_MAX,
        violations,
    );
    if let Some(schedule) = &session.schedule {
        check_schedule(schedule, &format!("{path}.schedule"), violations);
    }
    rules::not_negative(
        format_args!("{path}.hold_off"),
        session.hold_off.unwrap_or_default(),
        violations,
    );
    rules::not_negative(
        format_args!("{path}.session_tag"),
        session.session_tag,
        violations,
    );
    for (field, value, words) in [
        ("status", &session.status, STATUSES),
        ("result", &session.result, RESULTS),
    ] {
        rules::word(format_args!("{path}.{field}"), value, words, violations);
    }
    for (field, time) in [
        ("time_start", session.time_start),
        ("time_end", session.time_end),
    ] {
        rules::time_s(format_args!("{path}.{field}"), time, violations);
    }
    check_members(&session.jobs, format_args!("{path}.jobs"), violations);
    rules::record_size(format_args!("{path}"), session.encoded_len(), violations);
}

fn check_members(
    jobs: &BTreeMap<String, SessionJob>,
    path: rules::Path<'_>,
    violations: &mut Violations,
) {
    if jobs.len() > SESSION_JOBS_MAX {
        violations.add(
            path.to_string(),
            format!("must be at most {SESSION_JOBS_MAX}, not {}", jobs.len()),
        );
        return;
    }
    for (id, job) in jobs {
        let path = format_args!("{path}[{}]", rules::quoted(id));
        if id.is_empty() {
            violations.add(path.to_string(), "must be a job's id");
        }
        rules::id(path, id, violations);
        rules::client_id(format_args!("{path}.client_id"), &job.client_id, violations);
        rules::word(
            format_args!("{path}.status"),
            &job.status,
            schedule::STATUSES,
            violations,
        );
        rules::word(
            format_args!("{path}.result"),
            &job.result,
            schedule::RESULTS,
            violations,
        );
        for (field, time) in [
            ("time_started", job.time_started),
            ("time_ended", job.time_ended),
        ] {
            rules::time_s(format_args!("{path}.{field}"), time, violations);
        }
    }
}

/// The fields that a filter tests. They are decoded without the rest of a [`Session`]; the tags are the `.proto`'s.
#[derive(Clone, PartialEq, Message)]
struct SessionFacets {
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, tag = "8")]
    status: String,
    #[prost(string, tag = "9")]
    result: String,
    #[prost(btree_map = "string, message", tag = "12")]
    jobs: BTreeMap<String, SessionJob>,
}

impl Filter for SessionFilter {
    fn check(&self, violations: &mut Violations) {
        for (field, value, words) in [
            ("status", &self.status, STATUSES),
            ("result", &self.result, RESULTS),
        ] {
            rules::word(format_args!("filter.{field}"), value, words, violations);
        }
        rules::id(format_args!("filter.job_id"), &self.job_id, violations);
    }

    fn label_selector(&self) -> &'static str {
        ""
    }

    fn client_id(&mut self) -> Option<&mut String> {
        None
    }

    fn names(&self) -> Names<'_> {
        Names::StartingWith(&self.description_prefix)
    }

    fn beyond_names(&self) -> Self {
        SessionFilter {
            description_prefix: String::new(),
            ..self.clone()
        }
    }

    fn matches(&self, record: &[u8]) -> Result<bool, DecodeError> {
        let session = SessionFacets::decode(record)?;
        Ok(session.description.starts_with(&self.description_prefix)
            && wants(&self.status, &session.status)
            && wants(&self.result, &session.result)
            && (self.job_id.is_empty() || session.jobs.contains_key(&self.job_id)))
    }
}
